from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from niwaki.distill import DataSpec, load
from niwaki.spaces.errors import InputError


def make(count: int = 20) -> tuple[TensorDataset, TensorDataset]:
    whole = TensorDataset(torch.rand(count, 1, 4, 4), torch.arange(count) % 2)
    return whole, whole


def make_one() -> TensorDataset:
    return make()[0]


def test_a_users_function_gives_the_data() -> None:
    data = load(DataSpec("python", {"function": f"{__name__}:make", "arguments": {"count": 40}}))
    assert (len(data.train), len(data.validation), len(data.test), data.shape) == (36, 4, 40, (1, 4, 4))


def test_what_is_no_pair_or_no_function() -> None:
    with pytest.raises(InputError, match=r"must return a \(train, test\) pair"):
        load(DataSpec("python", {"function": f"{__name__}:make_one"}))
    with pytest.raises(InputError, match="did you mean 'make_one'"):
        load(DataSpec("python", {"function": f"{__name__}:make_oen"}))
    with pytest.raises(InputError, match="option 'function' is missing"):
        load(DataSpec("python"))
