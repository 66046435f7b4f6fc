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


def expanded(path: str, where: str) -> Path:
    """``path`` with ``~`` expanded; InputError naming the key where nobody has that home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{where}: {path!r}: {error}") from error


def existing(path: str, key: str) -> Path:
    """``path`` with ``~`` expanded; InputError naming the key where nothing is there."""
    found = expanded(path, f"data.options.{key}")
    if not found.exists():
        raise InputError(f"data.options.{key}: {str(found)!r} does not exist")
    return found
