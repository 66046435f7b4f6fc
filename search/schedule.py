"""Jobs in stages: what a runner asks for and tells, with a barrier between stages and the journal behind both.

A barrier must not cost what it need not: while the last jobs of a stage run, free workers get jobs of the next stage
that will come whatever those bring (:func:`niwaki.search.promotion.certain`). They are the jobs that would have come
anyway, so that a run's front does not hang on which worker was slow.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from niwaki.search.events import Listener, Phase, PhaseFinished, PhaseStarted, TrialFinished, TrialStarted
from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners import WAIT, Pause
from niwaki.search.store import RunStore
from niwaki.spaces import Cost


@dataclass(frozen=True, eq=False)
class Stage:
    """Jobs that may run side by side; the next stage begins when all of them have been told.

    Attributes:
        phase, title: what listeners call it.
        total: how many jobs are expected.
        jobs: drawn one at a time, when a worker is free, so that a proposer has heard everything that is known by then.
        ahead: given the jobs of this stage that still run, jobs that the next one is certain to contain.
    """

    phase: Phase
    title: str
    total: int
    jobs: Iterator[Job]
    ahead: Callable[[Sequence[Job]], Sequence[Job]] = lambda running: ()


Stages = Callable[["Schedule"], Iterator[Stage]]


class Schedule:
    """The ``ask`` and ``tell`` of a run.

    A job whose complete outcome is in the journal counts at once and is never handed out: resuming a run is running it.

    Args:
        store: locked by this process.
        stages: a generator function over the schedule; code between two stages runs while no job does.
        price: cost of a job whose process died without saying what it cost.
        listener: told of starts and ends.
    """

    def __init__(
        self, store: RunStore, stages: Stages, price: Callable[[Job], Cost], listener: Listener
    ) -> None:
        self._store, self._price, self._listener = store, price, listener
        self._known = {o.key: o for o in store.outcomes()}
        self._stages = stages(self)
        self._stage: Stage | None = None
        self._live: dict[str, Job] = {}  # of this stage, as everything without another word
        self._early: dict[str, Job] = {}  # of the next stage, running already
        self._ended_early: set[str] = set()  # of the next stage, told already
        self._offers: tuple[int, Iterator[Job]] = (-1, iter(()))  # jobs of the next stage, as of so many outcomes
        self._completed: Counter[str] = Counter()
        self._done = 0
        self._started = 0.0
        self.outcomes: list[Outcome] = []

    @property
    def known(self) -> tuple[Outcome, ...]:
        """What the journal held when the run (re)started, in its order."""
        return tuple(self._known.values())

    def ask(self) -> Job | Pause | None:
        """The next job for a worker; see :data:`niwaki.search.runners.Ask`."""
        while True:
            job = next(self._stage.jobs, None) if self._stage is not None else None
            if job is None:
                if self._live:
                    return self._ahead() or WAIT
                if not self._advance():
                    return None
                continue
            if job.key in self._early:
                self._live[job.key] = self._early.pop(job.key)
            elif job.key in self._ended_early:
                self._ended_early.remove(job.key)
                self._done += 1
            elif (known := self._complete(job)) is not None:
                self._count(known)
            else:
                self._live[job.key] = job
                self._listener(TrialStarted(job))
                return job

    def tell(self, outcome: Outcome) -> None:
        """Record an outcome, durably, before anybody else hears of it."""
        if outcome.cost == Cost(0, 0, 0):
            outcome = outcome.with_cost(self._price(outcome.job))
        self._store.append(outcome)
        self._live.pop(outcome.key, None)
        early = self._early.pop(outcome.key, None)
        if early is not None:
            self._ended_early.add(outcome.key)
        self._count(outcome, early is None)

    def recall(self, outcome: Outcome) -> None:
        """Count an outcome of an earlier session that no job of this one asks for again."""
        self._count(outcome)

    def of(self, *kinds: str) -> list[Outcome]:
        """Outcomes so far of these kinds of job."""
        return [o for o in self.outcomes if o.job.kind in kinds]

    def completed(self, kind: str) -> int:
        """How many jobs of a kind have come to a good end; costs nothing, however many there are."""
        return self._completed[kind]

    def _complete(self, job: Job) -> Outcome | None:
        known = self._known.get(job.key)
        return known if known is not None and known.complete else None

    def _ahead(self) -> Job | None:
        """A job of the next stage for a worker that would have to wait for the end of this one."""
        assert self._stage is not None
        if self._offers[0] != len(self.outcomes):
            self._offers = len(self.outcomes), iter(self._stage.ahead(tuple(self._live.values())))
        for job in self._offers[1]:
            if job.key in self._early or job.key in self._ended_early or self._complete(job) is not None:
                continue
            self._early[job.key] = job
            self._listener(TrialStarted(job))
            return job
        return None

    def _count(self, outcome: Outcome, of_stage: bool = True) -> None:
        self.outcomes.append(outcome)
        self._completed[outcome.job.kind] += outcome.complete
        self._done += of_stage
        if self._stage is not None:
            total = max(self._stage.total, self._done)
            self._listener(TrialFinished(self._stage.phase, outcome, self._done, total))

    def _advance(self) -> bool:
        self._finish()
        self._stage = next(self._stages, None)
        if self._stage is None:
            return False
        self._done, self._started = 0, time.perf_counter()
        self._listener(PhaseStarted(self._stage.phase, self._stage.total, self._stage.title))
        return True

    def _finish(self) -> None:
        if self._stage is not None:
            seconds = time.perf_counter() - self._started
            self._listener(PhaseFinished(self._stage.phase, seconds, f"{self._done} trials"))
            self._stage = None
