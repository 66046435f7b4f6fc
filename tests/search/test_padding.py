"""As many groups are padded as can be; the others are named with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from niwaki.search.export import ExportError
from niwaki.search.padding import pad_student, read_pad
from niwaki.spaces import Candidate, InputError, carve, derive


class Net(nn.Module):
    """Four hidden layers: one harmless, one normalised, one divided by a parameter, one whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.norm, self.scale = nn.LayerNorm(12), nn.Parameter(torch.rand(12) + 0.5)
        self.d, self.e = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.b(torch.relu(self.a(x))))
        return self.e(torch.relu(self.d(torch.relu(self.c(x)) / self.scale)))


def test_the_others_are_padded_all_the_same() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 6)
    space = derive(model, x)
    candidate = Candidate({"a": 5, "b": 6, "c": 7, "d": 8})
    kept = {g.name: torch.arange(candidate.widths[g.name]) for g in space.groups}
    student = carve(model, space, candidate, kept)
    found = pad_student(model, student, space, candidate, kept, 4)
    assert found.widths == {"a": (5, 8)}
    assert found.candidate.widths == {**candidate.widths, "a": 8}
    assert found.refused.keys() == {"b", "c"}
    assert "normaliser" in found.refused["b"]
    assert "outputs" in found.refused["c"]
    torch.testing.assert_close(found.model(x), student(x))
    by_group = pad_student(model, student, space, candidate, kept, {"d": 5})
    assert (by_group.widths, by_group.refused) == ({"d": (8, 10)}, {})
    alone = pad_student(model, student, space, candidate, kept, {"c": 4})
    assert (alone.model, alone.widths, alone.refused.keys()) == (student, {}, {"c"})


def test_ties_hold() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 6)
    space = derive(model, x, tie=[["a", "c"]])
    candidate = Candidate({"a": 5, "b": 6, "c": 5, "d": 8})
    kept = {g.name: torch.arange(candidate.widths[g.name]) for g in space.groups}
    found = pad_student(model, carve(model, space, candidate, kept), space, candidate, kept, 4)
    assert found.widths == {}
    assert found.refused.keys() == {"a", "b", "c"}


def test_a_broken_student_is_an_export_error() -> None:
    model, x = Net().eval(), torch.randn(2, 6)
    space = derive(model, x)
    candidate = Candidate({"a": 5, "b": 6, "c": 7, "d": 8})
    kept = {g.name: torch.arange(candidate.widths[g.name]) for g in space.groups}
    student = carve(model, space, candidate, kept)
    with torch.no_grad():
        student.get_parameter("e.bias").fill_(float("inf"))
    with pytest.raises(ExportError, match="not finite"):
        pad_student(model, student, space, candidate, kept, 4)


@pytest.mark.parametrize(("text", "expected"), [("16", 16), (8, 8), ("auto", "auto"), ("1", 1)])
def test_what_a_user_may_ask_for(text: str | int, expected: int | str) -> None:
    assert read_pad(text) == expected


@pytest.mark.parametrize("text", ["0", 0, -4, "x", "1.5", True, "²", "AUTO"])
def test_anything_else_is_named(text: str | int) -> None:
    with pytest.raises(InputError, match="such as 16, or auto"):
        read_pad(text)
