"""Every kind of step that random programs are made of: a few lines each, from sizes that are drawn.

A kind takes one value (two where it says so) and a number ``n`` that chooses widths and variants. It answers with the
layers it needs and what to do with them, or with None where the value does not suit it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Shape = Literal["image", "sequence", "vector"]
RANK: dict[Shape, int] = {"image": 4, "sequence": 3, "vector": 2}
WIDTHS = (4, 5, 6, 8, 7, 9, 10, 12)


@dataclass(frozen=True)
class Step:
    """What a kind makes of given sizes: ``run(layers, *values)`` gives one tensor or several."""

    layers: nn.Module
    run: Callable[..., Any]


@dataclass(frozen=True)
class Kind:
    """One op kind: what it takes, how many of those, and how it is made."""

    name: str
    takes: Shape
    values: int
    make: Callable[..., Step | None]


KINDS: dict[str, Kind] = {}


def kind(takes: Shape, values: int = 1) -> Callable[[Callable[..., Step | None]], Callable[..., Step | None]]:
    """Register a kind under its function's name."""

    def register(make: Callable[..., Step | None]) -> Callable[..., Step | None]:
        name = make.__name__.rstrip("_")
        KINDS[name] = Kind(name, takes, values, make)
        return make

    return register


class Held(nn.Module):
    """Loose parameters (buffers where the name starts with an underscore)."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, value in tensors.items():
            if name.startswith("_"):
                self.register_buffer(name[1:], value)
            else:
                self.register_parameter(name, nn.Parameter(value))


def width(n: int) -> int:
    return WIDTHS[n % len(WIDTHS)]


def layer(module: nn.Module) -> Step:
    """A step that is one module."""
    return Step(module, lambda m, x: m(x))


def plain(run: Callable[..., Any]) -> Step:
    """A step without parameters."""
    return Step(nn.Identity(), lambda m, *values: run(*values))


def divisor(size: int, n: int) -> int:
    """One of the divisors of ``size`` above 1 (``size`` itself where it is prime)."""
    found = [d for d in range(2, size + 1) if size % d == 0]
    return found[n % len(found)] if found else 1
