"""Refitting: nothing to do where nothing was cut, exact where the removed units were redundant, better elsewhere."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.pruning.reconstruct import Chosen, Refit, Refitter, _Call
from niwaki.spaces import Candidate, Space, carve, derive
from tests.zoo import build


def images(seed: int = 0) -> Tensor:
    return torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def first_units(space: Space, ratio: float) -> Chosen:
    candidate = space.uniform(ratio)
    return Chosen(space, candidate, {n: torch.arange(w) for n, w in candidate.widths.items()})


def test_an_uncut_student_keeps_its_weights() -> None:
    model, x = build("residual_b")
    space = derive(model, x)
    student = carve(model, space, space.largest())
    done = Refitter(model, images()).refit(student, first_units(space, 1.0))
    assert done[0] == "stem.0.weight"
    assert len(done) == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    for key, value in student.state_dict().items():
        assert torch.allclose(value.double(), model.state_dict()[key].double(), atol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
def test_copies_of_units_are_absorbed_exactly(bias: bool) -> None:
    """Channels 4..7 repeat 0..3: half of them can go, once the reader's weights take over the copies' part."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=bias)).double()
    first, last = model[0], model[2]
    with torch.no_grad():
        first.weight[4:] = first.weight[:4]
        if bias:
            first.bias[4:] = first.bias[:4]
    space = derive(model, images())
    cut = Chosen(space, Candidate({"0": 4}), {"0": torch.arange(4)})
    student = carve(model, space, cut.candidate, cut.kept)
    Refitter(model, images(), Refit(ridge=1e-12)).refit(student, cut)
    x = images()
    assert torch.allclose(student(x), model(x), atol=1e-6)
    expected = last.weight[:, :4] + last.weight[:, 4:]
    assert torch.allclose(student[2].weight, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["residual_a", "residual_b", "dense", "inverted"])
def test_outputs_come_nearer_whatever_runs_the_student(name: str) -> None:
    """Source-holding students (residual_a) have no layer modules to hook: the calls themselves are watched."""
    model, x = build(name)
    space = derive(model, x)
    cut = first_units(space, 0.7)
    before = copy.deepcopy(model.state_dict())
    plain = carve(model, space, cut.candidate, cut.kept).eval()
    refit = carve(model, space, cut.candidate, cut.kept).eval()
    done = Refitter(model, images(), Refit(positions=30)).refit(refit, cut)
    modules = dict(model.named_modules())
    assert done
    assert all(modules[k.removesuffix(".weight")].groups == 1 for k in done)
    fresh = images(1)
    with torch.no_grad():
        truth = model(fresh)
        assert (refit(fresh) - truth).square().mean() < 0.9 * (plain(fresh) - truth).square().mean()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_layer_that_runs_twice_is_left_alone() -> None:
    model, x = build("twice")
    space = derive(model, x)
    cut = first_units(space, 0.5)
    assert Refitter(model, images()).refit(carve(model, space, cut.candidate), cut) == ["stem.0.weight"]


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), ((2, 1), (0, 2), (1, 2))])
def test_what_a_layer_reads_is_what_unfold_reads(stride: Any, padding: Any, dilation: Any) -> None:
    """Every position, against torch's own im2col."""
    x, weight = torch.randn(2, 3, 9, 11), torch.randn(5, 3, 3, 2)
    out = F.conv2d(x, weight, None, stride, padding, dilation)
    pair = [(v, v) if isinstance(v, int) else v for v in (stride, padding, dilation)]
    call = _Call((x, weight, None, *pair, False, (0, 0), 1))
    places = torch.arange(out[0, 0].numel()).expand(2, -1)
    expected = F.unfold(x, (3, 2), dilation, padding, stride).transpose(1, 2).reshape(-1, 18)
    assert torch.equal(call.patches(places), expected)
    assert torch.allclose(expected @ weight.flatten(1).T, out.flatten(2).transpose(1, 2).reshape(-1, 5), atol=1e-5)
