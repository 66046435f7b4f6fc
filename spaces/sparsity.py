"""Pattern tokens of a layer (``dense``, ``0.5``, ``2:4``) and what they store: shared by costs and masks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_NM = re.compile(r"([1-9]\d*):([1-9]\d*)")


@dataclass(frozen=True)
class Sparsity:
    """A parsed token: unstructured ``ratio`` in [0, 1), or ``n`` weights kept of every ``m``.

    Example:
        >>> Sparsity.parse("0.75").kept(100, 10), Sparsity.parse("2:4").kept(100, 10)
        (25, 60)
    """

    ratio: float = 0.0
    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, token: str) -> Sparsity:
        """Raise ValueError unless ``token`` is ``dense``, a ratio in [0, 1) or ``N:M`` with N < M."""
        if token == "dense":
            return cls()
        if (nm := _NM.fullmatch(token)) and int(nm[1]) < int(nm[2]):
            return cls(n=int(nm[1]), m=int(nm[2]))
        try:
            ratio = float(token)
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio < 1:
            raise ValueError(
                f"sparsity {token!r}: expected 'dense', a ratio in [0, 1) such as '0.5', or 'N:M' such as '2:4'"
            )
        return cls(ratio=ratio)

    def kept(self, numel: Any, fan_in: Any) -> Any:
        """Weights that stay of ``numel`` (ints or int arrays). ``fan_in`` = numel / output channels.

        N:M groups run along the flattened input of one output channel; a tail shorter than M stays dense.
        """
        if self.m:
            return numel // fan_in * (fan_in // self.m * self.n + fan_in % self.m)
        if isinstance(numel, int):
            return numel - int(numel * self.ratio + 0.5)
        return numel - (numel * self.ratio + 0.5).astype(numel.dtype)

    def stored_bytes(self, numel: Any, fan_in: Any, itemsize: int) -> Any:
        """Bytes of the layer's weight on disk: kept values, and one bit per position to say where they are."""
        if not self.m and not self.ratio:
            return numel * itemsize
        return self.kept(numel, fan_in) * itemsize + (numel + 7) // 8
