"""What a source hands over, and what it must be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from niwaki.distill.splits import Split
from niwaki.spaces.errors import InputError


@dataclass(frozen=True, eq=False)
class Parts:
    """The training and the test examples of a source, and its name."""

    train: Split
    test: Split
    name: str


class Source(Protocol):
    """One file of this folder: a frozen dataclass whose fields are the options under ``data.options``."""

    def read(self) -> Parts:
        """Read (or open) the data; InputError where files are missing or damaged."""


def existing(path: str, key: str) -> Path:
    """``path`` with ``~`` expanded; InputError naming the key where nothing is there."""
    found = Path(path).expanduser()
    if not found.exists():
        raise InputError(f"data.options.{key}: {str(found)!r} does not exist")
    return found
