"""Which candidates are trained to the end, and what their latency really is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from niwaki.search.bench import TEACHER
from niwaki.search.budget import value_of
from niwaki.search.context import RunFolder
from niwaki.search.files import write_json_atomic
from niwaki.search.formats import MeasuredFile, read_checked
from niwaki.search.outcome import Outcome
from niwaki.search.pareto import ranks
from niwaki.search.subject import Subject
from niwaki.spaces import Candidate, Cost
from niwaki.spaces.latency import LatencyModel


@dataclass(frozen=True)
class Measured:
    """Latencies measured interleaved with the teacher: ``ms`` by candidate key, and those that were ``noisy``.

    The milliseconds are (measured / teacher in the same rounds) x (teacher at calibration): the drift of the machine
    between the two cancels, and percentages of the budget mean what they meant when it was checked.
    """

    ms: Mapping[str, float] = field(default_factory=dict)
    noisy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finalist:
    """Who is trained to the end.

    Attributes:
        outcome: the best of the candidate that was chosen.
        candidate: what is trained: that candidate, or the one it became when its latency was aimed at the budget.
        cost: of ``candidate``, with its measured latency where the run has a target.
    """

    outcome: Outcome
    candidate: Candidate
    cost: Cost


def ranking(outcomes: Sequence[Outcome], levels: Sequence[float], costs: Sequence[str]) -> list[Outcome]:
    """Who is trained to the end, in order: the best of each level, then what no other dominates, then the rest.

    One outcome a candidate, at its highest rung. Within a level what was promoted further comes first, then what is
    more accurate: levels are what keeps small models in. After them it is the front of accuracy and ``costs`` (the
    budgeted ones) that counts, or several nearly equal models would be trained and one of them stay.
    """
    highest: dict[str, Outcome] = {}
    for outcome in outcomes:
        if not outcome.complete:
            continue
        key = outcome.job.candidate.key
        if key not in highest or highest[key].job.rung < outcome.job.rung:
            highest[key] = outcome
    found = sorted(highest.values(), key=lambda o: (-o.job.rung, -o.accuracy, o.key))
    if not found:
        return []
    first = [next((o for o in found if o.job.level == level), None) for level in sorted(levels, reverse=True)]
    chosen = [o for o in first if o is not None]
    points = [[-o.accuracy, *(value_of(o.cost, name) for name in costs)] for o in found]
    by_rank = sorted(zip(ranks(points).tolist(), range(len(found)), strict=True))
    return chosen + [found[i] for _, i in by_rank if found[i] not in chosen]


def measurer(subject: Subject, folder: RunFolder) -> Callable[[Sequence[Candidate]], Measured]:
    """A function that times candidates beside the teacher and remembers the figures in ``measured.json``.

    They are taken between stages, when no trial runs. A resumed run finds them again and chooses the same finalists.
    """
    bench, model = subject.bench, subject.costing.latency

    def measure(candidates: Sequence[Candidate]) -> Measured:
        if bench is None or not isinstance(model, LatencyModel) or not candidates:
            return Measured()
        known = read_checked(folder.measured, MeasuredFile) if folder.measured.is_file() else {"ms": {}, "noisy": []}
        new = {c.key: c for c in candidates if c.key not in known["ms"]}
        if new:
            timing = bench.time(list(new.values()), subject.measure_plan)
            scale = model.anchor_ms / timing.ms[TEACHER]
            known["ms"] |= {key: timing.ms[key] * scale for key in new}
            known["noisy"] += [name for name in timing.noisy if name != TEACHER]
            write_json_atomic(folder.measured, known)
        return Measured(known["ms"], tuple(known["noisy"]))

    return measure
