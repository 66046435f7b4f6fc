"""L1 and L2 share the rule for coupled tensors; here it is recomputed unit by unit."""

from __future__ import annotations

import pytest
import torch

from niwaki.pruning import Stats, score_groups
from niwaki.pruning.criteria.l1 import L1
from niwaki.pruning.criteria.l2 import L2
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Group, Slice

POWERS = [(L1, 1), (L2, 2)]


def by_hand(net, power):
    """The residual stream of the test net: conv filters, conv1 inputs, conv2 filters, fc1 columns by fours."""
    tensors = [
        [net.conv.weight[u] for u in range(6)],
        [net.block.conv1.weight[:, u] for u in range(6)],
        [net.block.conv2.weight[u] for u in range(6)],
        [net.fc1.weight[:, 4 * u : 4 * u + 4] for u in range(6)],
    ]
    total = torch.zeros(6, dtype=torch.float64)
    for units in tensors:
        sums = torch.stack([u.detach().double().abs().pow(power).sum() for u in units])
        total += sums / sums.mean() / len(tensors)
    return total ** (1 / power)


@pytest.mark.parametrize(("criterion", "power"), POWERS)
def test_mean_of_mean_normalised_norms(net, space, criterion, power):
    torch.testing.assert_close(score_groups(net, space, criterion())["conv"], by_hand(net, power))


@pytest.mark.parametrize(("criterion", "power"), POWERS)
def test_a_big_layer_does_not_drown_the_others(net, space, criterion, power):
    before = score_groups(net, space, criterion())
    with torch.no_grad():
        net.fc1.weight.mul_(1000)
    after = score_groups(net, space, criterion())
    for name, score in before.items():
        torch.testing.assert_close(after[name], score)


@pytest.mark.parametrize(("criterion", "power"), POWERS)
def test_sides(net, space, criterion, power):
    producing = score_groups(net, space, criterion(sides=["produces"]))["block.conv1"]
    plain = net.block.conv1.weight.detach().abs().pow(power).flatten(1).sum(1) ** (1 / power)
    assert torch.equal(producing.argsort(), plain.argsort())
    consuming = score_groups(net, space, criterion(sides=("consumes",)))["block.conv1"]
    plain = net.block.conv2.weight.detach().abs().pow(power).sum((0, 2, 3)) ** (1 / power)
    assert torch.equal(consuming.argsort(), plain.argsort())


@pytest.mark.parametrize(("criterion", "power"), POWERS)
def test_depthwise_filters_speak_only_when_asked_or_alone(criterion, power):
    index = torch.arange(2)[:, None]
    maker, filters = Slice("a", 0, "produces", index), Slice("d", 0, "carries", index)
    tensors = {"a": torch.tensor([[1.0], [3.0]]), "d": torch.tensor([[[5.0]], [[1.0]]])}
    both = Group("g", 2, (2,), (maker, filters))
    alone = Group("g", 2, (2,), (filters,))
    assert criterion().score(both, Stats(tensors)).argmax() == 1
    assert criterion(sides=("carries",)).score(both, Stats(tensors)).argmax() == 0
    assert criterion().score(alone, Stats(tensors)).argmax() == 0


@pytest.mark.parametrize(("criterion", "power"), POWERS)
def test_a_tensor_of_zeros_has_no_say(net, space, hand, criterion, power):
    with torch.no_grad():
        net.block.conv2.weight.zero_()
    stream = space.group("conv")
    without = tuple(s for s in stream.slices if s.tensor != "block.conv2.weight")
    fewer = hand.Space((hand.group("conv", 6, without, ()),))
    scores, reference = (score_groups(net, s, criterion())["conv"] for s in (space, fewer))
    torch.testing.assert_close(scores**power * 4 / 3, reference**power)  # 4 tensors share the mean, 3 speak


@pytest.mark.parametrize("criterion", [L1, L2])
@pytest.mark.parametrize("sides", [["makes"], [], "produce"])
def test_sides_that_do_not_exist_are_refused(criterion, sides):
    with pytest.raises(InputError, match=r"criterion l[12]: sides: .*produces"):
        criterion(sides=sides)


def test_huge_weights_do_not_overflow():
    group = Group("g", 2, (2,), (Slice("a", 0, "produces", torch.arange(2)[:, None]),))
    score = L2().score(group, Stats({"a": torch.tensor([[1e30], [3e30]])}))
    torch.testing.assert_close(score, torch.tensor([0.2, 1.8], dtype=torch.float64).sqrt())
