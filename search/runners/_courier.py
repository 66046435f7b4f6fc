"""The run folder for workers on machines that do not see it: through Ray's object store, once a machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import ray

from niwaki.search.files import atomic
from niwaki.search.outcome import KEY, Job
from niwaki.search.runners._base import MakeWork, Movable, Work

_ROOT = ("config.yaml", "teacher.safetensors", "space.json", "latency.json", "staircase.json", "scores.safetensors",
         "facts.json")  # fmt: skip
"""What every worker reads, beside everything under ``.shared``."""
_LEARNED = ("supernet*.safetensors", "tas-*.safetensors", "tas-*.json")
"""What a proposer learns: a worker writes it, the others read it."""


class Depot:
    """The run folder where the driver runs; an actor, which the couriers ask.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._shared: dict[tuple[str, int], Any] = {}

    def stamps(self, patterns: list[str]) -> dict[str, int]:
        """Files that match, by name relative to the folder: when each was last written, in ns."""
        found = {f for p in patterns for f in self._folder.glob(p) if f.is_file() and not f.name.endswith(".tmp")}
        return {f.relative_to(self._folder).as_posix(): f.stat().st_mtime_ns for f in sorted(found)}

    def share(self, name: str) -> list[Any]:
        """A reference to the bytes of a file, put into the object store once; in a list, so that it stays one."""
        path = inside(self._folder, name)
        key = (name, path.stat().st_mtime_ns)
        if key not in self._shared:
            bytes_ = ray.put(np.fromfile(path, dtype=np.uint8))
            if not name.startswith("trials/"):  # those are read once or twice
                self._shared[key] = bytes_
            return [bytes_]
        return [self._shared[key]]

    def store(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all; ValueError for one that is no business of a worker's."""
        path = inside(self._folder, name)
        parts = Path(name).parts
        trial = len(parts) == 3 and parts[0] == "trials" and KEY.fullmatch(parts[1])
        if not trial and not any(Path(name).match(p) and len(parts) == 1 for p in _LEARNED):
            raise ValueError(f"{name!r}: workers write to their trials only")
        with atomic(path) as draft:
            draft.write_bytes(content)

    def remove(self, name: str) -> None:
        """Of what a worker has sent, what it needs no more."""
        if Path(name).parts[0] == "trials":
            inside(self._folder, name).unlink(missing_ok=True)


@dataclass
class Courier:
    """Brings a worker what it needs of the run folder and sends back what its jobs write; unless it sees the folder.

    Attributes:
        depot: handle of the actor.
        folder: of the run, where the driver runs.
        token: name of a file that the driver has written there: who sees it sees the folder.
        share: see :class:`niwaki.search.runners.RunnerSetup`.
    """

    depot: Any
    folder: Path
    token: str
    share: Literal["auto", "folder", "store"]

    def open(self, make_work: MakeWork) -> Work:
        """Make the work over the folder itself, or over a copy of it on this machine."""
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}
        self.copy: Path | None = None
        if self.share == "folder" or (self.share == "auto" and (self.folder / ".runner" / self.token).is_file()):
            return make_work()
        self.copy = copy_of(self.token)
        self._fetch([*_ROOT, ".shared/*", *_LEARNED])
        return cast(Movable, make_work).at(self.copy)()

    def bring(self, job: Job) -> None:
        """What came of the job's parent, of an earlier try of the job itself, and what was learned meanwhile."""
        keys = [job.key] if job.parent is None else [job.key, job.parent]
        if self.copy is not None:
            self._fetch([*_LEARNED, *(f"trials/{key}/*" for key in keys)])

    def send(self, job: Job) -> None:
        """What the job has written since the last time; ``outcome.json``, which declares it finished, last."""
        if self.copy is None:
            return
        with self._lock:
            patterns = (*_LEARNED, f"trials/{job.key}/*") if job.kind == "learn" else (f"trials/{job.key}/*",)
            files = [f for p in patterns for f in self.copy.glob(p) if not f.name.endswith(".tmp")]
            for file in sorted(files, key=lambda f: f.name == "outcome.json"):
                self._send(file, file.relative_to(self.copy).as_posix())
            for name in [n for n in self._known if Path(n).parent.name == job.key and not (self.copy / n).exists()]:
                ray.get(self.depot.remove.remote(name))
                del self._known[name]

    def _send(self, file: Path, name: str) -> None:
        try:
            stamp, content = file.stat().st_mtime_ns, file.read_bytes()
        except FileNotFoundError:  # a checkpoint that is not needed any more
            return
        if self._known.get(name) != stamp:
            ray.get(self.depot.store.remote(name, content))
            self._known[name] = stamp

    def _fetch(self, patterns: list[str]) -> None:
        """Files that are new; of the processes of a machine one does it, the others wait for it and find them."""
        assert self.copy is not None
        with _locked(self.copy):
            for name, stamp in ray.get(self.depot.stamps.remote(patterns)).items():
                path = inside(self.copy, name)
                if path.is_file() and path.stat().st_mtime_ns == stamp:
                    continue
                (reference,) = ray.get(self.depot.share.remote(name))
                with atomic(path) as draft:
                    ray.get(reference).tofile(draft)
                os.utime(path, ns=(stamp, stamp))
                self._known[name] = stamp


def copy_of(token: str) -> Path:
    """Where a machine keeps its copy of a run folder, for its own user's eyes."""
    folder = Path(tempfile.gettempdir()) / f"niwaki-{os.getuid()}-{token}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder}: belongs to another user")
    return folder


def inside(folder: Path, name: str) -> Path:
    """The file of this name in ``folder``; ValueError where that would lead out of it.

    Example:
        >>> inside(Path("/tmp"), "../etc/passwd")
        Traceback (most recent call last):
            ...
        ValueError: '../etc/passwd': leads out of the run folder
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r}: leads out of the run folder")
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
