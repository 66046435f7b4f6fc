"""Ask and tell on an Optuna study in memory that holds what was really tried: the repaired candidates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from niwaki.search.costing import Ints, SearchSpace
from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._setup import Levels, ProposerSetup
from niwaki.spaces.types import Candidate

MakeSampler = Callable[[int], BaseSampler]
Heard = Callable[[FrozenTrial], None]


class StudySearch:
    """A multi-objective study: accuracy up, each budgeted cost down (MACs where there is no budget).

    What the sampler draws is fitted to the budget before it is tried, so for each proposal the drawn trial is closed as
    FAIL, which samplers do not look at, and one with the repaired parameters is enqueued and started in its place. No
    infeasible candidate ever enters the study; failed ones end as FAIL.

    A fresh sampler with a seed of its own serves every draw (Optuna's NSGA-II and TPE keep their state in the study),
    so the proposals follow from the seed and the outcomes told, also after a resume.

    Args:
        setup: the run.
        draws: makes the sampler that proposes, from a seed.
        starts: makes the sampler that is in place when a trial is started whose parameters are given. NSGA-II must be,
            since it numbers generations there; where nothing happens, a cheap one saves time.
        heard: told of every trial of the study that has ended, drawn ones included.
    """

    patience = 20
    """Draws in a row without a new candidate after which uniform ones replace the sampler's."""

    def __init__(
        self, setup: ProposerSetup, draws: MakeSampler, starts: MakeSampler, heard: Heard = lambda trial: None
    ) -> None:
        self._setup, self._draws, self._starts, self._heard = setup, draws, starts, heard
        self._costs = tuple(setup.limits.values) or ("macs",)
        self._levels = Levels(setup)
        self._sizes = setup.sizes
        self._distributions = distributions(setup.space)
        self._running: dict[str, int] = {}
        self._count = 0
        with _quiet():
            directions = [StudyDirection.MAXIMIZE, *(StudyDirection.MINIMIZE for _ in self._costs)]
            self.study = optuna.create_study(directions=directions, sampler=starts(0))

    def ask(self) -> Proposal | None:
        with _quiet():
            proposal = self._levels.propose(self._draw)
            if proposal is not None:
                self._start(proposal.candidate, proposal.number)
            return proposal

    def tell(self, outcome: Outcome) -> None:
        if not self._levels.record(outcome):
            return
        candidate = outcome.job.candidate
        with _quiet():
            if candidate.key not in self._running:
                self._start(candidate, self._count)
            number = self._running.pop(candidate.key)
            if outcome.complete:
                row = np.asarray([self._setup.space.encode(candidate)], dtype=np.int64)
                cost = self._setup.costing(row)  # predicted, as for all others, also where one was measured
                values = [outcome.accuracy, *(float(cost[name][0]) for name in self._costs)]
                self._heard(self.study.tell(number, values))
            else:
                self._heard(self.study.tell(number, state=TrialState.FAIL))

    def _draw(self, rng: np.random.Generator, attempt: int) -> Ints:
        if attempt >= self.patience:
            return rng.integers(0, self._sizes)
        self.study.sampler = self._draws(int(rng.integers(2**31)))
        trial = self.study.ask(self._distributions)
        self._heard(self.study.tell(trial, state=TrialState.FAIL))
        self._count += 1
        row = np.zeros(len(self._sizes), dtype=np.int64)
        for name, value in trial.params.items():
            row[int(name.partition(":")[0])] = value
        return row

    def _start(self, candidate: Candidate, seed: int) -> None:
        row = self._setup.space.encode(candidate)
        self.study.sampler = self._starts(seed)
        self.study.enqueue_trial({name: row[int(name.partition(":")[0])] for name in self._distributions})
        trial = self.study.ask(self._distributions)
        _ = trial.relative_params  # computed on first use, which is where NSGA-II numbers its generations
        self._running[candidate.key] = trial.number
        self._count += 1


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The variables of a space as Optuna's, by ``place:name``; those with a single choice are left out."""
    return {
        f"{i}:{v.name}": CategoricalDistribution(tuple(range(len(v.choices)))) if v.kind == "sparsity"
        else IntDistribution(0, len(v.choices) - 1)
        for i, v in enumerate(space.variables) if len(v.choices) > 1
    }  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's experimental warnings and info lines from the user; its errors come through."""
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)
