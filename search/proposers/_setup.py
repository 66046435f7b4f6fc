"""What every proposer is built with, and the part they share: fitting to the levels and never asking twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from niwaki.distill import Answers, Data, Recipe
from niwaki.search.costing import Costing, Ints, Limits, SearchSpace
from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.repair import fit_to
from niwaki.spaces.types import Candidate

Draw = Callable[[np.random.Generator, int], Ints]
"""``draw(generator, attempt)`` -> ``(variables,)`` choice indices, from a fresh generator each time."""
Report = Callable[[int, int], None]
"""Told steps done and steps in all."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a proposer can learn from that trains before it proposes.

    Attributes:
        teacher: trained; left as it is.
        data: of which ``train`` alone may be looked at: the rest judges candidates.
        scores: group -> (units,), larger = keep: which units a width means.
        folder: for checkpoints.
        device: to train on. threads: torch threads to do it with.
        recipe: of the run's trainings.
        answers: of the teacher to the training images; None where the run's loss needs none.
        report: told steps done and steps in all.
    """

    teacher: nn.Module
    data: Data
    scores: Mapping[str, Tensor]
    folder: Path
    device: torch.device
    threads: int = 1
    recipe: Recipe = field(default_factory=Recipe)
    answers: Answers | None = None
    report: Report = lambda done, total: None


@runtime_checkable
class Learner(Protocol):
    """A proposer that trains before it proposes; the run has a worker do it, as a job of kind ``learn``."""

    @property
    def lessons(self) -> int:
        """Training images that :meth:`learn` spends, each counted as often as a candidate sees it."""

    @property
    def reusable(self) -> bool:
        """Whether the lesson's folder holds all that is to be learned, whatever the budget."""

    def learn(self) -> None:
        """Train, with checkpoints in the lesson's folder: begun again, it goes on; all done, it returns at once."""


@dataclass(frozen=True, eq=False)
class ProposerSetup:
    """Everything a proposer needs to know of a run; one that needs more says what in a class attribute ``needs``.

    Attributes:
        space: where candidates come from.
        costing: what they cost.
        limits: the budget; without any, candidates are as the sampler draws them.
        levels: fractions of the budget in (0, 1]; each proposal is fitted to one of them in turn, so that one run
            yields a front along the whole range below the budget and not only at its edge.
        seed: every random choice follows from it and from what was told, in order.
        start: candidates to try first, fitted to each level.
        start_at: level -> candidates to try first at that level alone (:func:`niwaki.search.starts.starts`).
        lesson: teacher and data, for proposers that train; others pass it over.
    """

    space: SearchSpace
    costing: Costing
    limits: Limits
    levels: tuple[float, ...] = (1.0, 0.8, 0.6)
    seed: int = 0
    start: tuple[Candidate, ...] = ()
    start_at: Mapping[float, tuple[Candidate, ...]] = field(default_factory=dict)
    lesson: Lesson | None = None

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level <= 1 for level in self.levels):
            raise ValueError(f"levels: expected fractions of the budget in (0, 1], got {self.levels}")

    @property
    def sizes(self) -> Ints:
        """``(variables,)``: how many choices each variable has."""
        return np.array([len(v.choices) for v in self.space.variables], dtype=np.int64)


class Levels:
    """Turns draws into proposals: fitted to the levels in turn, canonical, new.

    Proposal ``n`` uses generators seeded by ``(seed, n, attempt)`` alone, so a proposer that is built anew and told all
    earlier outcomes goes on as the first one would have. ``index`` is the level that a draw is for.
    """

    tries = 200
    """Draws without a new candidate after which a level counts as exhausted."""

    def __init__(self, setup: ProposerSetup) -> None:
        self.setup = setup
        largest = np.asarray([setup.space.encode(setup.space.largest())], dtype=np.int64)
        self.limits = setup.limits.capped(setup.costing(largest)) if setup.limits.values else setup.limits
        self.number = self.index = 0
        self._asked: set[str] = set()
        self._told: set[str] = set()
        self._starts = {i: [*setup.start, *setup.start_at.get(level, ())] for i, level in enumerate(setup.levels)}
        self._exhausted: set[int] = set()

    def propose(self, draw: Draw) -> Proposal | None:
        """The next proposal, or None where no level has a new candidate left."""
        count = len(self.setup.levels)
        for turn in range(count):
            index = (self.number + turn) % count
            if index in self._exhausted:
                continue
            self.index = index
            candidate = self._start(index) or self._new(index, draw)
            if candidate is not None:
                self._asked.add(candidate.key)
                self.number += 1
                return Proposal(candidate, self.number - 1, self.setup.levels[index])
            self._exhausted.add(index)
        return None

    def record(self, outcome: Outcome) -> bool:
        """Remember an outcome; True where it is news to learn from.

        A sampler learns from first-rung outcomes of the search alone: accuracies after different amounts of training
        cannot be compared, and baselines are there to judge the search, not to guide it.
        """
        if outcome.job.kind != "search" or outcome.job.rung != 0:
            return False
        key = outcome.job.candidate.key
        if key not in self._asked:  # replayed from the journal
            self._asked.add(key)
            self.number += 1
        news = key not in self._told
        self._told.add(key)
        return news

    def _start(self, index: int) -> Candidate | None:
        """The next start candidate of this level that is new; its fit is seeded apart from the proposals'."""
        while self._starts[index]:
            place = len(self._starts[index])
            candidate = self._starts[index].pop(0)
            row = np.asarray(self.setup.space.encode(candidate), dtype=np.int64)
            rng = np.random.default_rng((self.setup.seed, 1, index, place))
            if (fitted := self._fit(row, index, rng)) is not None:
                return fitted
        return None

    def _new(self, index: int, draw: Draw) -> Candidate | None:
        for attempt in range(self.tries):
            rng = np.random.default_rng((self.setup.seed, 2, self.number, attempt))
            if (fitted := self._fit(draw(rng, attempt), index, rng)) is not None:
                return fitted
        return None

    def _fit(self, row: Ints, index: int, rng: np.random.Generator) -> Candidate | None:
        """Fitted to the level, canonical; None where that fails, or where the candidate was asked before."""
        space, level = self.setup.space, self.setup.levels[index]
        fitted = fit_to(row, self.setup.costing, self.limits, level, rng)
        if fitted is None:
            return None
        candidate = space.canonical(space.decode([int(i) for i in fitted]))
        exact = np.asarray([space.encode(candidate)], dtype=np.int64)
        fits = self.limits.fraction(self.setup.costing(exact))[0] <= level * (1 + 1e-12)
        return candidate if fits and candidate.key not in self._asked else None
