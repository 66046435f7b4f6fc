"""Padding: the student's outputs and tensors at larger widths, over both zoos."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, InputError, Space, carve, count, derive
from niwaki.spaces.pad import PaddingError, pad, padded_widths, unpaddable
from niwaki.spaces.source import SourceModule
from tests.spaces.reference import draw
from tests.zoo import SMALL, build
from tests.zoo_more import MORE, build_more

Inputs = tuple[Tensor, ...]
VARIANTS = ("gpt_expand", "lstm_both_ways", "gru_deep", "rnn", "gru")
"""Cut in the same way as another one of the zoo."""


class Transformer(nn.Module):
    """Fused attention of three heads without normalisers, and an MLP: heads, head widths and hidden units can go."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(5, 12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.up, self.down, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, -1, 4).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, -1))
        return self.head((x + self.down(nn.functional.gelu(self.up(x)))).mean(1))


@cache
def case(name: str) -> tuple[nn.Module, Inputs, Space]:
    if name == "transformer":
        torch.manual_seed(0)
        model, x = Transformer().double().eval(), (torch.randn(2, 6, 5, dtype=torch.float64),)
    elif name in SMALL:
        model, image = build(name)
        x = (image,)
    else:
        model, x = build_more(name)
    return model, x, derive(model, x, least=2 if name == "transformer" else 4)


def trained(student: nn.Module) -> nn.Module:
    """As after training: every floating tensor away from the teacher's, variances positive."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, value in student.state_dict(keep_vars=True).items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator).to(value)
                value.mul_(0.9 + 0.2 * noise).add_(0.01 * noise)
            elif key.endswith("num_batches_tracked"):
                value.fill_(7)
    return student.eval()


def flat(value: object) -> Tensor:
    return torch.cat([t.flatten() for t in torch.utils._pytree.tree_leaves(value)])


def everything(space: Space, candidate: Candidate, seed: int) -> dict[str, int]:
    """Random larger widths for every group that may grow."""
    generator = torch.Generator().manual_seed(seed)
    stays, found = unpaddable(space, candidate), {}
    for g in space.groups:
        least = candidate.widths[g.name]
        if g.name not in stays:
            found[g.name] = int(torch.randint(min(least + 1, g.units), g.units + 1, (), generator=generator))
    return found


@pytest.mark.parametrize("name", ["transformer", *SMALL, *(n for n in MORE if n not in VARIANTS)])
def test_outputs_are_unchanged(name: str) -> None:
    model, x, space = case(name)
    teacher = {k: v.clone() for k, v in model.state_dict().items()}
    candidate, kept = draw(space, 1)
    student = trained(carve(model, space, candidate, kept))
    before = {k: v.clone() for k, v in student.state_dict().items()}
    widths = everything(space, candidate, 1)
    padded = pad(model, student, space, candidate, kept, widths)
    with torch.no_grad():
        expected, got = flat(student(*x)), flat(padded(*x))
    assert float((expected - got).abs().max() / expected.abs().max()) < 1e-12
    wide = replace(candidate, widths={**candidate.widths, **widths})
    assert space.cost(wide) == count(padded, x)
    assert any(padded.state_dict()[k].numel() > v.numel() for k, v in before.items())
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert not padded.training
    assert all(torch.equal(v, teacher[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["transformer", "residual_a", "shuffle", "inverted", "branches", "lstm", "tied"])
def test_nothing_is_added_but_zeros(name: str) -> None:
    """The student's values are all there once, in order, and the rest is zero (a variance: one)."""
    model, _, space = case(name)
    candidate, kept = draw(space, 3)
    student = trained(carve(model, space, candidate, kept))
    padded = pad(model, student, space, candidate, kept, everything(space, candidate, 3)).state_dict()
    assert padded.keys() == student.state_dict().keys()
    for key, value in student.state_dict().items():
        wide, rest = padded[key], 1.0 if key.endswith("running_var") else 0.0
        assert bool((value != rest).all())
        assert torch.equal(wide[wide != rest], value.flatten())


def test_counters_and_the_mode_are_taken_over() -> None:
    model, _, space = case("residual_b")
    candidate, kept = draw(space, 1, depth=False)
    student = trained(carve(model, space, candidate, kept)).train()
    padded = pad(model, student, space, candidate, kept, everything(space, candidate, 1))
    assert padded.training
    assert type(padded) is type(student)
    assert {int(v) for k, v in padded.state_dict().items() if k.endswith("num_batches_tracked")} == {7}


def test_all_units_of_a_generated_student() -> None:
    """The padded model may be the user's class where the student could not be."""
    model, (x,), space = case("residual_a")
    candidate, kept = draw(space, 2, depth=False)
    student = trained(carve(model, space, candidate, kept))
    padded = pad(model, student, space, candidate, kept, {g.name: g.units for g in space.groups})
    assert isinstance(student, SourceModule)
    assert type(padded) is type(model)
    torch.testing.assert_close(padded(x), student(x), rtol=1e-12, atol=1e-12)


