"""Language models, recurrent nets, U-Nets, super-resolution, ties, several inputs: everything section 8 asks for."""

from __future__ import annotations

import copy
import io
import pickle
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, Kept, Space, axes, carve, count, derive
from niwaki.spaces.cut import Cut
from niwaki.spaces.keeps_class import keeps_class
from niwaki.spaces.mask import mask
from niwaki.spaces.source import SourceModule
from tests.spaces.reference import draw, relative
from tests.zoo_more import MORE, build_more

NAMES = list(MORE)
Case = tuple[nn.Module, tuple[Tensor, ...], Space]


@cache
def case(name: str) -> Case:
    model, x = build_more(name)
    return model, x, derive(model, x)


def flat(value: object) -> Tensor:
    """All tensors of a nested output in one row."""
    return torch.cat([t.flatten() for t in torch.utils._pytree.tree_leaves(value)])


def run(model: nn.Module, x: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return flat(model(*x))


def batch(x: tuple[Tensor, ...], n: int) -> tuple[Tensor, ...]:
    return tuple(t[:1].repeat(n, *[1] * (t.dim() - 1)) for t in x)


def share(model: nn.Module, space: Space) -> float:
    """Of all parameters, how many lie in a tensor that some group cuts."""
    cut = set(space.plan.atoms.values())
    sizes = {k: p.numel() for k, p in model.named_parameters()}
    found = [k for k in sizes if any(a in cut for d in space.plan.analysis.tensors[k] for a in axes.leaves(d))]
    return sum(sizes[k] for k in found) / sum(sizes.values())


@pytest.mark.parametrize("name", NAMES)
def test_largest_is_the_teacher(name: str) -> None:
    model, x, space = case(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    truth = run(model, x)
    largest = carve(model, space, space.largest()).eval()
    assert torch.equal(run(largest, x), truth)
    everything = {g.name: torch.arange(g.units) for g in space.groups}
    assert torch.equal(run(Cut(model, space, space.largest(), everything).as_source().eval(), x), truth)
    assert space.cost(space.largest()) == count(model, x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_carved_is_masked(name: str) -> None:
    """Uneven random widths and units, random depth; both routes; other batch sizes; exact costs."""
    model, x, space = case(name)
    for seed in range(4):
        candidate, kept = draw(space, seed)
        student = carve(model, space, candidate, kept).eval()
        truth = mask(model, space, candidate, kept).eval()
        assert relative(run(student, x), run(truth, x)) < 1e-9
        source = Cut(model, space, candidate, kept).as_source().eval()
        for n in (1, 3):
            assert relative(run(source, batch(x, n)), run(truth, batch(x, n))) < 1e-9
        assert space.cost(candidate) == count(student, x)


EXACT = ("super_resolution", "glu", "einsum", "two_inputs", "statistics", "channel_shuffle", "products")


@pytest.mark.parametrize("name", EXACT)
def test_carved_is_the_teacher_with_zeros(name: str) -> None:
    """A reference that knows no graph: the teacher with zeros wherever a tensor of its state holds a removed unit."""
    model, x, space = case(name)
    assert all(g.exact for g in space.groups)
    for seed in range(3):
        candidate, kept = draw(space, seed, depth=False)
        student = carve(model, space, candidate, kept).eval()
        assert relative(run(student, x), run(silenced(model, space, kept), x)) < 1e-9


def silenced(model: nn.Module, space: Space, kept: Kept) -> nn.Module:
    full = copy.deepcopy(model)
    state = full.state_dict()
    for group in space.groups:
        gone = torch.ones(group.units, dtype=torch.bool)
        gone[kept[group.name]] = False
        for s in group.slices:
            state[s.tensor].index_fill_(s.dim, s.index[gone].flatten(), 0.0)
    return full


def gpt(head_width: int) -> dict[str, int]:
    """The width of the embedding; per layer the key heads (each with two query heads), the width that queries share
    with keys (pairs of positions where they are rotated), that of the values, the hidden width of the MLP."""
    layer = {"attention.q#0": 4, "attention.q#2": head_width, "attention.v": 8, "gate": 20}
    return {"tokens": 16} | {f"layers.{i}.{name}": units for i in range(2) for name, units in layer.items()}


TEXT = {"tokens": 8, "net": 10}
UNET = {"d1.0#0": 4, "d2.0#0": 4, "mid.0#0": 4, "mid.0#1": 4, "up2": 12, "u2.0#0": 4, "up1": 8, "u1.0#0": 4}
GROUPS: dict[str, tuple[dict[str, int], float]] = {
    "gpt_rotary": (gpt(4), 1.0),
    "gpt_expand": (gpt(4), 1.0),
    "gpt_learned": (gpt(8), 1.0),
    "unet": (UNET, 0.999),  # GroupNorm: its groups, and their width where that is at least four
    "super_resolution": ({"down.0": 6, "down.2": 8, "body.0.0": 10, "body.1.0": 10, "up.0": 6}, 0.996),
    "lstm": (TEXT, 0.995),
    "lstm_both_ways": (TEXT, 0.999),
    "gru": (TEXT, 0.994),
    "gru_deep": (TEXT, 0.997),
    "rnn": (TEXT, 0.989),
    "tied": ({"tokens": 12}, 0.957),
    "glu": ({"a": 8, "b": 10}, 0.997),
    "einsum": ({"q#0": 4, "q#1": 6, "v": 6, "out": 12}, 0.997),
    "two_inputs": ({"image.0": 8, "numbers": 8, "join": 12}, 0.991),
    "statistics": ({"stem": 10}, 0.97),
    "channel_shuffle": ({"a.0#0": 4, "a.0#1": 4, "b.0": 4}, 0.993),
    "products": ({"weight": 10, "a": 8}, 0.987),
}


@pytest.mark.parametrize("name", NAMES)
def test_groups_and_coverage(name: str) -> None:
    model, _, space = case(name)
    groups, least = GROUPS[name]
    assert {g.name: g.units for g in space.groups} == groups
    assert share(model, space) >= least


@pytest.mark.parametrize("name", NAMES)
def test_student_is_an_ordinary_module(name: str) -> None:
    model, x, space = case(name)
    candidate, kept = draw(space, 5)
    for student in {type(s): s for s in _routes(Cut(model, space, candidate, kept))}.values():
        expected = run(student.eval(), x)
        stream = io.BytesIO()
        torch.save(student.state_dict(), stream)
        stream.seek(0)
        other = copy.deepcopy(student)
        for p in other.parameters():
            nn.init.zeros_(p)
        assert not torch.equal(run(other, x), expected)
        other.load_state_dict(torch.load(stream, weights_only=True))
        for twin in (copy.deepcopy(student), pickle.loads(pickle.dumps(student)), other):
            assert relative(run(twin.eval(), x), expected) < 1e-12
        assert set(student.state_dict()) <= set(model.state_dict())
        _trains(student, x)


def _routes(cut: Cut) -> list[nn.Module]:
    routes: list[nn.Module] = [cut.as_source()]
    if keeps_class(cut.model, cut.space, cut.candidate.skipped):
        routes.append(cut.as_class())
    return routes


def _trains(student: nn.Module, x: tuple[Tensor, ...]) -> None:
    """One step of SGD in train mode moves every parameter that got a gradient, and the outputs with them."""
    before = run(student.eval(), x)
    student.train()
    old = {k: p.detach().clone() for k, p in student.named_parameters()}
    flat(student(*x)).square().sum().backward()
    moved = [k for k, p in student.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-9]
    torch.optim.SGD(student.parameters(), lr=0.05).step()
    assert moved
    assert all(not torch.equal(old[k], p) for k, p in student.named_parameters() if k in moved)
    assert torch.is_grad_enabled()
    assert not torch.equal(run(student.eval(), x), before)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "gru_deep"])
def test_train_mode(name: str) -> None:
    """Without dropout the carved model and the masked one agree in train mode, in outputs and in buffers."""
    model, x, space = case(name)
    if "train" not in space.plan.programs:
        pytest.skip("not traced in train mode")
    candidate, kept = draw(space, 3)
    student = carve(model, space, candidate, kept).train()
    truth = mask(model, space, candidate, kept).train()
    for _ in range(2):  # the second run reads the statistics the first one left
        assert relative(run(student, x), run(truth, x)) < 1e-9
    assert relative(run(student.eval(), x), run(truth.eval(), x)) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_deriving_again_from_a_student(name: str) -> None:
    model, x, space = case(name)
    half = space.uniform(0.5)
    student = carve(model, space, half)
    again = derive(student, x)
    assert sorted(g.units for g in again.groups) == sorted(w for w in half.widths.values() if w >= 4)
    candidate, kept = draw(again, 1)
    smaller = carve(student, again, candidate, kept).eval()
    assert relative(run(smaller, x), run(mask(student, again, candidate, kept).eval(), x)) < 1e-9


@pytest.mark.parametrize("name", ["tied", "gpt_rotary", "gpt_learned"])
def test_ties_survive(name: str) -> None:
    """Two names, one tensor: one set of dimensions, counted once, still one tensor in the student."""
    model, x, space = case(name)
    tensors = space.plan.analysis.tensors
    assert tensors["tokens.weight"] is tensors["head.weight"]
    candidate, kept = draw(space, 2, depth=False)
    for student in _routes(Cut(model, space, candidate, kept)):
        state = student.state_dict(keep_vars=True)
        assert state["tokens.weight"] is state["head.weight"]
        assert count(student, x).params == sum(p.numel() for p in student.parameters())
        assert space.cost(candidate).params == count(student, x).params


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_a_removed_hidden_unit_is_out_of_the_recurrence(name: str) -> None:
    """By hand: the teacher whose removed units nobody hears, neither the next step nor the classifier."""
    model, x, space = case(name)
    hidden = next(g for g in space.groups if g.units == 10)
    assert not hidden.exact
    widths, kept = space.largest().widths, {g.name: torch.arange(g.units) for g in space.groups}
    kept[hidden.name] = torch.tensor([0, 3, 4, 8])
    student = carve(model, space, Candidate({**widths, hidden.name: 4}), kept).eval()
    deaf = copy.deepcopy(model)
    gone = [i for i in range(10) if i not in (0, 3, 4, 8)]
    with torch.no_grad():
        deaf.net.weight_hh_l0[:, gone] = 0  # type: ignore[union-attr,operator,index]
        deaf.fc.weight[:, gone] = 0  # type: ignore[union-attr,operator,index]
    assert relative(run(student, x), run(deaf, x)) < 1e-12


class States(nn.Module):
    """The initial state comes from outside, the state is projected, both states are read."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(5, 12)
        self.net, self.fc = nn.LSTM(6, 12, proj_size=7, batch_first=True), nn.Linear(19, 3)
        self.shrink = nn.Linear(12, 7)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        c = self.start(first)
        _, (h, c) = self.net(x, (self.shrink(c)[None], c[None]))
        return self.fc(torch.cat((h[0], c[0]), -1))


class Cells(nn.Module):
    """Single steps in a loop; the initial states are new tensors of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.LSTMCell(6, 8), nn.GRUCell(8, 7), nn.RNNCell(7, 6, bias=False)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        h, c = x.new_zeros(x.shape[0], self.a.hidden_size), x.new_ones(x.shape[0], self.a.hidden_size)
        g, r = torch.zeros(x.shape[0], self.b.hidden_size, dtype=x.dtype), None
        for t in range(x.shape[1]):
            h, c = self.a(x[:, t], (h, c))
            g = self.b(h, g)
            r = self.c(g, r)
        return self.fc(r) + first.sum()


@pytest.mark.parametrize(("make", "groups"), [(States, [7, 12]), (Cells, [6, 7, 8])])
def test_states_projections_and_single_steps(make: type[nn.Module], groups: list[int]) -> None:
    torch.manual_seed(0)
    model, x = make().double().eval(), (torch.randn(2, 4, 6).double(), torch.randn(2, 5).double())
    space = derive(model, x)
    assert sorted(g.units for g in space.groups) == groups
    for seed in range(4):
        candidate, kept = draw(space, seed)
        student = carve(model, space, candidate, kept).eval()
        assert isinstance(student, make)
        assert relative(run(student, x), run(mask(model, space, candidate, kept), x)) < 1e-9
        assert space.cost(candidate) == count(student, x)


class Rotations(nn.Module):
    """Rotations whose tables are computed on the way from a buffer of frequencies; positions by an embedding."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 12), nn.Embedding(9, 12)
        self.q, self.k, self.v, self.out = nn.Linear(12, 32), nn.Linear(12, 32), nn.Linear(12, 32), nn.Linear(32, 12)
        self.register_buffer("frequencies", 10.0 ** -torch.linspace(0, 1, 4), persistent=False)

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(x.shape[-2], dtype=self.frequencies.dtype), self.frequencies)
        angle, half = torch.cat((angle, angle), -1), x.shape[-1] // 2
        return x * angle.cos() + torch.cat((-x[..., half:], x[..., :half]), -1) * angle.sin()

    def forward(self, ids: Tensor) -> Tensor:
        b, t = ids.shape
        x = self.tokens(ids) + self.places(torch.arange(t))
        q, k, v = (f(x).view(b, t, 4, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(self.rotated(q), self.rotated(k), v, is_causal=True)
        return (x + self.out(y.transpose(1, 2).reshape(b, t, 32))) @ self.tokens.weight.t()


def test_rotations_computed_on_the_way() -> None:
    torch.manual_seed(0)
    model, x = Rotations().double().eval(), (torch.randint(0, 20, (2, 6)),)
    space = derive(model, x)
    assert [g.units for g in space.groups] == [12, 4, 4, 8]  # width, heads, pairs of rotated places, width of values
    for seed in range(3):
        candidate, kept = draw(space, seed, depth=False)
        student = carve(model, space, candidate, kept).eval()
        assert relative(run(student, x), run(mask(model, space, candidate, kept), x)) < 1e-9
        assert space.cost(candidate) == count(student, x)
        pairs = next(len(k) for n, k in kept.items() if n == space.groups[2].name)
        assert student.get_buffer("frequencies").shape == (pairs,)


class Einsum(nn.Module):
    """One einsum of three computed tensors (or of a computed one and two parameters)."""

    def __init__(self, equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.equation, self.stem = equation, nn.Linear(3, shapes[0][-1])
        self.others = nn.ParameterList([nn.Parameter(torch.randn(s)) for s in shapes[1:]])
        out = torch.einsum(equation, *[torch.zeros(s) for s in shapes])
        self.head = nn.Linear(out.shape[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.einsum(self.equation, self.stem(x), *self.others))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("btd,dh->bth", ((2, 5, 6), (6, 7))),
        ("b t d , d h", ((2, 5, 6), (6, 7))),
        ("...d,dh->...h", ((2, 5, 6), (6, 7))),
        ("...d,d->...d", ((2, 5, 6), (6,))),
        ("btd,hd,hc->btc", ((2, 5, 6), (7, 6), (7, 8))),
        ("btd,dhe,hec->btc", ((2, 5, 6), (6, 4, 5), (4, 5, 8))),
        ("btd,xd->btx", ((2, 5, 6), (1, 6))),
        ("btd,dhz->bth", ((2, 5, 6), (6, 7, 3))),
    ],
)
def test_einsum(equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    torch.manual_seed(0)
    model, x = Einsum(equation, shapes).double().eval(), (torch.randn(2, 5, 3).double(),)
    space = derive(model, x)
    assert space.groups
    for seed in range(5):
        candidate, kept = draw(space, seed)
        student = carve(model, space, candidate, kept).eval()
        assert relative(run(student, x), run(silenced(model, space, kept), x)) < 1e-9
        assert space.cost(candidate) == count(student, x)


def test_a_diagonal_is_pinned_and_said() -> None:
    class Diagonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.einsum("btt->bt", self.stem(x)))

    space = derive(Diagonal(), torch.randn(2, 5, 3))
    assert not space.groups
    assert "diagonal" in {f.name: f.reason for f in space.fixed}["stem"]


class Copies(nn.Module):
    """repeat, tile and repeat_interleave over units, batch and places; new tensors whose sizes follow a width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(12, 8), nn.Linear(16, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.token.repeat(x.shape[0], 1, 1), self.a(x)), 1)
        x = torch.tanh(x.repeat(1, 2, 1))
        x = self.b(x.tile(2)) + x.new_full((6,), 0.5).repeat_interleave(2, 0)[:8] * 0 + torch.ones(8, dtype=x.dtype)
        return self.c(x.repeat_interleave(2, dim=-1))


