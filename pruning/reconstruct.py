"""Least-squares refit of a student's convolutions to what the teacher's computed (He, Zhang and Sun, ICCV 2017, eq. 5).

Layer by layer, front to back, within one forward pass: the inputs are the student's own (errors of earlier layers are
corrected too), the targets are the teacher's outputs of the same layer at the units that stayed. Training then starts
from a network that already computes nearly the right thing, which matters most where it is short and the cut deep; and
what is left before any training says much about a candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from niwaki.pruning.hooks import evaluating
from niwaki.spaces import Candidate, Kept, Space

_CONVOLUTION = torch.ops.aten.convolution.default


@dataclass(frozen=True)
class Refit:
    """Options of :class:`Refitter`.

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


class Refitter:
    """Refits any number of students of one teacher; the teacher is asked once.

    Args:
        teacher: left untouched.
        images: normalised inputs (N, C, H, W), a few hundred training images; all of them are held in one batch.
        options: how much to sample.

    Example:
        ``Refitter(teacher, images).refit(student, Chosen(space, candidate, kept))``
    """

    def __init__(self, teacher: nn.Module, images: Tensor, options: Refit | None = None) -> None:
        self.images = images
        self.options = options or Refit()
        self._targets = _targets(teacher, images, self.options)

    @property
    def covered(self) -> frozenset[str]:
        """Keys of the weights that have a target."""
        return frozenset(self._targets)

    def refit(self, student: nn.Module, cut: Chosen) -> list[str]:
        """Refit every dense 2-D convolution of an untrained ``student`` in place.

        Returns the state-dict keys of the refit weights, in order of execution. Layers that run more than once have no
        single target and are left alone, as are grouped and depthwise ones.
        """
        parameters = dict(student.named_parameters())
        names = {_storage(p): n for n, p in parameters.items()}
        done: list[str] = []

        def before(call: _Call) -> None:
            key = names.get(call.storage, "")
            target = self._targets.get(key)
            if target is None or key in done or not parameters[key].requires_grad:
                return
            rows = target.rows[:, _kept_outputs(key, target.rows.shape[1], cut)]
            bias = parameters.get(key.removesuffix("weight") + "bias")
            _solve(parameters[key], bias, call.patches(target.places), rows, self.options.ridge)
            done.append(key)

        with evaluating(student), torch.no_grad(), _Watch(before=before):
            student(self.images)
        return done


@dataclass(frozen=True)
class _Call:
    """A dense 2-D convolution about to run, or that has run: its arguments are those of ``aten.convolution``."""

    args: tuple[Any, ...]

    @property
    def storage(self) -> int:
        return _storage(self.args[1])

    def patches(self, places: Tensor) -> Tensor:
        """What the layer reads at flat output positions (B, P): (B * P, input channels * kernel)."""
        x, weight, stride, padding, dilation = (self.args[i] for i in (0, 1, 3, 4, 5))
        height, width = weight.shape[2:]
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        columns = (x.shape[3] - dilation[1] * (width - 1) - 1) // stride[1] + 1
        top, left = places // columns * stride[0], places % columns * stride[1]
        down, right = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        offset = (down[:, None] * dilation[0] * x.shape[3] + right * dilation[1]).flatten()
        index = (top * x.shape[3] + left)[:, :, None] + offset  # (B, P, kernel)
        read = x.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, x.shape[1], -1))
        read = read.reshape(x.shape[0], x.shape[1], places.shape[1], -1).transpose(1, 2)
        return read.reshape(-1, x.shape[1] * height * width)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every dense 2-D convolution, whatever module or generated source runs it."""

    def __init__(
        self, before: Callable[[_Call], None] | None = None, after: Callable[[_Call, Tensor], None] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before, self.after = before, after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        watched = func is _CONVOLUTION and args[0].dim() == 4 and args[8] == 1 and not args[6]
        if watched and self.before is not None:
            self.before(_Call(args))
        out = func(*args, **(kwargs or {}))
        if watched and self.after is not None:
            self.after(_Call(args), out)
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@dataclass(frozen=True)
class _Target:
    """Sampled outputs of one layer, (B * P, channels), and where they were sampled, (B, P)."""

    rows: Tensor
    places: Tensor


def _targets(teacher: nn.Module, images: Tensor, options: Refit) -> dict[str, _Target]:
    names = {_storage(p): n for n, p in teacher.named_parameters()}
    generator = torch.Generator().manual_seed(options.seed)
    found: dict[str, list[_Target]] = {}

    def after(call: _Call, out: Tensor) -> None:
        flat = out.flatten(2)
        places = torch.randint(flat.shape[2], (flat.shape[0], options.positions), generator=generator).to(out.device)
        rows = flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
        found.setdefault(names.get(call.storage, ""), []).append(_Target(rows.reshape(-1, flat.shape[1]), places))

    with evaluating(teacher), torch.no_grad(), _Watch(after=after):
        teacher(images)
    return {key: calls[0] for key, calls in found.items() if key and len(calls) == 1}


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
    """Ridge regression towards the present weights, solved in float64; the bias takes the remaining mean."""
    start = weight.detach().flatten(1)
    x_mean, y_mean = (x.mean(0), y.mean(0)) if bias is not None else (x.new_zeros(x.shape[1]), y.new_zeros(y.shape[1]))
    x, y = x - x_mean, y - y_mean
    gram, residual = (x.T @ x).double(), (x.T @ (y - x @ start.T)).double()
    pull = ridge * gram.diagonal().mean().clamp_min(1e-12)
    step = torch.linalg.solve(gram + pull * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), residual)
    fitted = start.double() + step.T
    weight.copy_(fitted.reshape(weight.shape))
    if bias is not None:
        bias.copy_(y_mean.double() - fitted @ x_mean.double())
