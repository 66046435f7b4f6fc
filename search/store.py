"""The run folder: an append-only journal that is the truth, and one folder a trial.

Who writes what: the driver holds ``LOCK`` and appends to ``journal.jsonl``; a worker writes
``trials/<key>/{job.json,outcome.json,student.safetensors,kept.safetensors,log.txt}``, each file whole or not at all,
and ``outcome.json`` last. So whatever is killed, a finished trial is in one of the two places, and
:meth:`RunStore.adopt` brings the second into the first.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from niwaki.search.files import (
    read_json,
    read_tensors,
    sync_folder,
    write_json_atomic,
    write_tensors_atomic,
    write_text_atomic,
)
from niwaki.search.links import refuse_links
from niwaki.search.outcome import KEY, Job, Outcome
from niwaki.spaces.errors import InputError

__all__ = ["RunStore", "read_json", "read_tensors", "write_json_atomic", "write_tensors_atomic", "write_text_atomic"]


class RunStore:
    """A run folder. ``create`` makes one, ``open`` attaches to one; neither locks: reading is free for everybody.

    Example:
        >>> import tempfile
        >>> store = RunStore.create(Path(tempfile.mkdtemp()) / "run", "trials: 8")
        >>> with store.lock():
        ...     store.adopt(), store.outcomes()
        ([], [])
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._known: dict[str, bool] | None = None  # while locked: key -> complete, of every line in the journal

    @classmethod
    def create(cls, folder: str | Path, config_text: str) -> RunStore:
        """Make a run folder holding ``config.yaml``; InputError where the folder exists and is not empty."""
        store = cls(Path(folder))
        try:
            store.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{folder}: cannot be a run folder, because there is a file in the way") from None
        except OSError as error:
            raise InputError(f"{folder}: cannot be made a run folder: {error.strerror}") from error
        try:
            if any(store.folder.iterdir()):
                raise FileExistsError
            (store.folder / "trials").mkdir()  # of two processes that both found the folder empty, one succeeds
        except FileExistsError:
            raise InputError(
                f"{folder}: this folder exists and is not empty; continue it with `niwaki resume {folder}`, "
                "or choose another name. Nothing in it was changed"
            ) from None
        store.journal.touch()
        write_text_atomic(store.config, config_text)
        return store

    @classmethod
    def open(cls, folder: str | Path) -> RunStore:
        """Attach to an existing run folder; InputError where it is none."""
        store = cls(Path(folder))
        if not store.config.is_file():
            raise InputError(f"{folder}: not a run folder ({store.config.name} is missing)")
        refuse_links(store.folder)
        return store

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    def trial(self, key: str) -> Path:
        """Folder of the trial with this key; ValueError for a key that could lead out of the run folder."""
        if not KEY.fullmatch(key):
            raise ValueError(f"trial key {key!r}: expected lower-case letters, digits and dashes")
        return self.folder / "trials" / key

    def save_job(self, job: Job) -> Path:
        """Write ``job.json``; returns the trial's folder. Called by workers."""
        write_json_atomic(self.trial(job.key) / "job.json", job.to_json())
        return self.trial(job.key)

    def save_outcome(self, outcome: Outcome) -> Path:
        """Write ``outcome.json``, which declares the trial finished: call it after all its other files. For workers."""
        write_json_atomic(self.trial(outcome.key) / "outcome.json", outcome.to_json())
        return self.trial(outcome.key)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one driver of this run; InputError where there is another. Ends with the process, however it ends."""
        refuse_links(self.folder, deep=True)
        with (self.folder / "LOCK").open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise InputError(f"{self.folder}: {owner} is driving this run; wait for it or stop it") from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                self._cut_torn_tail()
                self._known = {outcome.key: outcome.complete for outcome in self.outcomes()}
                yield
            finally:
                self._known = None

    def outcomes(self) -> list[Outcome]:
        """Every outcome of the journal in order of first appearance; the last line of a key counts (a retry).

        A last line without its newline is what a kill in mid-write leaves and is ignored; InputError naming file and
        line for anything else that cannot be read.
        """
        found: dict[str, Outcome] = {}
        text = self.journal.read_bytes() if self.journal.exists() else b""
        for number, line in enumerate(text.split(b"\n")[:-1], start=1):
            outcome = self._parse(line, f"{self.journal}, line {number}")
            found[outcome.key] = outcome
        return list(found.values())

    def append(self, outcome: Outcome) -> bool:
        """Add one line to the journal and wait until it is on the disk.

        Returns False, and writes nothing, where a complete outcome of the same job is there already: a job that ran
        twice counts once. A failed one is superseded. Raises RuntimeError without :meth:`lock`.
        """
        known = self._recorded()
        if known.get(outcome.key):
            return False
        self._write(outcome)
        known[outcome.key] = outcome.complete
        return True

    def adopt(self) -> list[Outcome]:
        """Append the finished trials that a stopped driver did not get to record; returns them, oldest first."""
        known = self._recorded()
        files = sorted(self.folder.glob("trials/*/outcome.json"), key=lambda f: (f.stat().st_mtime_ns, f.parent.name))
        new: list[Outcome] = []
        for file in files:
            if known.get(file.parent.name):
                continue
            outcome = self._outcome(read_json(file), f"{file}")
            if outcome.key != file.parent.name:
                raise InputError(f"{file}: belongs to job {outcome.key}; delete the folder to run that trial again")
            if (outcome.complete or outcome.key not in known) and self.append(outcome):
                new.append(outcome)
        return new

    def _recorded(self) -> dict[str, bool]:
        if self._known is None:
            raise RuntimeError("RunStore: only the driver that holds the lock may write the journal")
        return self._known

    def _parse(self, line: bytes, where: str) -> Outcome:
        try:
            data = json.loads(line)
        except RecursionError:
            raise InputError(f"{where}: not readable as JSON: nested too deeply") from None
        except ValueError as error:
            raise InputError(f"{where}: not readable as JSON: {error}") from error
        return self._outcome(data, where)

    @staticmethod
    def _outcome(data: Any, where: str) -> Outcome:
        try:
            return Outcome.from_json(data)
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error

    def _write(self, outcome: Outcome) -> None:
        line = json.dumps(outcome.to_json(), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        fresh = not self.journal.exists()
        with self.journal.open("ab") as file:
            start = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.journal, start)  # a full disk must not leave half a line in the middle
                raise
        if fresh:
            sync_folder(self.folder)

    def _cut_torn_tail(self) -> None:
        """Remove what a kill in mid-write left, or the next line would be glued to it."""
        if self.journal.exists():
            text = self.journal.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                os.truncate(self.journal, whole)
