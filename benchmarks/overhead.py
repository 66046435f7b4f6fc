"""Claim: controller and Ray take a small share of a trial. Stub trials of a known length through the real runner."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _bench import report

from niwaki.search.budget import Budget
from niwaki.search.costing import Costing
from niwaki.search.outcome import Job, Outcome
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers.nsga2 import NSGA2
from niwaki.search.runners import RunnerSetup
from niwaki.search.runners.tune import Tune
from niwaki.search.store import RunStore
from niwaki.spaces import Cost, derive

TRIALS, WORKERS, SLEEP = 40, 2, 0.5


@dataclass(frozen=True)
class Stub:
    """A trial that sleeps: it costs no CPU, so what is left of the wall clock is overhead."""

    seconds: float

    def __call__(self) -> Callable[[Job], Outcome]:
        def work(job: Job) -> Outcome:
            time.sleep(self.seconds)
            accuracy = float(np.mean(list(job.candidate.widths.values())) % 1)
            return Outcome(job, Cost(1, 1, 1), {"accuracy": accuracy}, "complete", None, job.images, self.seconds)

        return work


def main() -> None:
    import torch

    from niwaki.distill import build

    space = derive(build("cifar_resnet20", 10, {}), torch.zeros(2, 3, 32, 32))
    costing = Costing(space)
    limits = Budget(macs="60%").resolve(space.cost(space.largest()))
    proposer = NSGA2(ProposerSetup(space, costing, limits, (1.0, 0.8), 0, ()))
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore.create(Path(folder) / "run", "")
        starts: list[float] = []
        ends: list[float] = []

        def ask() -> Job | None:
            if len(starts) == TRIALS:
                return None
            proposal = proposer.ask()
            assert proposal is not None
            starts.append(time.perf_counter())
            return Job(proposal.candidate, "search", 0, 1000, proposal.number, None, proposal.level)

        def tell(outcome: Outcome) -> None:
            proposer.tell(outcome)
            store.append(outcome)
            ends.append(time.perf_counter())

        with store.lock():
            begin = time.perf_counter()
            Tune(RunnerSetup(Stub(SLEEP), Path(folder) / "scratch", WORKERS)).run(ask, tell)
            total = time.perf_counter() - begin
    busy = ends[-1] - ends[WORKERS - 1]  # from the first round of ends: the start of Ray and its workers is apart
    per_trial = busy * WORKERS / (TRIALS - WORKERS) - SLEEP
    rows = [
        {"what": "start of Ray and two workers, once", "figure": total - busy - SLEEP, "unit": "s"},
        {"what": "ask + Tune + tell + journal, each trial", "figure": per_trial * 1e3, "unit": "ms"},
        {"what": "share of a 30 s trial (target <= 5)", "figure": 100 * per_trial / (30 + per_trial), "unit": "%"},
    ]
    report("overhead", f"{TRIALS} stub trials of {SLEEP} s, {WORKERS} workers, NSGA-II, CIFAR ResNet-20 space", rows)


if __name__ == "__main__":
    main()
