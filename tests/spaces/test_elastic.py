"""One set of weights: every candidate computes, learns and calibrates as the module that carving makes of it."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from niwaki.spaces import Candidate, Elastic, InputError, Space, carve, derive, elastic
from niwaki.spaces.elastic_code import cut_view, put_back
from niwaki.spaces.places import Cut
from tests import torchvision_small, zoo, zoo_more
from tests.spaces.reference import draw, masked, relative
from tests.spaces.test_parts import Detector

NAMES = (
    "residual_a", "residual_b", "preactivation", "dense", "branches", "inverted", "grouped", "multiplier", "shuffle",
    "twice", "gate", "volume", "zeros", "chain", "gpt_rotary", "gpt_learned", "unet", "lstm", "gru_deep", "tied",
    "glu", "two_inputs", "statistics", "channel_shuffle", "vit", "swin",
)  # fmt: skip
"""gpt, unet, vit, swin: groups that pass LayerNorm, RMSNorm, GroupNorm; tied: one tensor by two names; twice: one layer
called twice; chain, gru_deep: dropout; swin: stochastic depth; two_inputs: a dictionary with a tuple comes out."""
Case = tuple[nn.Module, tuple[Tensor, ...], Space, Elastic]


@cache
def case(name: str) -> Case:
    """The elastic model is shared by tests: what they do to it, they undo (they work on deep copies)."""
    model: nn.Module
    x: Any
    if name in zoo_more.MORE:
        model, x = zoo_more.build_more(name)
    else:
        model, x = (zoo if name in zoo.SMALL else torchvision_small).build(name)
    x = x if isinstance(x, tuple) else (x,)
    space = derive(model.eval(), x)
    return model, x, space, Elastic(model, space, scores(space))


def scores(space: Space) -> dict[str, Tensor]:
    """With many equal ones."""
    g = torch.Generator().manual_seed(7)
    return {k.name: torch.randint(0, 5, (k.units,), generator=g).double() for k in space.groups}


def flat(value: object) -> Tensor:
    return torch.cat([t.flatten() for t in torch.utils._pytree.tree_leaves(value)])


def run(model: nn.Module, x: tuple[Tensor, ...], seed: int = 0) -> Tensor:
    """Of the same random numbers (dropout, stochastic depth)."""
    torch.manual_seed(seed)
    return flat(model(*x))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def numbered(model: nn.Module) -> nn.Module:
    """A twin whose tensors hold the positions of their own elements: carved, it tells which ones were kept."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for t in [*twin.parameters(), *twin.buffers()]:
            if t.is_floating_point():
                t.copy_(torch.arange(t.numel()).view(t.shape))
    return twin


def candidate_of(space: Space, seed: int, on_offer: bool) -> Candidate:
    return space.sample(torch.Generator().manual_seed(seed)) if on_offer else draw(space, seed)[0]


@pytest.mark.parametrize("name", NAMES)
def test_largest_is_the_teacher(name: str) -> None:
    model, x, _, shared = case(name)
    with torch.no_grad():
        assert relative(run(shared, x), run(model, x)) < 1e-12
    assert same(shared.state_dict(), dict(model.state_dict()))
    assert [k for k, _ in shared.named_parameters()] == [k for k, _ in model.named_parameters()]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31), on_offer=st.booleans())
