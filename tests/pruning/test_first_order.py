"""The truth is recomputed with a gate per example and unit on what every consumer reads: |dLoss/dgate| at gate 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from niwaki.pruning import Needs, collect
from niwaki.spaces.types import Slice, Tap

GRADIENTS = Needs(gradients=True)


def truth(forward, batches, units):
    """Mean over examples of |dLoss_i / dgate_iu|; ``forward(x, gate)`` multiplies what consumers read."""
    changes = []
    for x, y in batches:
        gate = torch.ones(len(x), units, dtype=x.dtype, requires_grad=True)
        F.cross_entropy(forward(x, gate), y, reduction="sum").backward()
        changes.append(gate.grad)
    return torch.cat(changes).double(), torch.cat(changes).abs().double().mean(0)


def gated(x, gate):
    return x * gate.view(*gate.shape, *[1] * (x.ndim - 2))


def stream_forward(net):
    def forward(x, gate):
        stem = net.bn(net.conv(x)).relu()
        block = net.block
        branch = block.bn2(block.conv2(block.bn1(block.conv1(gated(stem, gate))).relu()))
        out = (branch + stem).relu()
        return net.fc2(net.fc1(net.pool(gated(out, gate))).relu())
    return forward


def inner_forward(net):
    def forward(x, gate):
        stem = net.bn(net.conv(x)).relu()
        block = net.block
        out = (block.bn2(block.conv2(gated(block.bn1(block.conv1(stem)).relu(), gate))) + stem).relu()
        return net.fc2(net.fc1(net.pool(out)).relu())
    return forward


def last_forward(net):
    def forward(x, gate):
        return net.fc2(gated(net.fc1(net.pool(net.block(net.bn(net.conv(x)).relu()))).relu(), gate))
    return forward


@pytest.mark.parametrize(("name", "forward"), [
    ("conv", stream_forward), ("block.conv1", inner_forward), ("fc1", last_forward)])
def test_chains_and_a_residual_stream(net, space, hand, name, forward):
    found = collect(net, space, GRADIENTS, hand.batches()).taylor[name]
    signed, expected = truth(forward(net.eval()), hand.batches(), space.group(name).units)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(found, signed.mean(0).abs(), rtol=0.05), "absolute value per example, not of the mean"


def test_it_is_the_derivative_of_a_real_removal(net, space, hand):
    """Scale the unit by 1 - eps wherever it is read: the measured change over eps tends to the score."""
    net, data = net.double().eval(), [(x.double(), y) for x, y in hand.batches()]
    found = collect(net, space, GRADIENTS, data).taylor["conv"]
    forward, eps = stream_forward(net), 1e-6
    for unit in range(6):
        change = []
        for x, y in data:
            gate = torch.ones(len(x), 6, dtype=x.dtype)
            full = F.cross_entropy(forward(x, gate), y, reduction="none")
            gate[:, unit] -= eps
            change.append((F.cross_entropy(forward(x, gate), y, reduction="none") - full) / eps)
        torch.testing.assert_close(torch.cat(change).abs().mean(), found[unit], rtol=1e-4, atol=1e-8)


def test_before_relu_and_after_relu_give_the_same_product(hand):
    net = hand.trained(nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Flatten(),
                                     nn.Linear(180, 3)))
    reads = Slice("4.weight", 1, "consumes", hand.rows(5, 36))
    found = [collect(net, hand.Space((hand.group("0", 5, (reads,), tapped),)), GRADIENTS, hand.batches()).taylor["0"]
             for tapped in (("1",), ("2",), ("0", "1"), ("1", "2"))]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-8)
    conv = collect(net, hand.Space((hand.group("0", 5, (reads,), ("0",)),)), GRADIENTS, hand.batches()).taylor["0"]
    assert not torch.allclose(conv, found[0], rtol=0.05), "before the BatchNorm its shift is missing"


class Inverted(nn.Module):
    """expand, depthwise, project."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(2, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.bn2 = nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6)
        self.project, self.head = nn.Conv2d(6, 4, 1), nn.Linear(4, 3)

    def forward(self, x, gate=None):
        hidden = self.bn2(self.depthwise(self.bn1(self.expand(x)).relu_())).relu_()
        hidden = hidden if gate is None else gated(hidden, gate)
        return self.head(self.project(hidden).relu().mean((2, 3)))


