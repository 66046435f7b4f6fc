"""Checkpoints of trainings in the run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from niwaki.search.files import read_tensors, write_tensors_atomic
from niwaki.spaces import InputError


class StateFile:
    """The checkpoint (:class:`niwaki.distill.checkpoint.Checkpoint`) of a training as a file, whole or not at all.

    Args:
        path: of the file; one that cannot be read counts as none.
        every: least seconds between two states.
    """

    def __init__(self, path: Path, every: float) -> None:
        self._path, self._every = path, every
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self._every

    def read(self) -> Mapping[str, Tensor] | None:
        try:
            return read_tensors(self._path) if self._path.is_file() else None
        except InputError:
            return None

    def write(self, state: Mapping[str, Tensor]) -> None:
        write_tensors_atomic(self._path, state)
        self._last = time.monotonic()
