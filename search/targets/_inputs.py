"""What a target is fed: one example, repeated to its batch, in the shape that its spec asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from niwaki.search.targets._base import Target
from niwaki.search.targets._spec import spec_of
from niwaki.spaces.errors import InputError


def repeated(example: Tensor | tuple[Tensor, ...], target: Target) -> tuple[Tensor, ...]:
    """The first example, ``target.batch`` times, on the CPU.

    Where the target names a shape, values of the example are drawn (always the same ones) to fill it: they lie where
    the model expects them, token numbers too.

    Args:
        example: the model's inputs, batch first.

    Raises:
        InputError: a shape, but several inputs, or another number of dimensions than the example has.

    Example:
        >>> from niwaki.search.targets import parse
        >>> [tuple(t.shape) for t in repeated(torch.zeros(2, 3, 8, 8), parse("torch:batch=4,shape=3x16x16"))]
        [(4, 3, 16, 16)]
    """
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    shape = getattr(target, "shape", "")
    firsts = [_drawn(tensors, shape, target)] if shape else [t[:1] for t in tensors]
    return tuple(t.detach().cpu().repeat(target.batch, *[1] * (t.dim() - 1)) for t in firsts)


def _drawn(tensors: tuple[Tensor, ...], shape: str, target: Target) -> Tensor:
    sizes = [int(size) for size in shape.split("x")]
    if len(tensors) != 1:
        raise InputError(f"target {spec_of(target)!r}: shape is for models with one input, this one has {len(tensors)}")
    example = tensors[0].detach().cpu()
    if len(sizes) != example.dim() - 1:
        own = "x".join(str(size) for size in example.shape[1:])
        raise InputError(f"target {spec_of(target)!r}: shape has {len(sizes)} dimensions, the example's is {own}")
    values = example.flatten()
    generator = torch.Generator().manual_seed(0)
    return values[torch.randint(len(values), (1, *sizes), generator=generator)]
