from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from niwaki.pruning.patterns.n_of_m import NOfM
from niwaki.spaces.sparsity import Sparsity


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
def test_n_of_every_m_along_the_input_and_a_dense_tail(shape, n, more, seed):
    sparsity = Sparsity.parse(f"{n}:{n + more}")
    score = torch.randint(4, shape, generator=torch.Generator().manual_seed(seed)).float()
    mask = NOfM().mask(score, sparsity)
    assert mask.shape == score.shape
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == sparsity.kept(score.numel(), score.numel() // shape[0])
    for values, stays in zip(score.flatten(1).tolist(), mask.flatten(1).tolist(), strict=True):
        for start in range(0, len(values), sparsity.m):
            run = values[start : start + sparsity.m]
            best = sorted(range(len(run)), key=lambda i: (-run[i], i))
            truth = set(best[: sparsity.n]) if len(run) == sparsity.m else set(best)
            assert {i for i, s in enumerate(stays[start : start + sparsity.m]) if s} == truth


def test_the_order_of_dimensions_in_memory_does_not_matter():
    score = torch.rand(4, 6, 3, 3)
    last = score.to(memory_format=torch.channels_last)
    assert torch.equal(NOfM().mask(score, Sparsity(n=2, m=4)), NOfM().mask(last, Sparsity(n=2, m=4)))
