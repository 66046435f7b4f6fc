from __future__ import annotations

import subprocess
import sys

import torch

from niwaki.pruning import Stats, score_groups
from niwaki.pruning.criteria.random import Random
from niwaki.spaces.types import Group


def score(seed=0, name="conv", units=200):
    return Random(seed).score(Group(name, units, (units,), ()), Stats({}))


def test_ignores_the_teacher(net, space, hand):
    before = score_groups(net, space, Random())
    after = score_groups(hand.trained(hand.ResNet(), seed=8), space, Random())
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_seeds_and_groups_differ():
    assert not torch.equal(score(0), score(1))
    assert not torch.equal(score(0, "a"), score(0, "b"))
    assert abs(torch.corrcoef(torch.stack([score(0, "a"), score(0, "b")]))[0, 1]) < 0.3


def test_uniform():
    values = score(units=4000)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.03


def test_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    score()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_in_another_process():
    code = (
        "from niwaki.pruning import Stats; from niwaki.pruning.criteria.random import Random\n"
        "from niwaki.spaces.types import Group\n"
        "print(Random(5).score(Group('layer1.0', 3, (3,), ()), Stats({})).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(score(5, "layer1.0", 3).tolist())
