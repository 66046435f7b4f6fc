"""The search network, over many kinds of models, against the masked model and against features computed by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

from niwaki.distill import build as build_teacher
from niwaki.search.tas.interpolate import interpolate
from niwaki.search.tas.network import SearchNet
from niwaki.search.tas.sampling import Draw, Pair
from niwaki.search.threads import torch_threads
from niwaki.spaces import InputError, Space, derive, mask
from tests import torchvision_small, zoo, zoo_more

MODELS = (
    "chain", "residual_b", "preactivation", "dense", "inverted", "grouped", "shuffle", "twice", "einsum", "gpt_learned",
    "vit",
)  # fmt: skip


def build(name: str) -> tuple[nn.Module, Any]:
    if name in zoo.SMALL:
        return zoo.build(name)
    return zoo_more.build_more(name) if name in zoo_more.MORE else torchvision_small.build(name)


def sure(space: Space, row: list[int], generator: torch.Generator) -> Draw:
    """A draw that is certain of a candidate; the other width of each pair is smaller, of weight zero."""
    widths, depths = {}, {}
    for v, i in zip(space.variables, row, strict=True):
        if v.kind == "width" and len(v.choices) > 1:
            other = int(torch.randint(i, (), generator=generator))
            widths[v.name] = Pair(other, i, torch.tensor([0.0, 1.0]))
        elif v.kind == "depth":
            depths[v.name] = F.one_hot(torch.tensor(i), len(v.choices)).float()
    return Draw(widths, depths)


@pytest.mark.parametrize("name", MODELS)
def test_a_certain_draw_is_the_masked_model(name: str) -> None:
    model, inputs = build(name)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    space, generator = derive(model, inputs), torch.Generator().manual_seed(0)
    net = SearchNet(model, space)
    assert {m.variable for mixes in net.mixes.values() for m in mixes} == {n for n, _ in net.decided.values()}
    model.train()
    for _ in range(3):
        row = [max(int(torch.randint(len(v.choices), (), generator=generator)),
                   int(v.kind == "width" and len(v.choices) > 1)) for v in space.variables]  # fmt: skip
        candidate = space.decode(row)
        kept = {g.name: torch.arange(candidate.widths[g.name]) for g in space.groups}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)  # of dropout
            expected = pytree.tree_leaves(mask(copy.deepcopy(model), space, candidate, kept)(*args))
            torch.manual_seed(1)
            found = pytree.tree_leaves(net(sure(space, row, generator), *args))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4 if a.dtype == torch.float32 else 1e-9, atol=1e-5)


def test_one_layer_by_hand() -> None:
    """conv - BN - ReLU - conv: the first width interpolated, both weighed, zeros beyond, a BatchNorm for each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    space = derive(model, x)
    net, choices = SearchNet(model, space), space.widths["0"]
    first, second = choices.index(5) if 5 in choices else 1, len(choices) - 2
    for key, table in net.affines.items():
        with torch.no_grad():
            table.copy_(torch.randn(table.shape, dtype=torch.float64))
        assert table.shape == (len(choices), 8), key
    found = net(Draw({"0": Pair(first, second, torch.tensor([0.3, 0.7], dtype=torch.float64))}, {}), x)
    feature = model[0](x)
    normal = (feature - feature.mean((0, 2, 3), keepdim=True)) / (
        feature.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    top, mixed = choices[second], torch.zeros(4, 8, 4, 4, dtype=torch.float64)
    for choice, weight in ((first, 0.3), (second, 0.7)):
        c = choices[choice]
        gain, bias = net.affines["1.weight"][choice, :c], net.affines["1.bias"][choice, :c]
        mixed[:, :top] += weight * interpolate(normal[:, :c] * gain.view(-1, 1, 1) + bias.view(-1, 1, 1), 1, top)
    torch.testing.assert_close(found, model[3](mixed.relu()))


def test_stage_output_is_the_sum_over_depths() -> None:
    """The feature after k blocks, each weighed by q_k; the blocks inside see features that nobody weighed."""
    torch.manual_seed(0)
    model = build_teacher("small_cnn", 10, {"width": 8, "blocks": 3}).double().train()
    x = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    space = derive(model, x)
    full = {v.name: Pair(0, len(v.choices) - 1, torch.tensor([0.0, 1.0])) for v in space.variables if v.kind == "width"}
    depths = {v.name: torch.rand(len(v.choices), dtype=torch.float64).softmax(0)
              for v in space.variables if v.kind == "depth"}  # fmt: skip
    found = SearchNet(model, space)(Draw(full, depths), x)
    y = x
    for stage, choices in ((s, [int(c) for c in next(v for v in space.variables if v.name == s).choices])
                           for s in ("stage1", "stage2", "stage3")):  # fmt: skip
        blocks = model.get_submodule(stage)
        features = [blocks[0](y)]
        for block in blocks[1:]:
            features.append(block(features[-1]))
        y = sum(q * features[k] for q, k in zip(depths[stage], choices, strict=True))
    torch.testing.assert_close(found, model.head(y.mean((2, 3))))


def test_branches_in_turns_are_scaled_by_the_chance_that_they_stay() -> None:
    model, x = build("vit")
    space = derive(model, x)
    net = SearchNet(model, space)
    assert [line.between for line in net.lines] == [None, None]
    assert all(line.between is not None for line in SearchNet(*_small()).lines)


@cache
def _small() -> tuple[nn.Module, Space]:
    model = build_teacher("small_cnn", 10, {"width": 8})
    return model, derive(model, torch.zeros(2, 1, 8, 8))


def test_units_are_sorted_and_the_teacher_stays_as_it_was() -> None:
    """With all units kept their order makes no difference; the first ones are those with the best scores."""
    model, space = _small()
    before = copy.deepcopy(model.state_dict())
    scores = {g.name: torch.rand(g.units) for g in space.groups}
    plain, ordered = SearchNet(model, space), SearchNet(model, space, scores)
    x = torch.randn(4, 1, 8, 8)
    row = [len(v.choices) - 1 for v in space.variables]
    whole = sure(space, row, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain(whole, x), ordered(whole, x), atol=1e-5, rtol=1e-4)
    best = int(scores["stage1.1.conv1"].argmax())
    stream = scores["stage1.0.0"].argsort(descending=True)
    expected = before["stage1.1.conv1.weight"][best][stream]
    assert torch.equal(ordered.state["stage1.1.conv1.weight"][0].detach(), expected)
    ordered(whole, x).sum().backward()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_every_weight_learns_and_logits_get_gradients_through_the_network() -> None:
    model, space = _small()
    net = SearchNet(model, space)
    weights = torch.tensor([0.5, 0.5], requires_grad=True)
    draw = Draw({v.name: Pair(1, len(v.choices) - 1, weights) for v in space.variables if v.kind == "width"},
                {v.name: torch.full((len(v.choices),), 1 / len(v.choices)) for v in space.variables
                 if v.kind == "depth"})  # fmt: skip
    loss = F.cross_entropy(net(draw, torch.randn(6, 1, 8, 8)), torch.arange(6))
    grads = torch.autograd.grad(loss, [weights, *net.parameters()])
    assert all(isinstance(g, Tensor) and bool((g != 0).any()) for g in grads)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small steps on a busy machine wait for their second thread much longer than they work."""
    with torch_threads(1):
        yield


class Refuses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x).mean((2, 3))
        return self.head(y if float(y.sum()) > 0 else y * 2)


def test_a_model_that_is_not_traced_whole_is_refused() -> None:
    model = Refuses()
    space = derive(model, torch.randn(2, 3, 8, 8))
    with pytest.raises(InputError, match="'tas' needs a model"):
        SearchNet(model, space)
