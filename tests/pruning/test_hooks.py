from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from niwaki.pruning import Needs, collect
from niwaki.pruning.hooks import Watch, consumers, evaluating
from niwaki.spaces.errors import InputError


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def fingerprint(model):
    return (
        {n: m.training for n, m in model.named_modules()},
        {k: v.clone() for k, v in model.state_dict().items()},
        {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        {n: p.requires_grad for n, p in model.named_parameters()},
        hooks(model),
    )


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture
def mixed(net):
    """Some modules in eval mode, a frozen parameter, a gradient, a hook of the user's own."""
    net.block.bn1.eval()
    net.conv.weight.requires_grad_(False)
    net.fc2.weight.grad = torch.full_like(net.fc2.weight, 3.0)
    net.fc1.register_forward_hook(lambda *_: None)
    return net


def test_the_model_is_left_as_it_was(mixed, space, hand):
    before = fingerprint(mixed)
    collect(mixed, space, Needs(gradients=True), hand.batches())
    assert all(same(a, b) for a, b in zip(before, fingerprint(mixed), strict=True))


def test_also_after_an_exception(mixed, space, hand):
    def broken():
        yield hand.batches()[0]
        raise RuntimeError("disk gone")

    before = fingerprint(mixed)
    with pytest.raises(RuntimeError, match="disk gone"):
        collect(mixed, space, Needs(gradients=True), broken())
    assert all(same(a, b) for a, b in zip(before, fingerprint(mixed), strict=True))


def test_also_when_a_hook_cannot_be_placed(mixed, space, hand):
    before = fingerprint(mixed)
    stray = hand.group("stray", 3, (), ("block.bn3",))
    with pytest.raises(InputError, match=r"no module 'block\.bn3'; did you mean 'block\.bn"):
        collect(mixed, hand.Space((*space.groups, stray)), Needs(gradients=True), hand.batches())
    assert all(same(a, b) for a, b in zip(before, fingerprint(mixed), strict=True))


def test_modes_come_back_when_switching_itself_fails():
    class Stubborn(nn.Module):
        def train(self, mode=True):
            if not mode:
                raise RuntimeError("never")
            return super().train(mode)

    model = nn.Sequential(nn.Dropout(), Stubborn())
    with pytest.raises(RuntimeError, match="never"), evaluating(model):
        pass
    assert [m.training for m in model.modules()] == [True, True, True]


def test_watching_does_not_change_the_output(net, space, hand):
    x, _ = hand.batches()[0]
    net.eval()
    plain = net(x)
    with Watch(net, space.groups) as watch:
        assert torch.equal(net(x), plain)
        assert set(watch.outputs) == {"conv", "bn", "block.conv2", "block.bn2", "block.conv1", "block.bn1", "fc1"}
        assert set(watch.inputs) == {"block.conv1", "fc1", "block.conv2", "fc2"}
    assert not watch.outputs
    assert not watch.inputs


def test_what_was_seen_survives_in_place_operations(net, space, hand):
    x, _ = hand.batches()[0]
    net.eval()
    truth = {}
    module = copy.deepcopy(net.block)
    module.bn2.register_forward_hook(lambda _m, _a, out: truth.update(z=out.detach().clone()))
    with Watch(net, space.groups) as watch:
        net(x)
        module(net.bn(net.conv(x)).relu())
        assert torch.equal(watch.outputs["block.bn2"][0].value, truth["z"])


def test_consumers_are_the_modules_that_read_the_units(space):
    assert consumers(space.group("conv")) == ["block.conv1", "fc1"]
