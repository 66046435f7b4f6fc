from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from niwaki.distill import DataSpec, load
from niwaki.distill.sources.digits import Digits
from niwaki.spaces.errors import InputError


def test_every_digit_is_there_once_and_unchanged() -> None:
    images, labels = load_digits(return_X_y=True)
    parts = Digits().read()
    rows = []
    for split in (parts.train, parts.test):
        x, y = split.batch(torch.arange(len(split)))
        assert x.dtype == torch.uint8
        rows.append(np.column_stack([np.rint(x.numpy().reshape(len(x), -1) * (16 / 255)), y.numpy()]))
    found, expected = np.concatenate(rows), np.column_stack([images, labels])
    assert np.array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_the_test_split_is_stratified_and_does_not_move_with_the_validation_seed() -> None:
    one, two = load(DataSpec("digits")), load(DataSpec("digits", seed=9))
    assert torch.equal(one.test.labels, two.test.labels)
    assert (len(one.train), len(one.validation), len(one.test)) == (1293, 144, 360)
    for split in (one.train, one.validation, one.test):
        counts = torch.bincount(split.labels).double()
        assert (counts / counts.mean() - 1).abs().max() < 0.1


def test_share_out_of_range() -> None:
    with pytest.raises(InputError, match=r"data.options.test: 1.0"):
        Digits(test=1.0)
