from __future__ import annotations

import torch

from niwaki.pruning import score_groups
from niwaki.pruning.criteria.bn_scale import BNScale
from niwaki.pruning.criteria.l2 import L2


def test_mean_of_the_absolute_scales_on_the_path(net, space):
    scores = score_groups(net, space, BNScale())
    stream = (net.bn.weight.abs() + net.block.bn2.weight.abs()).detach().double() / 2
    torch.testing.assert_close(scores["conv"], stream)
    torch.testing.assert_close(scores["block.conv1"], net.block.bn1.weight.detach().abs().double())


def test_a_group_without_batchnorm_is_scored_as_by_l2(net, space):
    assert torch.equal(score_groups(net, space, BNScale())["fc1"], score_groups(net, space, L2())["fc1"])


def test_weights_of_layers_do_not_matter_where_there_is_a_batchnorm(net, space):
    before = score_groups(net, space, BNScale())["conv"]
    with torch.no_grad():
        net.conv.weight.normal_()
        net.bn.bias.normal_()
    assert torch.equal(score_groups(net, space, BNScale())["conv"], before)
