"""Optuna's journal file, opened by the process that writes it, and mended where a crash left it broken."""

from __future__ import annotations

import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

_BLOCK = 1 << 16
_GRACE = 5  # seconds without a write after which the lock is that of a dead process; a write takes milliseconds


def open_journal(path: Path) -> JournalStorage:
    """The storage in ``path``, made where there is none.

    A kill in mid-write leaves half a line, at which every reader would stop for good once another follows: it is cut.
    A file that cannot be replayed any more is set aside as ``NAME.unreadable``, and a new one begun.
    """
    path = path.resolve()  # Optuna's lock is a link to it: with a relative one, waiting for the lock never ends
    path.touch()
    lock = JournalFileSymlinkLock(str(path), grace_period=_GRACE)
    lock.acquire()
    try:
        cut_torn_line(path)
    finally:
        lock.release()
    try:
        return JournalStorage(JournalFileBackend(str(path), lock))
    except OSError:
        raise
    except Exception:  # whatever it takes to replay lines that make no sense
        path.replace(path.with_name(f"{path.name}.unreadable"))
        return JournalStorage(JournalFileBackend(str(path), lock))


def cut_torn_line(path: Path) -> None:
    """Cut what follows the last newline."""
    with path.open("rb+") as file:
        size = start = file.seek(0, os.SEEK_END)
        end = 0
        while start and not end:
            block = min(_BLOCK, start)
            start = file.seek(start - block)
            end = start + 1 + found if (found := file.read(block).rfind(b"\n")) >= 0 else 0
        if end < size:
            file.truncate(end)
