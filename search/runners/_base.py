"""What a runner is: it takes jobs from ``ask``, has them done, and hands every outcome to ``tell``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from niwaki.search.outcome import Job, Outcome


class Pause(Enum):
    """``ask``'s answer when there is nothing to do until a running job has been told."""

    WAIT = "wait"


WAIT = Pause.WAIT
Ask = Callable[[], Job | Pause | None]
"""The next job; ``WAIT`` while only the end of a running job can bring more; None when nothing will come any more."""
Tell = Callable[[Outcome], None]
Work = Callable[[Job], Outcome]
MakeWork = Callable[[], Work]
"""Called once in every worker process: reads what all jobs share and returns the function that does one."""


@dataclass(frozen=True)
class RunnerSetup:
    """Resources of a runner.

    Attributes:
        make_work: picklable; see :data:`MakeWork`.
        scratch: a folder of the run for what the runner must write to disk; removed when it ends.
        workers: jobs at a time.
        cpus: CPUs a job takes.
        gpus: GPUs a job takes; fractions share one.
        retries: how often a job is tried again after its worker process died.
    """

    make_work: MakeWork
    scratch: Path
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    retries: int = 1


class Runner(Protocol):
    """One file of this folder, one class, built from a :class:`RunnerSetup`.

    ``run`` returns when ``ask`` has answered None and everything asked has been told. ``ask`` and ``tell`` are called
    from the calling thread only. A job that fails is told as a failed outcome; KeyboardInterrupt passes through, with
    running jobs abandoned.
    """

    def run(self, ask: Ask, tell: Tell) -> None: ...


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
