"""Who trains on: successive halving (Jamieson and Talwalkar 2016) with non-dominated ranks instead of one score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from niwaki.search.costing import value_of
from niwaki.search.outcome import Job, Outcome
from niwaki.search.pareto import ranks


@dataclass(frozen=True)
class Ladder:
    """The rungs of a search.

    Attributes:
        images: training images of the job at each rung, beyond those of the rung before.
        eta: one in ``eta`` candidates of a level goes on to the next rung, and at least one.
        costs: names of the budgets whose costs count in the ranks, beside accuracy.

    Example:
        >>> Ladder(images=(10_000, 20_000, 60_000), eta=3, costs=("latency", "size")).rungs
        3
    """

    images: tuple[int, ...]
    eta: float = 3.0
    costs: tuple[str, ...] = ("macs",)

    def __post_init__(self) -> None:
        if not self.images or self.images[0] < 0 or min(self.images[1:], default=1) < 1:
            raise ValueError(f"images: expected rungs, each after the first of at least 1, got {self.images}")
        if not self.eta >= 1:
            raise ValueError(f"eta: expected at least 1, got {self.eta}")

    @property
    def rungs(self) -> int:
        return len(self.images)


def promote(outcomes: Sequence[Outcome], rung: int, ladder: Ladder) -> list[Job]:
    """Jobs that continue the best outcomes of ``rung``, best first within each level; none from the last rung.

    Ranking by accuracy alone would stop every small model: within a level, candidates are ordered by their
    non-dominated rank on (accuracy, costs), and within a rank by accuracy. Failed outcomes never go on; those of other
    rungs and of baselines are passed over. Jobs are a function of the outcomes: a driver that asks again gets the same
    keys, and submits those it has not seen. Ask when a rung is complete: with few outcomes, one in eta is too many.
    """
    if rung + 1 >= ladder.rungs:
        return []
    here = [o for o in outcomes if o.complete and o.job.kind == "search" and o.job.rung == rung]
    jobs: list[Job] = []
    for level in sorted({o.job.level for o in here}, reverse=True):
        order = ordered([o for o in here if o.job.level == level], ladder.costs)
        chosen = order[: _quota(len(order), ladder)]
        jobs += [_continued(outcome, ladder.images[rung + 1]) for outcome in chosen]
    return jobs


def ordered(outcomes: Sequence[Outcome], costs: Sequence[str]) -> list[Outcome]:
    """Complete outcomes, best first: by non-dominated rank on (accuracy, costs), then accuracy, then key."""
    complete = [o for o in outcomes if o.complete]
    if not complete:
        return []
    points = np.array([[-o.accuracy, *(value_of(o.cost, name) for name in costs)] for o in complete])
    keyed = zip(ranks(points).tolist(), complete, strict=True)
    return [o for _, o in sorted(keyed, key=lambda pair: (pair[0], -pair[1].accuracy, pair[1].key))]


def certain(outcomes: Sequence[Outcome], running: Sequence[Job], rung: int, ladder: Ladder) -> list[Job]:
    """Those jobs of :func:`promote` that will be in it however the jobs still ``running`` at this rung end.

    An outcome is safe if it is within its level's quota when all of them end ahead of it: each that ends behind it
    leaves one fewer ahead, and each that fails takes at most one place from the quota as well. Equals count as ahead.
    Where costs count in the ranks, one outcome can push back a whole front: then nothing is certain before the end.
    """
    if rung + 1 >= ladder.rungs or ladder.costs:
        return []
    here = [o for o in outcomes if o.complete and o.job.kind == "search" and o.job.rung == rung]
    pending, jobs = Counter(job.level for job in running), list[Job]()
    for level in sorted({o.job.level for o in here}, reverse=True):
        order = sorted((o for o in here if o.job.level == level), key=lambda o: -o.accuracy)
        safe = _quota(len(order) + pending[level], ladder) - pending[level]
        if safe > 0:
            bar = order[safe].accuracy if safe < len(order) else -1.0
            jobs += [_continued(o, ladder.images[rung + 1]) for o in order[:safe] if o.accuracy > bar]
    return jobs


def _quota(count: int, ladder: Ladder) -> int:
    return max(1, int(count / ladder.eta + 1e-9))


def _continued(outcome: Outcome, images: int) -> Job:
    job = outcome.job
    return Job(job.candidate, "search", job.rung + 1, images, job.seed, parent=job.key, level=job.level)
