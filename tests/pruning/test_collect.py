from __future__ import annotations

import pytest
import torch
from torch import nn

from niwaki.pruning import Needs, collect
from niwaki.spaces.errors import InputError

GRADIENTS = Needs(gradients=True)


def test_weights_only_looks_at_no_batch(net, space):
    def poison():
        raise AssertionError("iterated")
        yield

    stats = collect(net, space, Needs(), poison())
    assert stats.taylor == {}
    assert stats.examples == 0
    state = net.state_dict()
    assert set(stats.tensors) == {k for k, v in state.items() if v.is_floating_point()}
    assert all(torch.equal(t, state[k]) for k, t in stats.tensors.items())


def test_tensors_are_float32(net, space):
    stats = collect(net.bfloat16(), space, Needs())
    assert {t.dtype for t in stats.tensors.values()} == {torch.float32}


def test_examples_are_counted_and_empty_batches_are_skipped(net, space, hand):
    empty = (torch.empty(0, 2, 8, 8), torch.empty(0, dtype=torch.int64))
    stats = collect(net, space, GRADIENTS, [empty, *hand.batches(10, 4)])
    assert stats.examples == 10
    assert set(stats.taylor) == {g.name for g in space.groups}


@pytest.mark.parametrize("key", ["block.conv2.weight", "bn.running_var"])
def test_weights_that_are_not_finite_are_refused(net, space, key):
    net.state_dict()[key].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=f"teacher: {key} holds NaN"):
        collect(net, space, Needs())


def test_a_space_of_another_model_is_refused(space):
    with pytest.raises(InputError, match=r"group conv: the model has no tensor 'conv\.weight'"):
        collect(nn.Linear(3, 2), space, Needs())


@pytest.mark.parametrize(("change", "message"), [
    (lambda _x, _y: [], "no examples"),
    (lambda x, y: [(x, y + 1)], r"expected 6 labels from 0 to 2, got 6 from 1 to 3"),
    (lambda x, y: [(x, y - 1)], r"expected 6 labels from 0 to 2, got 6 from -1 to 1"),
    (lambda x, y: [(x, y), (x, y[:3])], r"examples 6 to 11: expected 6 labels from 0 to 2, got 3"),
    (lambda x, y: [(x * float("nan"), y)], "examples 0 to 5: the teacher's loss is nan"),
])
def test_bad_batches_are_refused_with_their_place(net, space, change, message):
    x, y = torch.randn(6, 2, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    with pytest.raises(InputError, match=message):
        collect(net, space, GRADIENTS, change(x, y))


def test_a_model_that_does_not_answer_logits_is_refused(hand):
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(InputError, match=r"expected logits \(4, classes\), the model returned tuple"):
        collect(Pair(3, 2), hand.Space(()), GRADIENTS, [(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))])
