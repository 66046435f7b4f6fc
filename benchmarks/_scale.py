"""Stub trials through the real stages, proposer and journal; and a cluster whose workers are simulated."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from niwaki.distill import build
from niwaki.search.budget import Budget
from niwaki.search.config import load_config
from niwaki.search.costing import Costing
from niwaki.search.events import ignore
from niwaki.search.finalists import Measured
from niwaki.search.outcome import Job, Outcome
from niwaki.search.phases import Phases
from niwaki.search.runners import Pause, RunnerSetup
from niwaki.search.schedule import Schedule
from niwaki.search.store import RunStore
from niwaki.search.subject import Subject
from niwaki.spaces import Cost, derive


class TimedStore(RunStore):
    """A store that adds up the ``seconds`` its journal takes."""

    seconds = 0.0

    def append(self, outcome: Outcome) -> bool:
        start = time.perf_counter()
        try:
            return super().append(outcome)
        finally:
            self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Stub:
    """A trial that only answers: accuracy by the widths, with noise by the candidate's key."""

    def __call__(self) -> Callable[..., Outcome]:
        return lambda job, *_: self.answer(job)

    def answer(self, job: Job) -> Outcome:
        widths = np.array(list(job.candidate.widths.values()), dtype=np.float64)
        noise = int(job.candidate.key, 16) % 997 / 997
        accuracy = round(0.5 + 0.3 * float(np.tanh(widths.mean() / 40)) + 0.02 * noise + 0.01 * job.rung, 4)
        return Outcome(job, Cost(1, 1, 1), {"accuracy": accuracy}, images=job.images, seconds=1.0)


@dataclass(frozen=True, eq=False)
class StubRun:
    """A locked run folder and the schedule that a driver would have."""

    store: TimedStore
    schedule: Schedule
    stub: Stub


@contextmanager
def stub_run(folder: Path, trials: int, proposer: str) -> Iterator[StubRun]:
    """A run of about ``trials`` jobs: a first rung, a third of it at a second, and the finals."""
    settings = [f"search.trials={round(trials / 1.34)}", f"search.proposer={proposer}", "search.keep=0.34",
                "train.rungs=[1000,2000]", "space.depth=true"]  # fmt: skip
    config = load_config("cifar10_resnet20", settings)
    model = build("cifar_resnet20", 10, {"shortcut": "A"})
    space = derive(model, torch.zeros(2, 3, 32, 32))
    costing, cost = Costing(space), space.cost(space.largest())
    limits = Budget(macs="70%", size="80%").resolve(cost)
    subject = Subject(config, cast(Any, None), model, space, costing, cost, limits, None)
    phases = Phases(subject, lambda candidates: Measured(), _no_worth, ignore)
    store = TimedStore.create(folder / "run", "")
    store = TimedStore(store.folder)
    with store.lock():
        yield StubRun(store, Schedule(store, phases, lambda job: cost, ignore), Stub())


class Clocked:
    """``ask`` and ``tell`` of a schedule, with the seconds they take.

    Attributes:
        asking, telling: seconds in all. cpu: CPU seconds of both, which other work on the machine does not change.
        last_tenth: mean seconds of a trial's ask and tell over the last tenth of the trials.
    """

    def __init__(self, run: StubRun) -> None:
        self.run, self.asking, self.telling, self.cpu = run, 0.0, 0.0, 0.0
        self._each: list[float] = []

    def ask(self) -> Job | Pause | None:
        start, cpu = time.perf_counter(), time.process_time()
        job = self.run.schedule.ask()
        took = time.perf_counter() - start
        self.asking, self.cpu = self.asking + took, self.cpu + time.process_time() - cpu
        self._each.append(took)
        return job

    def tell(self, outcome: Outcome) -> None:
        start, cpu = time.perf_counter(), time.process_time()
        self.run.schedule.tell(outcome)
        took = time.perf_counter() - start
        self.telling, self.cpu = self.telling + took, self.cpu + time.process_time() - cpu
        self._each[-1] += took

    @property
    def last_tenth(self) -> float:
        return float(np.mean(self._each[-max(1, len(self._each) // 10) :]))


def loop(clock: Clocked, in_flight: int = 16) -> None:
    """Every job of the run, answered at once, with some in flight as on a cluster."""
    live: list[Job] = []
    while True:
        job = clock.ask()
        if isinstance(job, Job):
            live.append(job)
            if len(live) < in_flight:
                continue
        elif job is None:
            return
        clock.tell(clock.run.stub.answer(live.pop(0)))


def tuned(clock: Clocked, scratch: Path, workers: int) -> float:
    """The same through Ray Tune; seconds from the first outcome to the last, scaled to all of them."""
    from niwaki.search.runners.tune import Tune

    ends: list[float] = []

    def tell(outcome: Outcome) -> None:
        clock.tell(outcome)
        ends.append(time.perf_counter())

    Tune(RunnerSetup(clock.run.stub, scratch, workers)).run(clock.ask, tell)
    return (ends[-1] - ends[0]) * len(ends) / (len(ends) - 1)


@dataclass(frozen=True)
class Busy:
    """What a simulated cluster did.

    Attributes:
        trials: jobs done.
        busy: share of the workers' time spent on trials until the last job of the search was handed out.
        busy_to_end: the same until the last one ended.
        driver: share of that time in which the driver worked. driver_seconds: its work in all.
    """

    trials: int
    busy: float
    busy_to_end: float
    driver: float
    driver_seconds: float


def cluster(run: StubRun, workers: int, seconds: float, overhead: float, seed: int = 0) -> Busy:
    """The search's jobs on ``workers`` simulated workers, told and asked by the one driver there is.

    Trials last ``seconds`` on average, log-normal (sigma 0.5). The driver's clock advances by what ``ask`` and ``tell``
    really take, and by ``overhead`` seconds a job for the runner; a worker that ends meanwhile waits for it.
    """
    rng, running, spans = np.random.default_rng(seed), list[tuple[float, int, Job]](), list[tuple[float, float]]()
    now = own = last = 0.0
    free, job = workers, None
    while True:
        while free:
            start = time.perf_counter()
            job = run.schedule.ask()
            took = time.perf_counter() - start
            now, own = now + took, own + took
            if not isinstance(job, Job):
                break
            now, own, free = now + overhead, own + overhead, free - 1
            length = seconds * float(rng.lognormal(-0.125, 0.5))
            heapq.heappush(running, (now + length, len(spans), job))
            spans.append((now, now + length))
            last = now if job.kind == "search" else last
        if job is None or not running:
            break
        end, _, done = heapq.heappop(running)
        now = max(now, end)
        start = time.perf_counter()
        run.schedule.tell(run.stub.answer(done))
        took = time.perf_counter() - start
        now, own, free = now + took, own + took, free + 1
    until = sum(max(0.0, min(end, last) - begin) for begin, end in spans)
    whole = sum(end - begin for begin, end in spans)
    return Busy(len(spans), until / (workers * last), whole / (workers * now), own / now, own)


def _no_worth(matrix: Any) -> Any:
    raise AssertionError("without a latency budget no finalist is moved")
