"""The frozen values every part of Niwaki exchanges; names are module paths, never module objects."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

Side = Literal["produces", "consumes", "carries"]
Kept = Mapping[str, Tensor]
"""Which units stay: group name -> (width,) int64 indices, ascending."""


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the units of a group sit in one tensor.

    Attributes:
        tensor: state-dict key of the parameter or buffer.
        dim: the dimension of that tensor.
        side: ``produces`` (output channels of a layer), ``consumes`` (input channels) or ``carries``
            (a normaliser's weight, a bias, a depthwise filter: travels with the unit).
        index: ``(units, span)`` int64; row ``u`` lists the positions of unit ``u`` along ``dim``.
    """

    tensor: str
    dim: int
    side: Side
    index: Tensor


@dataclass(frozen=True, eq=False)
class Tap:
    """A module output in which the units of a group can be watched.

    ``index`` is ``(units, span)`` int64: the positions of each unit along dimension ``dim`` of the output of
    module ``module`` (a convolution, linear or normaliser that runs once per forward).
    """

    module: str
    dim: int
    index: Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """Units (channels, heads, ranks...) that can only be removed together, everywhere they appear.

    Attributes:
        name: module path of the first layer that produces the units (with ``#k`` where one layer has several groups).
        units: how many there are in the teacher.
        choices: the widths a search may take, ascending; the last is ``units``.
        slices: where they sit in parameters and buffers.
        taps: module outputs that carry them, for criteria that look at activations.
        exact: False where the group crosses a normaliser over the pruned axis (zeroing is then not removing).
        stream: whether additions of computed tensors join these units (residual streams).
    """

    name: str
    units: int
    choices: tuple[int, ...]
    slices: tuple[Slice, ...]
    taps: tuple[Tap, ...] = ()
    exact: bool = True
    stream: bool = False


@dataclass(frozen=True)
class Fixed:
    """Units that a search may not remove.

    Attributes:
        name: of the layer that makes them, as for groups.
        units: how many there are.
        reason: why they stay.
        where: ``file.py:line`` of the operation that forbids it, else of the layer; '' where neither is known.
    """

    name: str
    units: int
    reason: str
    where: str = ""

    @classmethod
    def because(cls, name: str, units: int, pin: str, layer: str = "") -> Fixed:
        """From the reason noted on a dimension, which ends with ``(file.py:line)`` where an operation is to blame."""
        found = re.fullmatch(r"(.*) \(([^()\s]+:\d+)\)", pin, re.DOTALL)
        return cls(name, units, *(found.groups() if found else (pin, layer)))

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + (f" ({self.where})" if self.where else "")


@dataclass(frozen=True)
class Block:
    """A removable residual block: one entry, one exit of the same shape, a skip path around it.

    Attributes:
        name: unique; the module path where the block is a whole module.
        stage: blocks of one stage are kept first-k (TAS, section 3.2): skipping one means skipping all later ones.
        position: 0-based place among the removable blocks of its stage.
    """

    name: str
    stage: str
    position: int

    @staticmethod
    def modules(name: str) -> tuple[str, ...]:
        """The module paths behind a block's name: ``layers.0.linear1+linear2`` is two modules, ``again#1`` is one call.

        Example:
            >>> Block.modules("layers.0.linear1+linear2")
            ('layers.0.linear1', 'layers.0.linear2')
        """
        path, _, last = name.split("#", maxsplit=1)[0].rpartition(".")
        return tuple(f"{path}.{part}" if path else part for part in last.split("+"))


@dataclass(frozen=True)
class Variable:
    """One decision: ``kind`` is width (of a group), depth (removable blocks kept in a stage) or sparsity."""

    name: str
    kind: Literal["width", "depth", "sparsity"]
    choices: tuple[int, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """How many units each group keeps, which blocks go, how sparse each layer is. Hashable, JSON both ways.

    Attributes:
        widths: group name -> units kept.
        skipped: names of the blocks left out.
        sparsity: layer (module path) -> pattern token such as ``"0.5"`` (unstructured, half of the weights removed)
            or ``"2:4"`` (2 of every 4 kept); layers that stay dense are absent.

    Example:
        >>> c = Candidate({"conv": 8}, frozenset({"layer1.2"}), {"fc": "0.5"})
        >>> Candidate.from_json(c.to_json()) == c
        True
    """

    widths: Mapping[str, int]
    skipped: frozenset[str] = frozenset()
    sparsity: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", dict(sorted(self.widths.items())))
        object.__setattr__(self, "skipped", frozenset(self.skipped))
        object.__setattr__(self, "sparsity", {k: v for k, v in sorted(self.sparsity.items()) if v != "dense"})

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {"widths": dict(self.widths), "skipped": sorted(self.skipped), "sparsity": dict(self.sparsity)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Inverse of :meth:`to_json`; raises ValueError naming the key that is missing or of the wrong type."""
        widths, skipped, sparsity = (data.get(k, d) for k, d in (("widths", None), ("skipped", []), ("sparsity", {})))
        if not isinstance(widths, dict) or not all(
            isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in widths.values()
        ):
            raise ValueError(f"candidate: 'widths' must map group names to positive integers, got {widths!r}")
        if not isinstance(skipped, list) or not all(isinstance(v, str) for v in skipped):
            raise ValueError(f"candidate: 'skipped' must be a list of block names, got {skipped!r}")
        if not isinstance(sparsity, dict) or not all(isinstance(v, str) for v in sparsity.values()):
            raise ValueError(f"candidate: 'sparsity' must map layer names to patterns, got {sparsity!r}")
        return cls(widths, frozenset(skipped), sparsity)


@dataclass(frozen=True)
class Cost:
    """What a model costs. Conventions: see each attribute.

    Attributes:
        macs: multiply-accumulates of convolutions, linears and matmuls for ONE example (1 multiply-accumulate = 1 MAC).
        params: elements of all parameters, masked ones included.
        bytes: bytes of the state dict's tensors as stored; a sparse layer is stored as values + a bitmap.
        latency_ms: milliseconds for one batch on the target, predicted or measured; None where nobody asked.
        memory_bytes: peak of live activation tensors for one example, as ``Space.memory`` tells; None where nobody
            asked. Two costs are equal whatever it says: :func:`count` does not run the model on real numbers.
    """

    macs: int
    params: int
    bytes: int
    latency_ms: float | None = None
    memory_bytes: int | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "macs": self.macs, "params": self.params, "bytes": self.bytes, "latency_ms": self.latency_ms,
            "memory_bytes": self.memory_bytes,
        }
