"""The stages of a search: first rung, promotions, finalists measured, finals with baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from niwaki.search.aim import Worth, aim
from niwaki.search.checks import Proposer, proposer_class
from niwaki.search.events import Listener
from niwaki.search.finalists import Finalist, Measured, ranking
from niwaki.search.outcome import Job, Kind, Outcome
from niwaki.search.promotion import Ladder, certain, promote
from niwaki.search.proposers._setup import Learner, Lesson, ProposerSetup
from niwaki.search.proposers.random import Random
from niwaki.search.schedule import Schedule, Stage
from niwaki.search.starts import uniform
from niwaki.search.subject import Subject, phase
from niwaki.spaces import Candidate

_HOPELESS = 6


class RunError(RuntimeError):
    """The run cannot go on: its trials fail, or no finished model keeps the budget."""


@dataclass(eq=False)
class Phases:
    """Builds the stages of a :class:`niwaki.search.schedule.Schedule`; calling it is the generator function.

    Attributes:
        subject: what is compressed.
        measure: latency of candidates on the target; answers nothing where the run has none.
        worth: of candidates before training: where a finalist gives or takes units to meet its latency.
        finalists: what was chosen, once it was. dropped: candidates that were not, because their measured latency
            (ms) breaks the budget.
        known: candidates and their levels that another run has judged already; they come before all others.
        start_at: level of the budget -> what the proposer begins with there (see :mod:`niwaki.search.starts`).
        lesson: for proposers that train.
    """

    subject: Subject
    measure: Callable[[Sequence[Candidate]], Measured]
    worth: Worth
    listener: Listener
    start_at: Mapping[float, tuple[Candidate, ...]] = field(default_factory=dict)
    finalists: list[Finalist] = field(default_factory=list)
    dropped: dict[str, float] = field(default_factory=dict)
    lesson: Lesson | None = None
    known: tuple[tuple[Candidate, float], ...] = ()

    def __call__(self, schedule: Schedule) -> Iterator[Stage]:
        config = self.subject.config
        proposer = proposer_class(config)(self._setup(config.run.seed, self.start_at))
        if isinstance(proposer, Learner) and not (config.run.base and proposer.reusable):
            job = Job(self.subject.space.largest(), "learn", 0, proposer.lessons, config.run.seed)
            yield Stage("learn", f"{config.search.proposer} learns", 1, iter([job]))
            if failed := [o for o in schedule.of("learn") if not o.complete]:
                raise RunError(f"{config.search.proposer} could not learn: {failed[-1].error}")
        total = config.search.trials + len(self.known)
        ladder = self.ladder
        first = self._first_rung(schedule, proposer)
        yield Stage("search", "search, rung 1", total, first, _ahead(schedule, 0, ladder))
        for rung in range(1, ladder.rungs):
            jobs = promote(schedule.of("search"), rung - 1, ladder)
            title = f"search, rung {rung + 1}"
            yield Stage("search", title, len(jobs), iter(jobs), _ahead(schedule, rung, ladder))
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

    def _first_rung(self, schedule: Schedule, proposer: Proposer) -> Iterator[Job]:
        config = self.subject.config
        for outcome in schedule.known:
            if outcome.job.kind == "search" and outcome.job.rung == 0:
                proposer.tell(outcome)
                schedule.recall(outcome)
        count, told = len(schedule.of("search")), len(schedule.outcomes)
        begun = {outcome.job.candidate.key for outcome in schedule.outcomes}
        for candidate, level in self.known:
            if candidate.key not in begun:
                count += 1
                yield Job(candidate, "search", 0, config.train.rungs[0], config.run.seed, level=level)
        while count < config.search.trials + len(self.known):
            told = self._listen(proposer, schedule, told)
            proposal = proposer.ask()
            if proposal is None:  # the space has no more candidates within the budget
                return
            count += 1
            yield Job(proposal.candidate, "search", 0, config.train.rungs[0], config.run.seed, level=proposal.level)

    def _listen(self, proposer: Proposer, schedule: Schedule, told: int) -> int:
        for outcome in schedule.outcomes[told:]:
            proposer.tell(outcome)
        if not schedule.completed("search") and len(ended := schedule.of("search")) >= _HOPELESS:
            raise RunError(f"the first {len(ended)} trials have all failed; the last one:\n{ended[-1].error}")
        return len(schedule.outcomes)

    def _setup(self, seed: int, start_at: Mapping[float, tuple[Candidate, ...]] | None = None) -> ProposerSetup:
        subject, levels = self.subject, self.subject.config.search.levels
        return ProposerSetup(
            subject.space, subject.costing, subject.aims, levels, seed, start_at=start_at or {}, lesson=self.lesson
        )  # fmt: skip

    def _choose(self, schedule: Schedule) -> list[Finalist]:
        """Candidates in the order of :func:`ranking`, aimed, until ``search.members`` keep the budget as measured."""
        config, chosen = self.subject.config, dict[str, Finalist]()
        wanted = max(config.search.members, len(config.search.levels))
        queue = ranking(schedule.of("search"), config.search.levels, tuple(self.subject.limits.values))
        if self.subject.bench is None:
            return [self._aimed(outcome) for outcome in queue[:wanted]]
        with phase("measure", self.listener) as detail:
            for outcome in queue:
                if len(chosen) == wanted:
                    break
                finalist = self._aimed(outcome)
                if self.subject.limits.fits(finalist.cost):
                    chosen.setdefault(finalist.candidate.key, finalist)
                else:
                    self.dropped[finalist.candidate.key] = finalist.cost.latency_ms or 0.0
            self.subject.bench.close()
            moved = sum(f.candidate != f.outcome.job.candidate for f in chosen.values())
            detail.append(f"{len(chosen)} finalists measured, {moved} of them moved to just under their budget")
        return list(chosen.values())

    def _aimed(self, outcome: Outcome) -> Finalist:
        """The candidate of an outcome, moved until its measured latency lies just under its level of the budget."""
        subject, candidate = self.subject, outcome.job.candidate
        if "latency" in subject.limits.values:
            aimed = aim(
                candidate, subject.limits.times(outcome.job.level), subject.costing, self.worth,
                lambda candidates: self.measure(candidates).ms, subject.config.latency.tries,
            )  # fmt: skip
            candidate = aimed.candidate
        measured = self.measure([candidate]).ms.get(candidate.key)
        cost = subject.costing.cost(candidate)
        return Finalist(outcome, candidate, cost if measured is None else replace(cost, latency_ms=measured))

    def _final_jobs(self, finalist: Finalist) -> list[Job]:
        config, outcome = self.subject.config, finalist.outcome
        seeds = range(config.run.seed, config.run.seed + config.search.repeats)
        same, level = finalist.candidate == outcome.job.candidate, outcome.job.level
        if config.search.finish == "inherit" and same:
            return [Job(finalist.candidate, "final", outcome.job.rung + 1, 0, seeds[0], outcome.key, level)]
        if config.search.finish == "inherit":
            return [Job(finalist.candidate, "final", 0, config.train.rungs[0], seeds[0], level=level)]
        if config.search.finish == "fresh" or not same:
            return [self._full("final", finalist.candidate, seed, outcome.job.level) for seed in seeds]
        left, rung = config.train.final_images - outcome.images, outcome.job.rung + 1
        return [Job(outcome.job.candidate, "final", rung, left, seed, outcome.key, outcome.job.level) for seed in seeds]

    def _baseline_jobs(self) -> list[Job]:
        config = self.subject.config
        wanted: list[tuple[Kind, Candidate, float]] = []
        if "uniform" in config.search.baselines:
            pairs = [(self._uniform(level), level) for level in config.search.levels]
            wanted += [("uniform", candidate, level) for candidate, level in pairs if candidate is not None]
        if "random" in config.search.baselines:
            proposer = Random(self._setup(config.run.seed + 1))
            asked = [proposer.ask() for _ in config.search.levels]
            wanted += [("random", p.candidate, p.level) for p in asked if p is not None]
        seeds = range(config.run.seed, config.run.seed + config.search.repeats)
        return [self._full(kind, candidate, seed, level) for kind, candidate, level in wanted for seed in seeds]

    def _uniform(self, level: float) -> Candidate | None:
        """Shared streams stay whole, as is usual and stronger, where the level can be met that way."""
        limits = self.subject.aims.times(level)
        return uniform(self.subject, limits, 0.0) or uniform(self.subject, limits)

    def _full(self, kind: Kind, candidate: Candidate, seed: int, level: float) -> Job:
        return Job(candidate, kind, 0, self.subject.config.train.final_images, seed, level=level)


def _ahead(schedule: Schedule, rung: int, ladder: Ladder) -> Callable[[Sequence[Job]], list[Job]]:
    return lambda running: certain(schedule.of("search"), running, rung, ladder)
