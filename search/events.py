"""What a run tells whoever watches it: frozen values handed to one listener, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from niwaki.search.outcome import Job, Outcome
from niwaki.spaces.types import Cost

Phase = Literal[
    "data", "space", "latency", "teacher", "answers", "sensitivity", "learn", "search", "measure", "finals", "test",
    "export", "report",
]


@dataclass(frozen=True)
class RunStarted:
    """The first event. ``resumed``: the folder held a run already; ``kept`` of its trials count as finished."""

    folder: Path
    name: str
    resumed: bool
    kept: int


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins; ``total`` steps are expected (trials, models...), None where it is one step.

    A phase may come in parts, one event each: the rungs of a search, told apart by ``title``.
    """

    phase: Phase
    total: int | None = None
    title: str = ""


@dataclass(frozen=True)
class PhaseProgress:
    """Steps done within a phase that is not made of trials (training images of the teacher, models timed...)."""

    phase: Phase
    done: int
    total: int


@dataclass(frozen=True)
class PhaseFinished:
    """A phase ended after ``seconds``; ``detail`` is one line to show ("teacher: 98.1 % on validation")."""

    phase: Phase
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class BudgetsResolved:
    """The teacher's cost and the absolute limits: ms, MACs, parameters, bytes."""

    teacher: Cost
    limits: Mapping[str, float]


@dataclass(frozen=True)
class TrialStarted:
    """A job was handed to a worker."""

    job: Job


@dataclass(frozen=True)
class TrialProgress:
    """A job that runs has seen ``done`` of its ``total`` training images."""

    job: Job
    done: int
    total: int


@dataclass(frozen=True)
class TrialFinished:
    """A job ended, complete or failed; ``done`` of ``total`` in ``phase``."""

    phase: Phase
    outcome: Outcome
    done: int
    total: int


@dataclass(frozen=True)
class Notice:
    """Something the user should know that stops nothing."""

    message: str


@dataclass(frozen=True)
class RunFinished:
    """The last event of a run that reached its end; ``members`` models are on the front."""

    folder: Path
    members: int
    seconds: float


Event = (
    RunStarted | PhaseStarted | PhaseProgress | PhaseFinished | BudgetsResolved
    | TrialStarted | TrialProgress | TrialFinished | Notice | RunFinished
)
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a run that nobody watches."""