def test_runs_trains_and_updates_as_carved(name: str, seed: int, on_offer: bool) -> None:
    """Eval outputs; train outputs under the same draws; gradients and statistics in their places, zero elsewhere."""
    model, x, space, whole = case(name)
    before = snapshot(model)
    candidate = candidate_of(space, seed, on_offer)
    shared = copy.deepcopy(whole)
    shared.switch(candidate)
    kept = shared.kept(candidate)
    student = carve(model, space, candidate, kept).eval()
    with torch.no_grad():
        assert relative(run(shared, x), run(student, x)) < 1e-9
        assert relative(run(shared.student(candidate), x), run(student, x)) < 1e-9
    twin = carve(numbered(model), space, candidate, kept)
    places: dict[str, Tensor] = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    a, b = run(shared.train(), x), run(student.train(), x)
    assert relative(a.detach(), b.detach()) < 1e-9
    weights = torch.linspace(-1, 1, len(a), dtype=a.dtype)
    for out in (a, b):
        (out * weights).sum().backward()
    gradients = dict(student.named_parameters())
    for key, p in shared.named_parameters():
        expected = torch.zeros_like(p)
        if key in gradients and (g := gradients[key].grad) is not None:
            expected.view(-1)[places[key].long().flatten()] = g.flatten()
        found = torch.zeros_like(p) if p.grad is None else p.grad
        assert (found - expected).abs().max() <= 1e-9 * max(1.0, float(expected.abs().max())), key
    after, old = dict(student.named_buffers()), dict(model.named_buffers())
    for key, buffer in shared.named_buffers():
        if key in after and key in old and buffer.is_floating_point():
            truth = old[key].clone()
            truth.view(-1)[places[key].long().flatten()] = after[key].flatten()
            assert torch.allclose(buffer, truth, rtol=1e-9, atol=1e-12), key
        else:
            assert torch.equal(buffer, after[key] if key in after else old[key]), key
    with torch.no_grad():
        assert relative(run(shared.eval(), x), run(student.eval(), x)) < 1e-9
    assert same(before, dict(model.state_dict()))


@pytest.mark.parametrize("name", ["residual_a", "residual_b", "dense", "inverted", "shuffle", "multiplier"])
def test_deaf_teacher(name: str) -> None:
    """A reference without any cut: the teacher itself, deaf to the units left out, its blocks silent."""
    model, x, space, whole = case(name)
    shared = copy.deepcopy(whole)
    for seed in range(4):
        candidate = draw(space, seed)[0]
        shared.switch(candidate)
        with torch.no_grad():
            assert relative(run(shared, x), run(masked(model, space, candidate, shared.kept(candidate)), x)) < 1e-9


def test_the_best_are_kept_and_nested() -> None:
    """By sorting pairs, score first, then the lower index; without scores the first units."""
    model, _, space, shared = case("inverted")
    given_scores = scores(space)
    for seed in range(5):
        candidate = draw(space, seed)[0]
        for name, index in shared.kept(candidate).items():
            ranked = sorted(range(len(given_scores[name])), key=lambda u: (-given_scores[name][u], u))
            assert index.tolist() == sorted(ranked[: candidate.widths[name]])
    plain, half = Elastic(model, space), space.uniform(0.5)
    assert all(k.tolist() == list(range(half.widths[n])) for n, k in plain.kept(half).items())


@pytest.mark.parametrize("name", ["residual_a", "dense", "gpt_rotary", "unet"])
def test_switching_leaves_no_trace(name: str) -> None:
    _, x, space, whole = case(name)
    shared = copy.deepcopy(whole)
    candidates = [draw(space, seed)[0] for seed in range(4)]
    first, state = [], snapshot(shared)
    with torch.no_grad():
        for c in candidates:
            shared.switch(c)
            first.append(run(shared, x))
            assert shared.candidate == c
        for c, truth in reversed(list(zip(candidates, first, strict=True))):
            shared.switch(space.smallest())
            run(shared, x)
            shared.switch(c)
            assert torch.equal(run(shared, x), truth)
    assert same(state, dict(shared.state_dict()))


@pytest.mark.parametrize("name", ["residual_a", "shuffle", "unet"])
def test_other_batch_sizes(name: str) -> None:
    model, x, space, whole = case(name)
    shared, candidate = copy.deepcopy(whole), draw(space, 3)[0]
    shared.switch(candidate)
    student = carve(model, space, candidate, shared.kept(candidate)).eval()
    for n in (1, 5):
        batch = tuple(t[:1].repeat(n, *[1] * (t.dim() - 1)) for t in x)
        with torch.no_grad():
            assert relative(run(shared, batch), run(student, batch)) < 1e-9


