"""A run's jobs are the same however many workers there are, whatever order they end in, and wherever it was stopped."""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from niwaki.search.events import Event, PhaseFinished, TrialFinished, TrialStarted
from niwaki.search.outcome import Job, Outcome
from niwaki.search.promotion import Ladder, certain, promote
from niwaki.search.runners import WAIT
from niwaki.search.schedule import Schedule, Stage
from niwaki.search.store import RunStore
from niwaki.spaces import Candidate, Cost

LADDER = Ladder((10, 10, 10), eta=2.5, costs=())
LEVELS = (1.0, 0.5)
FIRST = 40


def stages(schedule: Schedule, first: int = FIRST, barrier: bool = False) -> Iterator[Stage]:
    """Three rungs; those that follow are what :func:`promote` says. ``barrier``: nothing begins ahead of its rung."""
    jobs = [Job(Candidate({"a": i + 1}), "search", 0, 10, 0, level=LEVELS[i % 2]) for i in range(first)]
    for rung in range(3):
        if rung:
            jobs = promote(schedule.of("search"), rung - 1, LADDER)

        def ahead(running: Sequence[Job], rung: int = rung) -> list[Job]:
            return [] if barrier else certain(schedule.of("search"), running, rung, LADDER)

        yield Stage("search", f"rung {rung}", len(jobs), iter(jobs), ahead)


def answer(job: Job) -> Outcome:
    """Accuracies with many ties; every seventh candidate fails."""
    width = job.candidate.widths["a"]
    if width % 7 == 0:
        return Outcome(job, Cost(1, 1, 1), status="failed", error="boom")
    return Outcome(job, Cost(width, 1, 1), {"accuracy": (width * 37 % 11) / 11 + 0.001 * job.rung})


@dataclass
class Crew:
    """``size`` workers whose jobs end in a random order; ``handed`` in the order of the asks."""

    schedule: Schedule
    size: int
    seed: int
    handed: list[Job] = field(default_factory=list)
    ahead: int = 0

    def work(self, ends: int = 10**6) -> bool:
        """Until the run is done (True) or ``ends`` jobs have ended (False)."""
        live: list[Job] = []
        rng = random.Random(self.seed)
        while True:
            job = self.schedule.ask() if len(live) < self.size else WAIT
            if isinstance(job, Job):
                self.ahead += any(other.rung < job.rung for other in live)
                assert job.parent is None or any(o.key == job.parent for o in self.schedule.outcomes)
                self.handed.append(job)
                live.append(job)
                continue
            if job is None:
                assert not live
                return True
            if not ends:
                return False
            self.schedule.tell(answer(live.pop(rng.randrange(len(live)))))
            ends -= 1


def crew(store: RunStore, size: int, seed: int, events: list[Event] | None = None) -> Crew:
    told = [] if events is None else events
    return Crew(Schedule(store, stages, lambda job: Cost(9, 9, 9), told.append), size, seed)


def expected() -> set[str]:
    """The keys that one rung after the other gives, without a schedule."""
    done = [answer(Job(Candidate({"a": i + 1}), "search", 0, 10, 0, level=LEVELS[i % 2])) for i in range(FIRST)]
    for rung in (0, 1):
        done += [answer(job) for job in promote(done, rung, LADDER)]
    return {o.key for o in done}


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (2, 1), (2, 2), (5, 3), (12, 4), (12, 5), (100, 6), (100, 7)])
def test_any_number_of_workers_does_the_same_jobs_each_once(tmp_path: Path, size: int, seed: int) -> None:
    store, events = RunStore.create(tmp_path / "run", ""), list[Event]()
    with store.lock():
        team = crew(store, size, seed, events)
        assert team.work()
    keys = [job.key for job in team.handed]
    assert len(keys) == len(set(keys))
    assert set(keys) == expected() == {o.key for o in store.outcomes()}
    assert [e.job.key for e in events if isinstance(e, TrialStarted)] == keys
    assert sorted(e.outcome.key for e in events if isinstance(e, TrialFinished)) == sorted(keys)
    assert all(e.done <= e.total for e in events if isinstance(e, TrialFinished))
    rungs = [sum(job.rung == rung for job in team.handed) for rung in range(3)]
    assert [e.detail for e in events if isinstance(e, PhaseFinished)] == [f"{n} trials" for n in rungs]
    assert team.ahead if 1 < size < 100 else size == 100 or not team.ahead


@pytest.mark.parametrize(("ends", "seed"), [(3, 0), (25, 1), (36, 2), (39, 3), (41, 4), (50, 5)])
def test_a_run_stopped_anywhere_goes_on_with_what_is_missing(tmp_path: Path, ends: int, seed: int) -> None:
    store = RunStore.create(tmp_path / "run", "")
    with store.lock():
        assert not crew(store, 6, seed).work(ends)
    done = {o.key for o in store.outcomes() if o.complete}
    with store.lock():
        again = crew(store, 3, seed)
        assert again.work()
    assert not done & {job.key for job in again.handed}
    assert {o.key for o in store.outcomes()} == expected()
    assert sum(o.complete for o in again.schedule.outcomes) == again.schedule.completed("search")


def busy(store: RunStore, workers: int, barrier: bool) -> float:
    """Share of the time of simulated workers that goes into jobs, until the last one is handed out."""
    plan = functools.partial(stages, first=400, barrier=barrier)
    schedule, rng = Schedule(store, plan, lambda job: Cost(9, 9, 9), lambda event: None), random.Random(0)
    now, last, free = 0.0, 0.0, workers
    running: list[tuple[float, str, Job]] = []
    spans: list[tuple[float, float]] = []
    while True:
        while free and isinstance(job := schedule.ask(), Job):
            spans.append((now, now + rng.lognormvariate(0, 0.6)))
            heapq.heappush(running, (spans[-1][1], job.key, job))
            last, free = now, free - 1
        if not running:
            return sum(min(end, last) - begin for begin, end in spans) / (workers * last)
        now, _, done = heapq.heappop(running)
        schedule.tell(answer(done))
        free += 1


def test_workers_that_would_wait_at_the_end_of_a_rung_begin_with_the_next(tmp_path: Path) -> None:
    shares = []
    for barrier in (False, True):
        store = RunStore.create(tmp_path / str(barrier), "")
        with store.lock():
            shares.append(busy(store, 16, barrier))
    assert shares[0] > 0.97
    assert shares[1] < 0.95, "the durations are such that a barrier costs something"


def test_a_stage_that_offers_nothing_ahead_is_a_barrier(tmp_path: Path) -> None:
    jobs = [Job(Candidate({"a": i}), "final", 0, 10, 0) for i in (1, 2)]

    def two(schedule: Schedule) -> Iterator[Stage]:
        for job in jobs:
            yield Stage("finals", "finals", 1, iter([job]))

    store = RunStore.create(tmp_path / "run", "")
    with store.lock():
        schedule = Schedule(store, two, lambda job: Cost(9, 9, 9), lambda event: None)
        assert schedule.ask() == jobs[0]
        assert schedule.ask() is WAIT
        schedule.tell(Outcome(jobs[0], Cost(0, 0, 0), status="failed", error="died"))
        assert schedule.outcomes[0].cost == Cost(9, 9, 9), "priced, where the worker could not say"
        assert schedule.ask() == jobs[1]
