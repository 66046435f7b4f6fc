"""Niwaki: from a trained PyTorch model and a budget to the Pareto front of smaller models, distilled and exported."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from niwaki.pruning.carving import carve
from niwaki.spaces import (
    Block,
    Candidate,
    Cost,
    Group,
    InputError,
    Space,
    SpaceOptions,
    Sparsity,
    count,
    derive,
    explain,
)

if TYPE_CHECKING:
    from niwaki.search.budget import Budget
    from niwaki.search.compress import compress, load
    from niwaki.search.result import Member, Result

_LAZY = {  # Optuna and ONNX are imported by those who search, not by those who carve
    "Budget": "niwaki.search.budget",
    "Member": "niwaki.search.result",
    "Result": "niwaki.search.result",
    "compress": "niwaki.search.compress",
    "load": "niwaki.search.compress",
}

__all__ = [
    "Block",
    "Budget",
    "Candidate",
    "Cost",
    "Group",
    "InputError",
    "Member",
    "Result",
    "Space",
    "SpaceOptions",
    "Sparsity",
    "carve",
    "compress",
    "count",
    "derive",
    "explain",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'niwaki' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