@pytest.mark.parametrize("name", ["residual_b", "gpt_learned"])
def test_gradients_of_several_candidates_add_up(name: str) -> None:
    """The sandwich rule: forward passes of three candidates, one backward pass."""
    _, x, space, whole = case(name)
    candidates = [space.largest(), space.smallest(), draw(space, 1)[0]]
    together, losses, alone = copy.deepcopy(whole).train(), [], []
    for c in candidates:
        together.switch(c)
        losses.append(run(together, x).square().sum())
        one = copy.deepcopy(whole).train()
        one.switch(c)
        run(one, x).square().sum().backward()
        alone.append(dict(one.named_parameters()))
    torch.stack(losses).sum().backward()
    for key, p in together.named_parameters():
        parts = [m[key].grad for m in alone]
        expected = torch.stack([g for g in parts if g is not None]).sum(0)
        assert p.grad is not None
        assert relative(p.grad, expected) < 1e-9, key


def test_what_is_trained_goes_back_into_the_teacher() -> None:
    model, x, space, whole = case("residual_b")
    before, shared = snapshot(model), copy.deepcopy(whole).train()
    optimiser = torch.optim.SGD(shared.parameters(), lr=0.05)
    for c in (space.largest(), space.smallest(), draw(space, 5)[0]):
        shared.switch(c)
        optimiser.zero_grad()
        run(shared, x).square().sum().backward()
        optimiser.step()
    trained = copy.deepcopy(model)
    trained.load_state_dict(shared.state_dict())
    shared.eval().switch(space.largest())
    with torch.no_grad():
        assert relative(run(shared, x), run(trained, x)) < 1e-12
        for seed in range(3):
            c = draw(space, seed)[0]
            shared.switch(c)
            student = shared.student(c)
            assert relative(run(shared, x), run(student, x)) < 1e-9
            assert relative(run(student, x), run(carve(trained, space, c, shared.kept(c)), x)) < 1e-12
    student.requires_grad_(True)
    with torch.no_grad():
        for p in student.parameters():
            p.zero_()
    assert same(shared.state_dict(), dict(trained.state_dict()))
    assert same(before, dict(model.state_dict()))


class Again(nn.Module):
    """One BatchNorm called twice, dropout between, one normaliser without running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.body = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.loose, self.fc = nn.BatchNorm2d(8, track_running_stats=False), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.body(torch.dropout(torch.relu(self.norm(self.stem(x))), 0.5, self.training)))
        return self.fc(self.loose(x).mean((2, 3)))


def calibrated(student: nn.Module, batches: list[tuple[Tensor, ...]]) -> nn.Module:
    """What PyTorch computes: BatchNorms in train mode with a cumulative average, all else in eval mode."""
    student.eval()
    norms = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    with torch.no_grad():
        for batch in batches:
            student(*batch)
    return student.eval()


@pytest.mark.parametrize("name", ["residual_b", "dense", "inverted", "chain", "volume", "two_inputs", "again"])
def test_recalibrates_as_the_carved_model(name: str) -> None:
    if name == "again":
        torch.manual_seed(0)
        model, x = zoo.randomise(Again()).double(), (torch.randn(2, 3, 6, 6, dtype=torch.float64),)
        space = derive(model, x)
        shared = Elastic(model, space)
    else:
        model, x, space, whole = case(name)
        shared = copy.deepcopy(whole)
    g = torch.Generator().manual_seed(1)
    batches = [tuple(torch.randn(6, *t.shape[1:], generator=g, dtype=t.dtype) for t in x) for _ in range(3)]
    state = snapshot(shared)
    for seed in range(3):
        candidate = draw(space, seed, depth=name == "residual_b")[0]
        shared.switch(candidate)
        student = calibrated(carve(model, space, candidate, shared.kept(candidate)), batches)
        with torch.no_grad():
            old = run(shared, x)
        shared.recalibrate(b if len(b) > 1 else b[0] for b in batches)
        with torch.no_grad():
            assert relative(run(shared, x), run(student, x)) < 1e-9
            assert relative(run(shared, x), old) > 1e-6
            own = shared.student(candidate)
            assert relative(run(own, x), run(shared, x)) < 1e-9
            assert relative(run(copy.deepcopy(shared), x), run(student, x)) < 1e-9
            shared.switch(candidate)  # its own statistics are gone, the shared ones are as they were
            assert torch.equal(run(shared, x), old)
    assert same(state, dict(shared.state_dict()))
    assert not shared.training


def test_batches_weigh_by_their_size() -> None:
    """By hand: one BatchNorm behind one convolution, its statistics computed from the convolution's output."""
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 2)).double().eval()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    space = derive(net, x)
    shared, half = Elastic(net, space), space.uniform(0.5)
    shared.switch(half)
    batches = [torch.randn(n, 3, 2, 2, dtype=torch.float64) for n in (2, 7, 4)]
    shared.recalibrate(batches)
    with torch.no_grad():
        made = [net[0](b)[:, :4].transpose(0, 1).flatten(1) for b in batches]
    sizes = torch.tensor([2.0, 7, 4], dtype=torch.float64) / 13
    norm = shared.student(half)[1]  # type: ignore[index]
    assert torch.allclose(norm.running_mean, torch.stack([m.mean(1) for m in made], 1) @ sizes)
    assert torch.allclose(norm.running_var, torch.stack([m.var(1) for m in made], 1) @ sizes)


