from __future__ import annotations

import pytest
import torch
from torch import nn

from niwaki.distill import Numerics


def test_arrange_changes_strides_and_not_values() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv3d(3, 5, 3), nn.Linear(4, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    parameters = list(model.parameters())
    Numerics(layout="channels_last").arrange(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))  # optimizers keep them
    Numerics().arrange(model)
    assert all(torch.equal(v, before[k]) and v.is_contiguous() for k, v in model.state_dict().items())


def test_running_puts_the_layout_back_after_an_error() -> None:
    model = nn.Conv2d(3, 5, 3)
    kinds = []

    def use() -> None:
        with Numerics("bf16", "channels_last").running(model, torch.device("cpu")):
            kinds.append(model(torch.zeros(1, 3, 8, 8)).dtype)
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert kinds == [torch.bfloat16]
    assert model.weight.is_contiguous()


def test_arranged_leaves_what_has_no_channels_last() -> None:
    for shape in ((4, 3), (2, 3, 4, 4, 4)):
        x = torch.zeros(shape)
        assert Numerics(layout="channels_last").arranged(x) is x
