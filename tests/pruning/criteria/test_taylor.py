from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from niwaki.pruning import Needs, collect, score_groups
from niwaki.pruning.criteria.l2 import L2
from niwaki.pruning.criteria.taylor import Taylor


def test_l2_normalised_per_group(net, space, hand):
    scores = score_groups(net, space, Taylor(), hand.batches())
    raw = score_groups(net, space, Taylor(normalise=False), hand.batches())
    taylor = collect(net, space, Needs(gradients=True), hand.batches()).taylor
    for name, score in scores.items():
        assert score.norm().item() == pytest.approx(1)
        torch.testing.assert_close(raw[name] / raw[name].norm(), score)
        assert torch.equal(raw[name], taylor[name])


def test_a_group_whose_taps_never_ran_is_scored_as_by_l2(net, space, hand):
    untapped = hand.Space(tuple(hand.group(g.name, g.units, g.slices, ()) for g in space.groups))
    scores = score_groups(net, untapped, Taylor(), hand.batches())
    reference = score_groups(net, space, L2())
    assert all(torch.equal(scores[k], reference[k]) for k in scores)


def spearman(a, b):
    ranks = torch.stack([a.argsort().argsort().double(), b.argsort().argsort().double()])
    return torch.corrcoef(ranks)[0, 1].item()


def test_agrees_with_the_oracle_on_a_trained_net(hand):
    """Rank correlation with |loss without the unit - loss|, measured by removing one unit at a time (METHODS 7c)."""
    torch.manual_seed(0)
    net, space = hand.ResNet(12, 12, 12), hand.resnet_space(12, 12, 12)
    x = torch.randn(256, 2, 8, 8)
    y = (x[:, 0, :4].mean((1, 2)) > 0).long() + (x[:, 1, :, 4:].mean((1, 2)) > 0).long()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    scores = score_groups(net, space, Taylor(), [(x, y)])
    net.eval()
    correlations = []
    for group in space.groups:
        with torch.no_grad():
            full = F.cross_entropy(net(x), y, reduction="none")
            oracle = []
            for unit in range(group.units):
                state = {k: v.clone() for k, v in net.state_dict().items()}
                reading = [s for s in group.slices if s.side == "consumes"]
                for piece in reading:  # nobody reads the unit any more
                    net.state_dict()[piece.tensor].index_fill_(piece.dim, piece.index[unit], 0)
                oracle.append((F.cross_entropy(net(x), y, reduction="none") - full).abs().mean())
                net.load_state_dict(state)
        correlations.append(spearman(scores[group.name], torch.stack(oracle)))
    assert min(correlations) > 0.3, correlations
    assert sum(correlations) / len(correlations) > 0.6, correlations


def test_units_that_nobody_reads_come_last(net, space, hand):
    group = space.group("fc1")
    with torch.no_grad():
        net.fc2.weight[:, [1, 4]] = 0
    scores = score_groups(net, space, Taylor(), hand.batches())[group.name]
    assert set(scores.argsort()[:2].tolist()) == {1, 4}
    assert all(scores[a] < scores[b] for a, b in itertools.product([1, 4], [0, 2, 3, 5, 6]))
