"""The contract of a target: a runtime on this machine that makes a model ready to be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

Run = Callable[[], object]
"""Runs a model once on inputs that it holds."""
Timer = Callable[[Run], tuple[float, float]]
"""Runs once: (seconds that it took, how many of them were its own); equal where others' work cannot be told apart."""


class Target(Protocol):
    """A runtime on this machine. Its dataclass fields are the options of its spec string.

    ``prepare`` is called once a model, outside all timing, and then the returned function many times. The fields
    ``threads``, ``batch`` and ``shape`` (:func:`shape_option`) mean the same everywhere.
    """

    @property
    def threads(self) -> int:
        """Threads that compute. One is timed by its own CPU time too, which shows who interrupted it."""
        ...

    @property
    def batch(self) -> int:
        """Examples a run."""
        ...

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        """A function without arguments that runs ``model`` (in eval mode) on ``inputs`` once."""
        ...

    def version(self) -> str:
        """Name and version of the runtime, such as ``torch 2.15.0``."""
        ...


@runtime_checkable
class HasTimer(Protocol):
    """A target that times its runs in its own way, because they go on after the call has returned."""

    def timer(self) -> Timer: ...


def shape_option() -> str:
    """The field ``shape`` of a target: sizes of one example without the batch; empty: as the example that is given."""
    metadata = {"pattern": r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8})*", "like": "3x224x224"}
    made: str = field(default="", metadata=metadata)
    return made