class PreActivation(nn.Module):
    """A stream that is only read through BatchNorms of the readers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn1, self.bn2 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.inner, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x, gate=None):
        stream = self.conv(x)
        read = self.bn1(stream).relu_()
        stream = stream + self.inner(read if gate is None else gated(read, gate)).relu()
        read = self.bn2(stream).relu_().mean((2, 3))
        return self.head(read if gate is None else gated(read, gate))


@pytest.mark.parametrize(("model", "modules", "carriers", "readers"), [
    (Inverted, ("expand", "bn1", "depthwise", "bn2"), (), ("project",)),
    (Inverted, ("bn1",), ("bn1", "depthwise", "bn2"), ("project",)),
    (PreActivation, ("conv", "bn1", "inner", "bn2"), (), ("inner", "head")),
    (PreActivation, ("conv", "inner"), ("bn1", "bn2"), ("inner", "head")),
])
def test_the_taps_nearest_to_the_consumers_count(hand, model, modules, carriers, readers):
    """Tapped by the group, or known to it as carriers only."""
    net = hand.trained(model()).eval()
    slices = (*(Slice(f"{r}.weight", 1, "consumes", hand.rows(6)) for r in readers),
              *(Slice(f"{c}.weight", 0, "carries", hand.rows(6)) for c in carriers))
    space = hand.Space((hand.group("g", 6, slices, modules),))
    found = collect(net, space, GRADIENTS, hand.batches()).taylor["g"]
    _, expected = truth(net, hand.batches(), 6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_without_a_consumer_the_walk_starts_at_the_loss(hand):
    net = hand.trained(nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(),
                                     nn.Linear(180, 3)))
    reads = Slice("4.weight", 1, "consumes", hand.rows(5, 36))
    with_consumer, without = (
        collect(net, hand.Space((hand.group("0", 5, slices, ("0", "1")),)), GRADIENTS, hand.batches()).taylor["0"]
        for slices in ((reads,), ()))
    assert torch.equal(with_consumer, without)


@pytest.mark.parametrize("size", [1, 5, 24])
def test_batching_does_not_matter(net, space, hand, size):
    reference = collect(net, space, GRADIENTS, hand.batches(24, 7)).taylor
    found = collect(net, space, GRADIENTS, hand.batches(24, size)).taylor
    for name, change in reference.items():
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-7)


def test_a_frozen_teacher_gives_the_same(net, space, hand):
    reference = collect(net, space, GRADIENTS, hand.batches()).taylor
    with torch.no_grad():
        found = collect(net.requires_grad_(False), space, GRADIENTS, hand.batches()).taylor
    assert all(torch.equal(found[k], reference[k]) for k in reference)


class Tokens(nn.Module):
    """(B, 2, 8, 8) -> tokens (B, 4, 32) -> hidden, optionally with windows folded into the batch."""

    def __init__(self, windows: int = 1) -> None:
        super().__init__()
        self.windows, self.up, self.down = windows, nn.Linear(32, 6), nn.Linear(6, 3)

    def forward(self, x, gate=None):
        tokens = x.reshape(len(x), 4, 32).reshape(len(x) * self.windows, -1, 32)
        hidden = self.up(tokens).relu().reshape(len(x), 4, 6)
        hidden = hidden if gate is None else hidden * gate[:, None]
        return self.down(hidden).mean(1)


@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("dim", [2, -1])
def test_units_along_the_last_dimension_and_folded_windows(hand, windows, dim):
    net = hand.trained(Tokens(windows)).eval()
    two_by_three = torch.arange(6).reshape(3, 2)  # units of two channels each
    group = hand.group("up", 3, (Slice("down.weight", 1, "consumes", two_by_three),), ())
    group = type(group)(group.name, 3, (3,), group.slices, (Tap("up", dim, two_by_three),))
    found = collect(net, hand.Space((group,)), GRADIENTS, hand.batches()).taylor["up"]
    signed, _ = truth(net, hand.batches(), 6)
    torch.testing.assert_close(found, signed.reshape(-1, 3, 2).sum(2).abs().mean(0), rtol=1e-4, atol=1e-7)


def test_a_module_that_runs_twice_contributes_twice(hand):
    class Twice(Tokens):
        def forward(self, x, gate=None):
            halves = x.reshape(len(x), 4, 32).chunk(2, 1)
            hidden = torch.cat([self.up(h) for h in halves], 1).relu()
            return self.down(hidden if gate is None else hidden * gate[:, None]).mean(1)

    net = hand.trained(Twice()).eval()
    group = hand.group("up", 6, (Slice("down.weight", 1, "consumes", hand.rows(6)),), ())
    group = type(group)(group.name, 6, (6,), group.slices, (Tap("up", 2, hand.rows(6)),))
    found = collect(net, hand.Space((group,)), GRADIENTS, hand.batches()).taylor["up"]
    torch.testing.assert_close(found, truth(net, hand.batches(), 6)[1], rtol=1e-4, atol=1e-7)


def test_a_tap_that_did_not_run_leaves_its_group_out(net, space, hand):
    net.unused = nn.Linear(2, 2)
    extra = hand.group("unused", 2, (), ("unused",))
    stats = collect(net, hand.Space((*space.groups, extra)), GRADIENTS, hand.batches())
    assert set(stats.taylor) == {g.name for g in space.groups}