def test_tied_weights_stay_tied() -> None:
    model, _, space = case("tied")
    candidate, kept = draw(space, 0)
    student = trained(carve(model, space, candidate, kept))
    padded = pad(model, student, space, candidate, kept, everything(space, candidate, 0))
    assert padded.get_parameter("head.weight") is padded.get_parameter("tokens.weight")


def wide_net() -> tuple[nn.Module, Space]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 1)).eval()
    return net, derive(net, torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("kept", "step", "expected"),
    [
        ((9, 17), 8, {"0": 16, "2": 24}), ((16, 32), 16, {}), ((17, 3), 16, {"0": 20, "2": 16}),
        ((5, 5), {"2": 4}, {"2": 8}), ((5, 5), 1, {}),
    ],
)
def test_next_multiples(kept: tuple[int, int], step: int | dict[str, int], expected: dict[str, int]) -> None:
    _, space = wide_net()
    assert padded_widths(space, Candidate({"0": kept[0], "2": kept[1]}), step) == expected


def test_groups_of_skipped_blocks_are_left_alone() -> None:
    _, _, space = case("residual_b")
    last = space.stages["layer2"][-1]
    candidate = Candidate({g.name: 3 for g in space.groups}, frozenset({last}))
    names = set(padded_widths(space, candidate, 4))
    assert names == {g.name for g in space.groups if not g.name.startswith(last)}
    assert names < set(space.widths)


def test_normalised_groups_are_not_padded() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    space = derive(net, torch.zeros(2, 6))
    candidate = Candidate({"0": 5, "2": 5})
    assert padded_widths(space, candidate, 4) == {"2": 8}
    with pytest.raises(InputError, match="'0' cannot be padded: a normaliser"):
        pad(net, carve(net, space, candidate), space, candidate, None, {"0": 8})


def test_tied_groups_grow_together_or_not_at_all() -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    space = derive(net, torch.zeros(2, 6), tie=[["0", "2"]])
    assert unpaddable(space, Candidate({"0": 5, "2": 5})).keys() == {"0", "2"}
    assert padded_widths(space, Candidate({"0": 5, "2": 5}), 4) == {}


def test_sparse_layers_keep_their_patterns() -> None:
    """Zeros between the inputs would shift groups of four; more outputs, or ratios, do no harm."""
    net = wide_net()[0]
    space = derive(net, torch.randn(2, 3, 8, 8), sparsity=["0.5", "2:4"])
    tokens = {"2": "2:4", "4": "0.5"}
    candidate = Candidate({"0": 9, "2": 9}, frozenset(), tokens)
    assert padded_widths(space, candidate, 8) == {"2": 16}
    with pytest.raises(InputError, match="2:4 pattern of '2'"):
        pad(net, carve(net, space, candidate), space, candidate, None, {"0": 16})


class Mixed(nn.Module):
    """Units divided by a parameter: of an added one that is 0 / 0."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 8)
        self.scale, self.c = nn.Parameter(torch.rand(8) + 0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))) / self.scale)


def test_what_zeros_would_change_is_refused_by_name() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    space = derive(model, torch.randn(2, 5))
    candidate = Candidate({"a": 3, "b": 3})
    student = carve(model, space, candidate)
    with pytest.raises(PaddingError, match=r"group 'b' cannot be padded") as caught:
        pad(model, student, space, candidate, None, {"a": 4, "b": 4})
    assert caught.value.groups == ("b",)
    assert pad(model, student, space, candidate, None, {"a": 4}).get_parameter("a.weight").shape == (4, 5)


def test_a_student_without_finite_outputs_is_said_to_be_one() -> None:
    net, space = wide_net()
    candidate = Candidate({"0": 9, "2": 9})
    student = carve(net, space, candidate)
    with torch.no_grad():
        student.get_parameter("4.bias").fill_(float("nan"))
    with pytest.raises(PaddingError, match="own outputs are not finite"):
        pad(net, student, space, candidate, None, {"0": 16})


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"00": 16}, "unknown group '00'"), ({"0": 8}, "keeps 9 of 20 units, 8 does not"),
        ({"0": 21}, "keeps 9 of 20 units, 21 does not"),
    ],
)
def test_wrong_widths_are_named(widths: dict[str, int], message: str) -> None:
    net, space = wide_net()
    candidate = Candidate({"0": 9, "2": 9})
    with pytest.raises(InputError, match=message):
        pad(net, carve(net, space, candidate), space, candidate, None, widths)
    with pytest.raises(InputError, match="at least 1"):
        padded_widths(space, candidate, 0)


def test_a_wrong_tensor_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is not decoration: the last bias forgotten, padding is refused."""
    from niwaki.spaces import pad as module

    real = module._spread
    net, space = wide_net()
    candidate = Candidate({"0": 9, "2": 9})
    student = trained(copy.deepcopy(carve(net, space, candidate)))

    def forgetful(key: str, value: Tensor, place: Tensor, cuts: object) -> Tensor:
        return place if key == "4.bias" else real(key, value, place, cuts)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_spread", forgetful)
    with pytest.raises(PaddingError, match="'0', '2' cannot be padded"):
        pad(net, student, space, candidate, None, {"0": 16, "2": 16})
