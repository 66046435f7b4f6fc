"""What the driver does for one trial must not grow with the number of trials: counted in bytecodes, not in seconds."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import pytest
from optuna.samplers import NSGAIISampler

from niwaki.search.budget import Budget
from niwaki.search.costing import Costing
from niwaki.search.events import ignore
from niwaki.search.finalists import Measured
from niwaki.search.outcome import Job, Outcome
from niwaki.search.pareto import non_dominated, ranks
from niwaki.search.phases import Phases
from niwaki.search.proposers import nsga2
from niwaki.search.schedule import Schedule
from niwaki.search.store import RunStore
from niwaki.search.subject import Subject
from tests.search.fake_space import FakeSpace, accuracy
from tests.search.tiny import tiny

SPACE = FakeSpace(stages=3, blocks=3, sparse=0)
COSTING = Costing(SPACE)
FEW, MANY, WINDOW = 40, 280, 16


class Counter:
    """Bytecodes that Python executes while it is active."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Counter:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        self.count += event == "opcode"
        return self._trace


def schedule(store: RunStore) -> Schedule:
    config = tiny(store.folder, "search.proposer=nsga2", "search.trials=10000", "budget.size=null")
    cost = COSTING.cost(SPACE.largest())
    limits = Budget(macs="60%").resolve(cost)
    subject = Subject(config, cast(Any, None), cast(Any, None), cast(Any, SPACE), COSTING, cost, limits, None)
    return Schedule(store, Phases(subject, lambda c: Measured(), cast(Any, None), ignore), lambda job: cost, ignore)


def bytecodes_of_a_trial(store: RunStore) -> tuple[float, float]:
    """Of ask and tell: means over a window after few trials and after many."""
    plan, counters = schedule(store), {FEW: Counter(), MANY: Counter()}
    for number in range(MANY + WINDOW):
        counter = next((c for start, c in counters.items() if start <= number < start + WINDOW), nullcontext())
        with counter:
            job = plan.ask()
        assert isinstance(job, Job)
        outcome = Outcome(job, COSTING.cost(job.candidate), {"accuracy": accuracy(SPACE, job.candidate)})
        with counter:
            plan.tell(outcome)
    return counters[FEW].count / WINDOW, counters[MANY].count / WINDOW


def test_asking_and_telling_does_as_much_after_many_trials_as_after_few(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", "")
    with store.lock():
        few, many = bytecodes_of_a_trial(store)
    assert many < 1.25 * few


def test_it_would_grow_with_a_sampler_that_reads_the_whole_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the count sees growth where there is some."""
    monkeypatch.setattr(nsga2.NSGA2, "_sampler", lambda self, seed: NSGAIISampler(population_size=16, seed=seed))
    store = RunStore.create(tmp_path / "run", "")
    with store.lock():
        few, many = bytecodes_of_a_trial(store)
    assert many > 1.5 * few


def test_fronts_of_ten_thousand_points_take_a_pass_not_one_a_front() -> None:
    """One figure with 10,000 values makes 10,000 fronts: ranked one after the other that would be 10^12 comparisons."""
    points = np.random.default_rng(0).permutation(10_000).astype(np.float64)[:, None]
    assert (ranks(points) == points[:, 0]).all()
    line = np.concatenate([points, -points], axis=1)
    assert non_dominated(line).all()
    assert not ranks(line).any()
