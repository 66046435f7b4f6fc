"""Where a run stands, read from its folder by any process: nothing is written, and no driver is kept waiting."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from niwaki.search.config import load_config
from niwaki.search.forecast import Forecast, Seen, Tally, forecast, tallies
from niwaki.search.look import PhaseNow, Rate, look
from niwaki.search.outcome import Outcome
from niwaki.search.store import RunStore
from niwaki.spaces import Cost


@dataclass(frozen=True)
class RunningTrial:
    """A job on a worker: ``done`` of ``total`` training images after ``seconds``."""

    key: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Best:
    """The best validation accuracy so far among candidates of one level of the budget."""

    level: float
    accuracy: float
    trial: str
    images: int
    cost: Cost


@dataclass(frozen=True)
class Failure:
    """A failed trial, why in one line, and its log where it got to write one."""

    trial: str
    reason: str
    log: str | None


@dataclass(frozen=True)
class Status:
    """Where a run stands. ``forecast``, ``rate`` and ``phase`` are None where nothing is known of them.

    Attributes:
        state: ``running``: a process holds the lock; ``finished``: judged and reported; else ``stopped``.
        driver: the process that holds the lock, such as ``process 4711 on node7``.
        ended: why a stopped run stopped.
        trials: by kind, in the order in which they run.
        failures: oldest first; a trial that succeeded when it was tried again is none.
        notes: what else the reader should know.
    """

    folder: str
    name: str
    state: Literal["running", "stopped", "finished"]
    driver: str | None
    ended: str | None
    seconds: float | None
    phase: PhaseNow | None
    trials: tuple[Tally, ...]
    running: tuple[RunningTrial, ...]
    best: tuple[Best, ...]
    rate: Rate | None
    forecast: Forecast | None
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values with the names of the fields; durations in seconds, accuracies 0..1, bytes, milliseconds."""
        data = {"schema": 1, **asdict(self), "trials": [asdict(t) | {"open": t.open} for t in self.trials]}
        if self.rate is not None:
            hourly = {"trials_per_hour": self.rate.trials_per_hour, "images_per_hour": self.rate.images_per_hour}
            data["rate"] = asdict(self.rate) | hourly
        return data


def status(folder: str | Path, now: float | None = None) -> Status:
    """Where the run in ``folder`` stands at the moment ``now`` (seconds since 1970; None: the clock's).

    Raises:
        InputError: the folder is no run, or its configuration or journal cannot be read.

    Example:
        >>> import tempfile
        >>> store = RunStore.create(Path(tempfile.mkdtemp()) / "run", "budget: {macs: 50%}\\nsearch: {trials: 8}")
        >>> found = status(store.folder)
        >>> found.state, found.trials[0].name, found.trials[0].open
        ('stopped', 'search, rung 1', 8)
    """
    store = RunStore.open(folder)
    config = load_config(store.config)
    found = look(store, time.time() if now is None else now)
    running, finished = found.running, found.finished
    ended = [o for o in found.outcomes if o.key not in running]
    seen = Seen(config, ended, running, found.progress, found.now, finished)
    trials = tuple(tallies(seen))
    return Status(
        folder=str(store.folder),
        name=config.run.name,
        state="finished" if finished else "running" if found.driver else "stopped",
        driver=found.driver,
        ended=found.ended,
        seconds=found.seconds,
        phase=None if finished else found.phase,
        trials=trials,
        running=tuple(RunningTrial(k, r.done, r.total, max(0.0, found.now - r.started)) for k, r in running.items()),
        best=_best(found.outcomes),
        rate=found.rate,
        forecast=None if finished else forecast(seen, trials),
        failures=tuple(_failure(o, store) for o in ended if not o.complete),
        notes=found.notes,
    )


def reason(outcome: Outcome) -> str:
    """Why a trial failed, in one printable line: the last one, which in a traceback is the error itself."""
    lines = (outcome.error or "").strip().splitlines()
    return "".join(c if c.isprintable() else " " for c in lines[-1]) if lines else "no reason given"


def _best(outcomes: Sequence[Outcome]) -> tuple[Best, ...]:
    best: dict[float, Outcome] = {}
    for outcome in outcomes:
        if outcome.complete and outcome.job.kind in ("search", "final"):
            level = outcome.job.level
            best[level] = max(best.get(level, outcome), outcome, key=lambda o: (o.accuracy, o.images))
    return tuple(Best(level, o.accuracy, o.key, o.images, o.cost) for level, o in sorted(best.items(), reverse=True))


def _failure(outcome: Outcome, store: RunStore) -> Failure:
    log = store.trial(outcome.key) / "log.txt"
    return Failure(outcome.key, reason(outcome), str(log) if log.is_file() else None)
