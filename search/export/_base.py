"""The contract of an export format, and how an export is compared with its original."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

PACKAGE = "niwaki.search.export"
TOLERANCE = 1e-4
"""Largest difference allowed between an export and its original, relative to the largest absolute output."""


class ExportError(RuntimeError):
    """An export could not be written, or does not say what its original says."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is exported.

    Attributes:
        model: an eval-mode copy on the CPU, without gradients; see :meth:`of`.
        inputs: real inputs, batch first, at least two examples.
        sparsity: layer (module path) -> pattern token, as in ``Candidate.sparsity``.
        original: what the written files must answer like, where it is another model than the one they are written
            from (which is then padded with zeros).
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    sparsity: Mapping[str, str] = field(default_factory=dict)
    original: nn.Module | None = None

    @classmethod
    def of(
        cls, model: nn.Module, inputs: Tensor | tuple[Tensor, ...], sparsity: Mapping[str, str] | None = None,
        original: nn.Module | None = None,
    ) -> Subject:
        """Copy ``model`` (and ``original``) for export; the caller's keep their mode, device and gradients."""
        tensors = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
        if not tensors or any(t.dim() < 1 or len(t) < 2 for t in tensors):
            shapes = [tuple(t.shape) for t in tensors]
            raise ValueError(f"export needs inputs with at least two examples, batch first; got shapes {shapes}")
        ready, first = (
            None if m is None else copy.deepcopy(m).cpu().eval().requires_grad_(False) for m in (model, original)
        )
        assert ready is not None
        return cls(ready, tuple(t.detach().cpu() for t in tensors), dict(sparsity or {}), first)

    def answers(self, examples: int | None = None) -> list[Tensor]:
        """Output tensors of the original on the first ``examples`` inputs (all of them by default)."""
        with torch.inference_mode():
            return tensors_of((self.original or self.model)(*self.first(examples)))

    def first(self, examples: int | None) -> tuple[Tensor, ...]:
        """The first ``examples`` inputs, as clones: no exporter may see that they are views of a larger batch."""
        return tuple(t[:examples].clone() for t in self.inputs)


class Exporter(Protocol):
    """One export format; its dataclass fields are its options. Called in the order write, error.

    A format of more than one file names the others in a class variable ``beside``; ``write`` puts them beside ``path``.
    """

    filename: ClassVar[str]

    def write(self, subject: Subject, path: Path) -> None:
        """Write one self-contained file."""
        ...

    def read(self, path: Path) -> Any:
        """What the file holds: a callable model where the format has a graph, else a state dict."""
        ...

    def error(self, subject: Subject, path: Path) -> float:
        """Read ``path`` back and return its largest relative difference from the original on real inputs."""
        ...


def tensors_of(output: object) -> list[Tensor]:
    """The tensors in a model's output (tensor, tuple, dict or a mixture), in a fixed order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def difference(got: list[Tensor], expected: list[Tensor]) -> float:
    """Largest absolute difference over the largest absolute expected value, over all outputs; inf where shapes differ.

    Example:
        >>> difference([torch.tensor([1.0, 2.2])], [torch.tensor([1.0, 2.0])])
        0.10000002384185791
    """
    if [g.shape for g in got] != [e.shape for e in expected]:
        return float("inf")
    worst = 0.0
    for mine, theirs in zip(got, expected, strict=True):
        scale = float(theirs.abs().max()) if theirs.numel() else 0.0
        gap = float((mine.double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
        worst = max(worst, float("inf") if math.isnan(gap) else gap / max(scale, 1e-12))
    return worst


def batches(subject: Subject) -> list[int]:
    """Batch sizes on which a graph is compared: one example, and all of them (is the batch really dynamic?)."""
    return [1, len(subject.inputs[0])]