def test_recalibrating_without_sense_is_said() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    shared = Elastic(net.eval(), derive(net, torch.zeros(2, 3)))
    with pytest.raises(InputError, match="no batches"):
        shared.recalibrate([])
    with pytest.raises(InputError, match=r"1\.running_var is not finite"):
        shared.recalibrate([torch.randn(1, 3)])
    assert bool(shared(torch.randn(2, 3)).isfinite().all())


def test_types_devices_and_copies() -> None:
    """Tables follow the parameters; a copy learns and switches on its own."""
    _, x, space, whole = case("dense")
    candidate = draw(space, 2)[0]
    shared = copy.deepcopy(whole)
    shared.switch(candidate)
    shared.recalibrate([torch.randn(4, 3, 8, 8, dtype=torch.float64)])
    with torch.no_grad():
        truth = run(shared, x)
        twin = copy.deepcopy(shared)
        twin.switch(space.smallest())
        for p in twin.parameters():
            p.zero_()
        assert torch.equal(run(shared, x), truth)
        assert relative(run(copy.deepcopy(shared).float(), (x[0].float(),)).double(), truth) < 1e-5
        assert shared.to("meta")(x[0].to("meta")).shape == (2, 5)


def test_few_sources_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "_CODES", 2)
    model, x, space, whole = case("residual_a")
    shared = Elastic(model, space)
    candidates = [draw(space, seed)[0] for seed in range(6)]
    assert len({c.skipped for c in candidates}) > 3
    for c in candidates * 2:
        shared.switch(c)
        with torch.no_grad():
            assert relative(run(shared, x), run(carve(model, space, c, shared.kept(c)).eval(), x)) < 1e-9
    assert len(shared._codes) == 2
    assert len(whole._codes) != 2


