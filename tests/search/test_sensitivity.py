"""Harm of single cuts against an explicit loop, the monotone fit against its closed form, interpolation, JSON."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from niwaki.search.sensitivity import Sensitivity, descending, label, sensitivity, students
from niwaki.spaces import Candidate, SpaceOptions, carve, derive
from tests.search.fake_space import FakeSpace

MODEL = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
for p in MODEL.parameters():  # large enough weights for answers that differ
    p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
X, Y = torch.randn(96, 6, generator=torch.Generator().manual_seed(1)), torch.arange(96) % 4
SPACE = derive(MODEL, X[:2], SpaceOptions(sparsity=("0.5",)))
BATCHES = [(X[:64], Y[:64]), (X[64:], Y[64:])]


def cut(candidate: Candidate) -> nn.Module:
    """The first units stay, the smaller half of a sparse layer's weights goes."""
    student = carve(MODEL, SPACE, candidate, {g: torch.arange(w) for g, w in candidate.widths.items()})
    for layer in candidate.sparsity:
        weight = student.get_parameter(f"{layer}.weight")
        weight.data[weight.abs() < weight.abs().median()] = 0
    return student


def softened(logits: Tensor) -> np.ndarray:
    z = np.exp(logits.detach().double().numpy() / 4)
    return z / z.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def found() -> Sensitivity:
    return sensitivity(SPACE, cut, BATCHES, choices=None)


def test_every_single_cut_as_the_obvious_loop_finds_it(found: Sensitivity) -> None:
    teacher = softened(MODEL(X))
    true = MODEL(X).log_softmax(1)[torch.arange(96), Y].mean()
    top = SPACE.largest()
    for variable in SPACE.variables:
        for measure, harms in (("kl", found.answers), ("ce", found.labels)):
            raw = []
            for choice in variable.choices:
                if variable.kind == "width":
                    candidate = Candidate({**top.widths, variable.name: int(choice)})
                else:
                    candidate = Candidate(top.widths, sparsity={variable.name: str(choice)})
                logits = cut(candidate)(X)
                kl = 16 * (teacher * np.log(teacher / softened(logits))).sum(1).mean()
                ce = float((true - logits.log_softmax(1)[torch.arange(96), Y].mean()).detach())
                raw.append(kl if measure == "kl" else ce)
            expected = np.append(np.maximum(pooled(raw[:-1]), 0), 0)
            assert harms[label(variable)] == pytest.approx(expected, abs=1e-5)
    assert {v.kind for v in SPACE.variables} == {"width", "sparsity"}


def pooled(values: list[float]) -> list[float]:
    """The closed form: the smallest over beginnings of the largest mean up to an end (Robertson et al., eq. 1.4)."""
    y = np.asarray(values)
    n = len(y)
    return [min(max(y[a : b + 1].mean() for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


@given(st.lists(st.floats(-10, 10), max_size=12))
def test_the_monotone_fit_is_the_closed_form(values: list[float]) -> None:
    fit = descending(values)
    assert fit == pytest.approx(pooled(values), abs=1e-9)
    assert (np.diff(fit) <= 1e-12).all()


def test_never_negative_never_rising_nothing_at_the_largest(found: Sensitivity) -> None:
    for harms in (found.answers, found.labels):
        assert list(harms) == [label(v) for v in SPACE.variables]
        for variable in SPACE.variables:
            values = harms[label(variable)]
            assert len(values) == len(variable.choices)
            assert values[-1] == 0
            assert all(a >= b >= 0 for a, b in itertools.pairwise(values))
    assert max(v[0] for v in found.answers.values()) > 0.01, "otherwise there is nothing to see here"


class Fixed(nn.Module):
    """Answers two classes with the same odds for every image."""

    def __init__(self, odds: float) -> None:
        super().__init__()
        self.odds = odds

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[self.odds, 0.0]]).expand(len(x), 2)


def test_only_some_choices_are_judged_and_the_others_lie_between() -> None:
    """Harm that falls exponentially with the share kept comes back exactly; both ends are always judged."""
    space = FakeSpace(stages=1, blocks=2, units=64, sparse=0, choices=15)
    calls: list[Candidate] = []

    def untrained(candidate: Candidate) -> nn.Module:
        calls.append(candidate)
        width = candidate.widths["s0.b0"]
        return Fixed(0.0 if width == 64 else 4 * math.exp(-width / 20))

    batches = [(torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64))]
    whole = sensitivity(space, untrained, batches, choices=None)
    assert whole.judged == len(calls) == 1 + 14 + 14 + 1
    calls.clear()
    told: list[tuple[int, int]] = []
    some = sensitivity(space, untrained, batches, choices=4, progress=lambda *at: told.append(at))
    assert some.judged == len(calls) == students(space) == 1 + 4 + 4 + 1
    assert told == [(i, 9) for i in range(1, 10)]
    assert some.images == 8
    widths = [c.widths["s0.b0"] for c in calls[1:5]]
    assert widths[0] == space.widths["s0.b0"][0]
    assert widths[-1] == space.widths["s0.b0"][-2]
    a, b = np.array(whole.answers["width:s0.b0"]), np.array(some.answers["width:s0.b0"])
    assert b == pytest.approx(a, rel=0.05)
    judged = [space.widths["s0.b0"].index(w) for w in widths]
    assert b[judged] == pytest.approx(a[judged])
    assert some.answers["width:s0.b1"] == (0.0,) * 14 + (0.0,)


def test_answers_that_are_no_numbers_count_as_hopeless() -> None:
    space = FakeSpace(stages=1, blocks=2, units=8, sparse=0, choices=3)
    batches = [(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))]

    def untrained(candidate: Candidate) -> nn.Module:
        return Fixed(float("nan") if candidate.widths["s0.b0"] == 2 else 1.0)

    found = sensitivity(space, untrained, batches)
    assert found.answers["width:s0.b0"] == (1000.0, 0.0, 0.0)
    json.dumps(found.to_json(), allow_nan=False)


def test_json_both_ways_and_worth_is_minus_the_sum(found: Sensitivity, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(found.to_json()))
    assert Sensitivity.from_json(json.loads((tmp_path / "s.json").read_text())) == found
    rng = np.random.default_rng(0)
    rows = rng.integers(0, [len(v.choices) for v in SPACE.variables], (20, len(SPACE.variables)))
    expected = [-sum(found.answers[label(v)][i] for v, i in zip(SPACE.variables, row, strict=True)) for row in rows]
    assert found.worth(SPACE)(rows) == pytest.approx(expected)
    by_labels = [-sum(found.labels[label(v)][i] for v, i in zip(SPACE.variables, row, strict=True)) for row in rows]
    assert found.worth(SPACE, "labels")(rows) == pytest.approx(by_labels)
