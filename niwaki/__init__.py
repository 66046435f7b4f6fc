"""Niwaki: from a trained PyTorch model and a budget to the Pareto front of smaller models, distilled and exported."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from niwaki.pruning.carving import carve
    from niwaki.search.budget import Budget
    from niwaki.search.compress import compress, load, resume
    from niwaki.search.result import Member, Result
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
        mask,
    )

_HOMES = {  # imported at first use: `niwaki --help` needs no torch, carving needs no Optuna
    "niwaki.pruning.carving": ("carve",),
    "niwaki.search.budget": ("Budget",),
    "niwaki.search.compress": ("compress", "load", "resume"),
    "niwaki.search.result": ("Member", "Result"),
    "niwaki.spaces": (
        "Block", "Candidate", "Cost", "Group", "InputError", "Space", "SpaceOptions", "Sparsity",
        "count", "derive", "explain", "mask",
    ),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

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
    "mask",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'niwaki' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
