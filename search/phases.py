"""The stages of a search: first rung, promotions, finalists measured, finals with baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from niwaki.search.checks import Proposer, proposer_class
from niwaki.search.costing import Limits
from niwaki.search.finalists import Finalist, Measured, ranking
from niwaki.search.outcome import Job, Kind
from niwaki.search.promotion import Ladder, promote
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers.random import Random
from niwaki.search.schedule import Schedule, Stage
from niwaki.search.subject import Subject
from niwaki.spaces import Candidate

_HOPELESS = 6
_POWERS = (1.0, 0.0, 0.1, 0.3)


class RunError(RuntimeError):
    """The run cannot go on: its trials fail, or no finished model keeps the budget."""


@dataclass(eq=False)
class Phases:
    """Builds the stages of a :class:`niwaki.search.schedule.Schedule`; calling it is the generator function.

    Attributes:
        subject: what is compressed.
        measure: latency of candidates on the target; answers nothing where the run has none.
        finalists: what was chosen, once it was. dropped: candidates that were not, because their measured latency
            (ms) breaks the budget.
    """

    subject: Subject
    measure: Callable[[Sequence[Candidate]], Measured]
    finalists: list[Finalist] = field(default_factory=list)
    dropped: dict[str, float] = field(default_factory=dict)

    def __call__(self, schedule: Schedule) -> Iterator[Stage]:
        config = self.subject.config
        yield Stage("search", "search, rung 1", config.search.trials, self._first_rung(schedule))
        ladder = self.ladder
        for rung in range(1, ladder.rungs):
            jobs = promote(schedule.of("search"), rung - 1, ladder)
            yield Stage("search", f"search, rung {rung + 1}", len(jobs), iter(jobs))
        self.finalists = self._choose(schedule)
        jobs = [job for finalist in self.finalists for job in self._final_jobs(finalist)] + self._baseline_jobs()
        yield Stage("finals", "finals", len(jobs), iter(jobs))

    @property
    def ladder(self) -> Ladder:
        """Rungs as images beyond those of the rung before.

        Candidates of one level cost the same within a few percent, so there accuracy decides; with a single level,
        costs count too, or every small model would be stopped.
        """
        config = self.subject.config
        images = np.diff([0, *config.train.rungs])
        costs = tuple(self.subject.limits.values) if len(config.search.levels) == 1 else ()
        return Ladder(tuple(int(n) for n in images), 1 / config.search.keep, costs)

    def uniform(self, level: float, power: float = 1.0) -> Candidate | None:
        """The largest uniform widths, at full depth and dense, that fit ``level`` of the budget; None where none do.

        Groups that several layers share (residual streams) are cut to ratio ** ``power``: 0 leaves them whole.
        """
        space, limits = self.subject.space, self.subject.aims
        ratios = [r / 100 for r in range(100, 0, -1)]
        candidates = list({c.key: c for c in (space.uniform(r, r**power) for r in ratios)}.values())
        matrix = np.array([space.encode(c) for c in candidates], dtype=np.int64)
        fits = limits.fraction(self.subject.costing(matrix)) <= level
        return candidates[int(np.argmax(fits))] if fits.any() else None

    def _starts(self) -> dict[float, tuple[Candidate, ...]]:
        """What every proposer begins with at each level: uniform widths, streams cut as much, not at all, a little.

        At most a quarter of the trials: the rest is the proposer's.
        """
        search = self.subject.config.search
        powers = _POWERS[: max(1, search.trials // (4 * len(search.levels)))]
        found = {level: [self.uniform(level, power) for power in powers] for level in search.levels}
        return {level: tuple(c for c in some if c is not None) for level, some in found.items()}

    def _first_rung(self, schedule: Schedule) -> Iterator[Job]:
        config = self.subject.config
        proposer = proposer_class(config)(self._setup(config.run.seed, self._starts()))
        for outcome in schedule.known:
            if outcome.job.kind == "search" and outcome.job.rung == 0:
                proposer.tell(outcome)
                schedule.recall(outcome)
        count = told = len(schedule.outcomes)
        while count < config.search.trials:
            told = self._listen(proposer, schedule, told)
            proposal = proposer.ask()
            if proposal is None:  # the space has no more candidates within the budget
                return
            count += 1
            yield Job(proposal.candidate, "search", 0, config.train.rungs[0], config.run.seed, level=proposal.level)

    def _listen(self, proposer: Proposer, schedule: Schedule, told: int) -> int:
        for outcome in schedule.outcomes[told:]:
            proposer.tell(outcome)
        ended = schedule.of("search")
        if len(ended) >= _HOPELESS and not any(o.complete for o in ended):
            raise RunError(f"the first {len(ended)} trials have all failed; the last one:\n{ended[-1].error}")
        return len(schedule.outcomes)

    def _setup(self, seed: int, start_at: Mapping[float, tuple[Candidate, ...]] | None = None) -> ProposerSetup:
        subject, levels = self.subject, self.subject.config.search.levels
        return ProposerSetup(subject.space, subject.costing, subject.aims, levels, seed, start_at=start_at or {})

    def _choose(self, schedule: Schedule) -> list[Finalist]:
        """Candidates in the order of :func:`ranking`, until ``search.members`` of them keep the budget as measured."""
        config, chosen = self.subject.config, list[Finalist]()
        wanted = max(config.search.members, len(config.search.levels))
        queue = ranking(schedule.of("search"), config.search.levels, tuple(self.subject.limits.values))
        while len(chosen) < wanted and queue:
            batch, queue = queue[: wanted - len(chosen)], queue[wanted - len(chosen) :]
            measured = self.measure([o.job.candidate for o in batch])
            for outcome in batch:
                finalist = Finalist(outcome, measured.ms.get(outcome.job.candidate.key))
                if self._fits(finalist, self.subject.limits):
                    chosen.append(finalist)
                else:
                    self.dropped[outcome.job.candidate.key] = finalist.cost.latency_ms or 0.0
        return chosen

    @staticmethod
    def _fits(finalist: Finalist, limits: Limits) -> bool:
        return limits.fits(finalist.cost)

    def _final_jobs(self, finalist: Finalist) -> list[Job]:
        config, outcome = self.subject.config, finalist.outcome
        seeds = range(config.run.seed, config.run.seed + config.search.repeats)
        if config.search.finish == "fresh":
            return [self._full("final", outcome.job.candidate, seed, outcome.job.level) for seed in seeds]
        left, rung = config.train.final_images - outcome.images, outcome.job.rung + 1
        return [Job(outcome.job.candidate, "final", rung, left, seed, outcome.key, outcome.job.level) for seed in seeds]

    def _baseline_jobs(self) -> list[Job]:
        config = self.subject.config
        wanted: list[tuple[Kind, Candidate, float]] = []
        if "uniform" in config.search.baselines:
            # shared streams stay whole, as is usual and stronger, where the level can be met that way
            pairs = [(self.uniform(level, 0.0) or self.uniform(level), level) for level in config.search.levels]
            wanted += [("uniform", candidate, level) for candidate, level in pairs if candidate is not None]
        if "random" in config.search.baselines:
            proposer = Random(self._setup(config.run.seed + 1))
            asked = [proposer.ask() for _ in config.search.levels]
            wanted += [("random", p.candidate, p.level) for p in asked if p is not None]
        seeds = range(config.run.seed, config.run.seed + config.search.repeats)
        return [self._full(kind, candidate, seed, level) for kind, candidate, level in wanted for seed in seeds]

    def _full(self, kind: Kind, candidate: Candidate, seed: int, level: float) -> Job:
        return Job(candidate, kind, 0, self.subject.config.train.final_images, seed, level=level)
