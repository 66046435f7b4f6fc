from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from niwaki.distill import Data, Numerics, Recipe, precision, resolve

PLAIN = Numerics()
LAST = Numerics(layout="channels_last")
HALF = Numerics("bf16", "channels_last")


def table(times: dict[Numerics, float]) -> Callable[[Numerics], float]:
    return lambda n: times[n]


def test_the_plain_setting_stays_unless_another_gains_five_percent() -> None:
    assert precision._fastest([PLAIN, LAST, HALF], table({PLAIN: 1.0, LAST: 0.97, HALF: 0.96})) == PLAIN
    assert precision._fastest([PLAIN, LAST, HALF], table({PLAIN: 1.0, LAST: 0.8, HALF: 0.5})) == HALF
    assert precision._fastest([PLAIN, HALF], table({PLAIN: 1.0, HALF: math.inf})) == PLAIN


def test_noise_in_one_round_does_not_decide() -> None:
    plain = iter([9.0, 1.0, 9.0])
    assert precision._fastest([PLAIN, LAST], lambda n: next(plain) if n == PLAIN else 2.0) == PLAIN


def test_resolve_settles_what_is_open_and_keeps_what_is_given(data: Data, model: nn.Module) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settled = resolve(Recipe(), model, data)
    assert settled.numerics in [Numerics(p, x) for p in ("fp32", "bf16") for x in ("contiguous", "channels_last")]
    assert resolve(settled, model, data) == settled
    given = resolve(Recipe(precision="fp32", layout="channels_last"), model, data)
    assert given == Recipe(precision="fp32", layout="channels_last")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="call resolve"):
        _ = Recipe().numerics


class NoHalf(nn.Module):
    """Stands for a model with an operator that has no bf16 kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        if out.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return out


def test_a_setting_that_cannot_run_is_not_chosen(data: Data) -> None:
    assert resolve(Recipe(), NoHalf(), data).precision == "fp32"
    with torch.inference_mode():
        assert precision.fastest_forward(NoHalf().eval(), data).precision == "fp32"