def test_copies() -> None:
    torch.manual_seed(0)
    model, x = Copies().double().eval(), (torch.randn(2, 3, 4).double(),)
    space = derive(model, x)
    assert any(g.name == "a" and g.units == 6 for g in space.groups)
    for seed in range(4):
        candidate, kept = draw(space, seed)
        student = carve(model, space, candidate, kept).eval()
        assert relative(run(student, x), run(silenced(model, space, kept), x)) < 1e-9
        assert space.cost(candidate) == count(student, x)
        assert run(student, batch(x, 3)).shape[0] == 3 * 8 * 3


class Bags(nn.Module):
    """EmbeddingBag, and a part that runs under autocast and without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.fc = nn.EmbeddingBag(11, 6, mode="sum"), nn.Linear(6, 2)
        self.frozen = nn.Linear(6, 6)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.bag(ids)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            gate = torch.sigmoid(self.frozen(x))
        return self.fc(x * gate)


def test_regions_become_plain_operations() -> None:
    torch.manual_seed(0)
    model, x = Bags().double().eval(), (torch.randint(0, 11, (2, 4)),)
    space = derive(model, x)
    assert {g.units for g in space.groups} == {6}
    candidate, kept = draw(space, 1)
    student = Cut(model, space, candidate, kept).as_source().eval()
    assert relative(run(student, x), run(mask(model, space, candidate, kept), x)) < 1e-9
    student(*x).sum().backward()
    assert student.get_parameter("frozen.weight").grad is None
    assert student.get_parameter("fc.weight").grad is not None


def test_a_buffer_that_follows_is_updated_in_place() -> None:
    model, x, space = case("statistics")
    student = Cut(model, space, Candidate({"stem": 4}), {"stem": torch.tensor([1, 2, 5, 9])}).as_source().train()
    before = student.get_buffer("mean").clone()
    run(student, x)
    assert student.get_buffer("mean").shape == (4,)
    assert not torch.equal(student.get_buffer("mean"), before)
    assert student.get_buffer("scale").shape == (1, 4)
    assert "scale" not in student.state_dict()


def test_which_classes_survive() -> None:
    survivors = {n for n in NAMES if not isinstance(carve(*case(n)[::2], case(n)[2].uniform(0.5)), SourceModule)}
    assert survivors >= {"super_resolution", "tied", "glu", "einsum", "two_inputs", "statistics"}
