from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from niwaki.pruning.patterns.unstructured import Unstructured
from niwaki.spaces.sparsity import Sparsity


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.floats(0, 0.999), st.integers(0, 999))
def test_exactly_the_highest_stay(shape, ratio, seed):
    sparsity = Sparsity.parse(str(ratio)) if "e" not in str(ratio) else Sparsity(ratio)
    score = torch.randint(4, shape, generator=torch.Generator().manual_seed(seed)).float()  # with many ties
    mask = Unstructured().mask(score, sparsity)
    kept = sparsity.kept(score.numel(), score.numel() // shape[0])
    flat = score.flatten().tolist()
    truth = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:kept]
    assert mask.shape == score.shape
    assert mask.dtype == torch.bool
    assert mask.flatten().nonzero().flatten().tolist() == sorted(truth)


def test_the_order_of_dimensions_in_memory_does_not_matter():
    score = torch.rand(4, 6, 3, 3)
    last = score.to(memory_format=torch.channels_last)
    half = Sparsity.parse("0.5")
    assert torch.equal(Unstructured().mask(score, half), Unstructured().mask(last, half))
