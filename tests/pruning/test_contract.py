"""The contract of every criterion and pattern in the folders: a new file is covered by being there."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from niwaki.pruning import Criterion, Pattern, Stats, collect, score_groups
from niwaki.spaces import registry
from niwaki.spaces.sparsity import Sparsity

CRITERIA, PATTERNS = "niwaki.pruning.criteria", "niwaki.pruning.patterns"
IGNORES_THE_TEACHER = {"random"}  # exempt from equivariance, by what it is


@pytest.fixture(params=registry.names(CRITERIA))
def name(request):
    return request.param


@pytest.fixture
def criterion(name):
    return registry.load(CRITERIA, name)()


def test_the_folders_hold_what_is_promised():
    assert set(registry.names(CRITERIA)) >= {"l1", "l2", "bn_scale", "taylor", "random"}
    assert set(registry.names(PATTERNS)) >= {"unstructured", "n_of_m"}


def test_is_a_frozen_dataclass_with_defaults(criterion):
    assert isinstance(criterion, Criterion)
    assert dataclasses.is_dataclass(criterion)
    assert hash(criterion) == hash(type(criterion)())
    assert pickle.loads(pickle.dumps(criterion)) == criterion
    for field in dataclasses.fields(criterion):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(criterion, field.name, None)
    assert "needs" not in {f.name for f in dataclasses.fields(criterion)}, "needs is not an option"


def test_shape_finite_deterministic_and_telling(criterion, net, space, hand):
    scores = score_groups(net, space, criterion, hand.batches())
    again = score_groups(net, space, criterion, hand.batches())
    assert list(scores) == [g.name for g in space.groups]
    for group in space.groups:
        score = scores[group.name]
        assert score.shape == (group.units,)
        assert score.isfinite().all()
        assert torch.equal(score, again[group.name])
        assert score.unique().numel() == group.units, "a teacher without symmetries has no ties"


def test_independent_of_the_order_of_groups(criterion, net, space, hand):
    forward = score_groups(net, space, criterion, hand.batches())
    backward = score_groups(net, hand.Space(space.groups[::-1]), criterion, hand.batches())
    assert all(torch.equal(forward[k], backward[k]) for k in forward)


@pytest.mark.parametrize("seed", range(3))
def test_equivariant_to_a_permutation_of_the_units(criterion, name, net, space, hand, seed):
    if name in IGNORES_THE_TEACHER:
        pytest.skip("does not look at the teacher; tests/pruning/criteria/test_random.py checks that")
    before = score_groups(net, space, criterion, hand.batches())
    for group in space.groups:
        order = torch.randperm(group.units, generator=torch.Generator().manual_seed(seed))
        other = hand.ResNet()
        other.load_state_dict(hand.permuted(net, group, order))
        x, _ = hand.batches()[0]
        torch.testing.assert_close(other.eval()(x), net.eval()(x), rtol=1e-4, atol=1e-5)
        after = score_groups(other, space, criterion, hand.batches())
        torch.testing.assert_close(after[group.name], before[group.name][order], rtol=1e-3, atol=1e-6)


def test_finite_on_dead_weights(criterion, net, space, hand):
    for tensor in net.parameters():
        torch.nn.init.zeros_(tensor)
    scores = score_groups(net, space, criterion, hand.batches())
    assert all(s.isfinite().all() for s in scores.values())


def test_does_not_change_what_it_is_given(criterion, net, space, hand):
    stats = collect(net, space, criterion.needs, hand.batches())
    before = {k: v.clone() for k, v in (*stats.tensors.items(), *stats.taylor.items())}
    for group in space.groups:
        criterion.score(group, stats)
    assert all(torch.equal(v, before[k]) for k, v in (*stats.tensors.items(), *stats.taylor.items()))


def test_a_group_without_taps_or_weights_still_has_scores(criterion, net, space, hand):
    bare = hand.group("fc1", 7, (), ())
    stats = collect(net, hand.Space((bare,)), criterion.needs, hand.batches())
    score = criterion.score(bare, Stats(stats.tensors))
    assert score.shape == (7,)
    assert score.isfinite().all()


@pytest.mark.parametrize("pattern", registry.names(PATTERNS))
def test_pattern_is_a_frozen_dataclass(pattern):
    built = registry.load(PATTERNS, pattern)()
    assert isinstance(built, Pattern)
    assert hash(built) == hash(type(built)())


@pytest.mark.parametrize("token", ["dense", "0.5", "0.9", "1:2", "2:4", "4:8"])
def test_exactly_one_pattern_accepts_a_token(token):
    accepting = [n for n in registry.names(PATTERNS) if registry.load(PATTERNS, n)().accepts(Sparsity.parse(token))]
    assert len(accepting) == 1
