"""A search on real digits that takes seconds: shared by the tests of the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from niwaki.search.config import Config, parse_config

SETTINGS: dict[str, Any] = {
    "teacher": {"train": {"images": 4_000}},
    "data": {"limit": 400},
    "space": {"ratios": [0.25, 0.5, 0.75, 1.0], "sparsity": ["0.5"], "step": 1},
    "budget": {"macs": "60%", "size": "60%"},
    "search": {"trials": 4, "levels": [1.0, 0.5], "keep": 0.5, "members": 2, "proposer": "random"},
    "train": {"rungs": [256, 512], "final_images": 1_024, "batch_size": 64, "lr": 0.05, "precision": "fp32",
              "layout": "contiguous"},
    "criterion": {"images": 128},
    "run": {"runner": "local"},
    "export": {"formats": ["safetensors"], "members": 1},
}


def tiny(folder: Path, *overrides: str) -> Config:
    """The configuration of a small run in ``folder``."""
    return parse_config(SETTINGS, "tiny", [f"run.folder={folder}", *overrides])