class Slices(nn.Module):
    """Bounds in the middle of units: how many of those before stay depends on which ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        return self.head(torch.cat((x[:, 5:], x[:, :5]), 1))


def test_slices() -> None:
    torch.manual_seed(0)
    model, x = Slices().double(), torch.randn(2, 3, dtype=torch.float64)
    space = derive(model, x)
    shared = Elastic(model, space, scores(space))
    for seed in range(6):
        candidate = draw(space, seed)[0]
        shared.switch(candidate)
        kept = shared.kept(candidate)
        deaf = copy.deepcopy(model)
        with torch.no_grad():
            for group in space.groups:
                gone = [u for u in range(group.units) if u not in kept[group.name]]
                for s in group.slices:
                    if s.side == "consumes":
                        deaf.head.weight[:, s.index[gone].flatten()] = 0
            assert relative(shared(x), deaf(x)) < 1e-9


@given(st.lists(st.sampled_from(["whole", "run", "places"]), min_size=0, max_size=3), st.integers(0, 1000))
def test_parts_go_back_to_their_places(kinds: list[str], seed: int) -> None:
    """What is cut out is what numpy's open mesh picks; put back doubled, just these elements have doubled."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(4, 7, len(kinds))
    value = torch.from_numpy(rng.random(tuple(shape)))
    cuts: list[tuple[int, Cut]] = []
    mesh = [np.arange(n) for n in shape]
    for d, kind in enumerate(kinds):
        if kind == "run":
            mesh[d] = mesh[d][1:3]
            cuts.append((d, (1, 2)))
        elif kind == "places":
            mesh[d] = np.array([0, 3])
            cuts.append((d, torch.tensor([0, 3])))
    truth = value.numpy().copy()
    part = cut_view(value, tuple(cuts))
    assert np.array_equal(part.numpy(), truth[np.ix_(*mesh)] if kinds else truth)
    put_back(value, part * 2, tuple(cuts))
    truth[np.ix_(*mesh) if kinds else ...] *= 2
    assert np.array_equal(value.numpy(), truth)


class Names(nn.Module):
    """Children that are called as methods of the elastic model are."""

    def __init__(self) -> None:
        super().__init__()
        self.switch, self.kept, self.student = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(torch.relu(self.kept(torch.relu(self.switch(x)))))


def test_any_names() -> None:
    model, x = Names(), torch.randn(2, 3)
    space = derive(model, x)
    shared, candidate = Elastic(model, space), space.uniform(0.4)
    shared.switch(candidate)
    assert list(shared.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        assert relative(shared(x), carve(model, space, candidate)(x)) < 1e-5
        assert relative(shared(x), shared.student(candidate)(x)) < 1e-5


def test_the_source_shows_its_tables() -> None:
    shared = case("grouped")[3]
    assert "self.s[0]" in shared.source()
    assert "self.t0" in shared.source()


def test_wrong_choices_are_named() -> None:
    model, _, space, whole = case("residual_b")
    shared, good = copy.deepcopy(whole), space.largest()
    name = space.groups[0].name
    with pytest.raises(InputError, match=f"{name}.*has 8 units, asked for 9"):
        shared.switch(Candidate({**good.widths, name: 9}))
    with pytest.raises(InputError, match="nope"):
        shared.switch(Candidate({**good.widths, "nope": 1}))
    with pytest.raises(InputError, match="must keep 1"):
        shared.switch(Candidate(good.widths, frozenset(space.stages["layer1"])))
    assert shared.candidate == good
    right = scores(space)
    with pytest.raises(InputError, match=f"scores: group '{name}' has none"):
        Elastic(model, space, {k: v for k, v in right.items() if k != name})
    for wrong in (torch.zeros(3), torch.full((8,), float("nan"))):
        with pytest.raises(InputError, match="expected 8 finite values"):
            Elastic(model, space, {**right, name: wrong})


def test_detectors_are_refused() -> None:
    model, x = Detector().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(InputError, match="takes only its parts"):
        Elastic(model, derive(model, x))


def test_eval_alone_where_train_mode_cannot_be_traced() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    x = torch.randn(4, 3, 4, 4)
    space = derive(net, x)
    shared, half = Elastic(net, space), space.uniform(0.5)
    shared.switch(half)
    shared.recalibrate([x])
    with torch.no_grad():
        assert relative(shared(x), calibrated(carve(net, space, half), [(x,)])(x)) < 1e-5
    with pytest.raises(RuntimeError, match="eval mode only"):
        shared.train()(x)
