"""Least-squares refit of a student's convolutions to what the teacher's computed (He, Zhang and Sun, ICCV 2017, eq. 5).

Layer by layer, front to back: the inputs are the student's own (errors of earlier layers are corrected too), the
targets are the teacher's outputs of the same layer at the units that stayed. Training then starts from a network that
already computes nearly the right thing, which matters most where it is short and the cut deep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from niwaki.spaces import Candidate, Kept, Space

_CONVOLUTION = torch.ops.aten.convolution.default


@dataclass(frozen=True)
class Refit:
    """Options of :func:`reconstruct`.

    Attributes:
        positions: output positions sampled in each image.
        ridge: pull towards the sliced weights, relative to the mean square of the inputs.
        seed: of the positions.
    """

    positions: int = 20
    ridge: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Chosen:
    """The cut that a student was made with."""

    space: Space
    candidate: Candidate
    kept: Kept


def reconstruct(
    student: nn.Module, teacher: nn.Module, cut: Chosen, images: Sequence[Tensor], options: Refit | None = None
) -> list[str]:
    """Refit every dense 2-D convolution of ``student`` in place.

    Args:
        student: what ``carve(teacher, cut.space, cut.candidate, cut.kept)`` returned, untrained.
        teacher: left untouched.
        cut: which units the student has.
        images: batches of normalised inputs (B, C, H, W), a few hundred training images in all.
        options: how much to sample.

    Returns:
        State-dict keys of the weights that were refit, in order of execution.

    Example:
        ``reconstruct(student, teacher, Chosen(space, candidate, kept), [images])``
    """
    options = options or Refit()
    targets = _targets(teacher, images, options)
    parameters = dict(student.named_parameters())
    done = []
    was = student.training
    student.eval()
    for key, (rows, places) in targets.items():
        weight = parameters.get(key)
        if weight is None or not weight.requires_grad:
            continue
        target = rows[:, _kept_outputs(key, rows.shape[1], cut)]
        inputs = _inputs(student, weight, images, places)
        if inputs is not None and inputs.shape[1] == weight[0].numel():
            _solve(weight, parameters.get(key.removesuffix("weight") + "bias"), inputs, target, options.ridge)
            done.append(key)
    student.train(was)
    return done


class _Enough(Exception):
    """The layer that was waited for has been reached: the rest of the forward pass is not needed."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls ``seen(weight storage, arguments, output)`` after every convolution, whatever module or source runs it."""

    def __init__(self, seen: Callable[[int, tuple[Any, ...], Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is _CONVOLUTION and out.dim() == 4 and args[8] == 1 and not args[6]:
            self.seen(_storage(args[1]), args, out)
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _targets(teacher: nn.Module, images: Sequence[Tensor], options: Refit) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight key -> sampled outputs (rows, channels), and their flat positions (images, positions), in order."""
    names = {_storage(p): n for n, p in teacher.named_parameters()}
    generator = torch.Generator().manual_seed(options.seed)
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def seen(storage: int, args: tuple[Any, ...], out: Tensor) -> None:
        flat = out.flatten(2)
        place = torch.randint(flat.shape[2], (flat.shape[0], options.positions), generator=generator).to(out.device)
        rows, places = found.setdefault(names[storage], ([], []))
        rows.append(_at(flat, place))
        places.append(place)

    was = teacher.training
    teacher.eval()
    with torch.no_grad(), _Watch(seen):
        for batch in images:
            teacher(batch)
    teacher.train(was)
    once = {k: v for k, v in found.items() if len(v[0]) == len(images)}  # a layer called twice has no single target
    return {k: (torch.cat(rows), torch.cat(places)) for k, (rows, places) in once.items()}


def _at(flat: Tensor, place: Tensor) -> Tensor:
    """``(B, C, L)`` at ``(B, P)`` -> ``(B * P, C)``."""
    index = place[:, None].expand(-1, flat.shape[1], -1)
    return flat.gather(2, index).transpose(1, 2).reshape(-1, flat.shape[1])


def _inputs(student: nn.Module, weight: Tensor, images: Sequence[Tensor], places: Tensor) -> Tensor | None:
    """What the layer reads at the sampled positions: (rows, input channels * kernel)."""
    rows: list[Tensor] = []
    start = 0

    def seen(storage: int, args: tuple[Any, ...], out: Tensor) -> None:
        nonlocal start
        if storage != _storage(weight):
            return
        x, stride, padding, dilation = args[0], args[3], args[4], args[5]
        patches = F.unfold(x, weight.shape[2:], dilation, padding, stride)
        rows.append(_at(patches, places[start : start + x.shape[0]]))
        start += x.shape[0]
        raise _Enough

    with torch.no_grad():
        for batch in images:
            try:
                with _Watch(seen):
                    student(batch)
            except _Enough:
                continue
    return torch.cat(rows) if len(rows) == len(images) else None


def _kept_outputs(key: str, channels: int, cut: Chosen) -> Tensor:
    """Output channels of a layer that are left."""
    left = torch.ones(channels, dtype=torch.bool)
    for group in cut.space.groups:
        gone = torch.ones(group.units, dtype=torch.bool)
        gone[cut.kept[group.name]] = False
        for s in group.slices:
            if s.tensor == key and s.dim == 0:
                left[s.index[gone].flatten()] = False
    return left


def _solve(weight: nn.Parameter, bias: nn.Parameter | None, x: Tensor, y: Tensor, ridge: float) -> None:
    """Ridge regression towards the present weights, in float64; the bias takes the remaining mean."""
    x, y = x.double(), y.double()
    start = weight.detach().double().flatten(1)
    x_mean, y_mean = (x.mean(0), y.mean(0)) if bias is not None else (x.new_zeros(x.shape[1]), y.new_zeros(y.shape[1]))
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    pull = ridge * gram.diagonal().mean().clamp_min(1e-12)
    residual = x.T @ (y - x @ start.T)
    step = torch.linalg.solve(gram + pull * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), residual)
    fitted = start + step.T
    with torch.no_grad():
        weight.copy_(fitted.reshape(weight.shape))
        if bias is not None:
            bias.copy_(y_mean - fitted @ x_mean)
