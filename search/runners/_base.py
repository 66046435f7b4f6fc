"""What a runner is: it takes jobs from ``ask``, has them done, and hands every outcome to ``tell``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol

from niwaki.search.outcome import Job, Outcome


class Pause(Enum):
    """``ask``'s answer when there is nothing to do until a running job has been told."""

    WAIT = "wait"


class Pulse:
    """What a job shows of itself while it runs: that it is alive, and how far it is.

    Attributes:
        last: monotonic time of the latest sign of life. done, total: steps, usually training images.
    """

    def __init__(self, listener: Callable[[int, int], None] | None = None) -> None:
        self._listener = listener
        self.last, self.done, self.total = time.monotonic(), 0, 0

    def beat(self, *_: object) -> None:
        """A sign of life; takes any arguments, so that it can be a hook."""
        self.last = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        """Steps done and steps in all."""
        self.beat()
        self.done, self.total = done, total
        if self._listener is not None:
            self._listener(done, total)


WAIT = Pause.WAIT
Ask = Callable[[], Job | Pause | None]
"""The next job; ``WAIT`` while only the end of a running job can bring more; None when nothing will come any more."""
Tell = Callable[[Outcome], None]
Follow = Callable[[Job, int, int], None]
"""Told now and then how far a running job is: steps done, steps in all."""
Work = Callable[[Job, Pulse], Outcome]


class MakeWork(Protocol):
    """Called once in every worker process: reads what all jobs share and returns the function that does one."""

    def __call__(self) -> Work: ...


class Movable(MakeWork, Protocol):
    """A :class:`MakeWork` over a run folder, of which there may be a copy where the worker is."""

    @property
    def folder(self) -> Path: ...
    def at(self, folder: Path) -> MakeWork: ...


@dataclass(frozen=True)
class RunnerSetup:
    """Resources of a runner, and what it does about jobs that go wrong.

    Attributes:
        make_work: picklable; see :class:`MakeWork`.
        scratch: a folder of the run for what the runner must write to disk; removed when it ends.
        workers: jobs at a time; None: as many as fit.
        cpus: CPUs a job takes. gpus: GPUs a job takes; fractions share one. resources: others, by name.
        retries: how often a job is tried again after its worker process died.
        hang_after: seconds without a sign of life after which a job has failed.
        address: of a cluster that runs already; None: none does.
        share: how workers get at the run folder: as a ``folder`` that all machines see, through Ray's object ``store``,
            or (``auto``) the one where they see it and the other where not.
        verbose: show what the library underneath prints.
    """

    make_work: MakeWork
    scratch: Path
    workers: int | None = 1
    cpus: int = 1
    gpus: float = 0.0
    retries: int = 1
    resources: Mapping[str, float] = field(default_factory=dict)
    hang_after: float = 1800.0
    address: str | None = None
    share: Literal["auto", "folder", "store"] = "auto"
    verbose: bool = False


class Runner(Protocol):
    """One file of this folder, one class, built from a :class:`RunnerSetup`.

    ``run`` returns when ``ask`` has answered None and everything asked has been told. ``ask``, ``tell`` and ``follow``
    are called from the calling thread only. A job that fails is told as a failed outcome; KeyboardInterrupt passes
    through, with running jobs abandoned.
    """

    def run(self, ask: Ask, tell: Tell, follow: Follow = ...) -> None: ...


def cpu_count() -> int:
    """CPUs this process may use: the allocation of a container or a batch job, not what the host has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(cpus: int, gpus: float, devices: int) -> int:
    """How many jobs fit this machine at once when nobody said.

    Example:
        >>> default_workers(cpus=64, gpus=0.5, devices=0)
        1
    """
    by_cpu = max(1, cpu_count() // cpus)
    return max(1, min(by_cpu, int(devices / gpus))) if gpus and devices else by_cpu


def nobody(job: Job, done: int, total: int) -> None:
    """The :data:`Follow` of a caller who does not."""
