"""Which candidates are trained to the end, and what their latency really is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from torch import nn

from niwaki.search.context import RunFolder
from niwaki.search.events import Listener
from niwaki.search.files import read_json, write_json_atomic
from niwaki.search.latency import TEACHER, remeasure
from niwaki.search.outcome import Outcome
from niwaki.search.subject import Subject, phase
from niwaki.spaces import Candidate, Cost, carve
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
    """The best outcome of a candidate, and its measured latency where the run has a target."""

    outcome: Outcome
    measured_ms: float | None

    @property
    def cost(self) -> Cost:
        cost = self.outcome.cost
        return cost if self.measured_ms is None else replace(cost, latency_ms=self.measured_ms)


def ranking(outcomes: Sequence[Outcome], levels: Sequence[float]) -> list[Outcome]:
    """The best of each level, then the second best of each, and so on: one outcome a candidate, at its highest rung.

    Within a level what was promoted further comes first, then what is more accurate: levels are what keeps small models
    in, so that no cost needs to be weighed against accuracy here.
    """
    highest: dict[str, Outcome] = {}
    for outcome in outcomes:
        if not outcome.complete:
            continue
        key = outcome.job.candidate.key
        if key not in highest or highest[key].job.rung < outcome.job.rung:
            highest[key] = outcome
    columns = []
    for level in sorted(levels, reverse=True):
        mine = [o for o in highest.values() if o.job.level == level]
        columns.append(sorted(mine, key=lambda o: (-o.job.rung, -o.accuracy, o.key)))
    return [outcome for row in zip_longest(*columns) for outcome in row if outcome is not None]


def measurer(subject: Subject, folder: RunFolder, listener: Listener) -> Callable[[Sequence[Candidate]], Measured]:
    """A function that times candidates beside the teacher and remembers the figures in ``measured.json``.

    They are taken between stages, when no trial runs. A resumed run finds them again and chooses the same finalists.
    """
    target, model = subject.target, subject.costing.latency

    def measure(candidates: Sequence[Candidate]) -> Measured:
        if target is None or not isinstance(model, LatencyModel) or not candidates:
            return Measured()
        known = read_json(folder.measured) if folder.measured.is_file() else {"ms": {}, "noisy": []}
        new = {c.key: c for c in candidates if c.key not in known["ms"]}
        if new:
            models: dict[str, nn.Module] = {k: carve(subject.teacher, subject.space, c) for k, c in new.items()}
            with phase("measure", listener) as detail:
                timing = remeasure(models, subject.teacher, target, subject.example, subject.measure_plan)
                detail.append(f"{len(new)} candidates, {len(timing.noisy)} of the figures noisy")
            scale = model.anchor_ms / timing.ms[TEACHER]
            known["ms"] |= {key: timing.ms[key] * scale for key in new}
            known["noisy"] += [name for name in timing.noisy if name != TEACHER]
            write_json_atomic(folder.measured, known)
        return Measured(known["ms"], tuple(known["noisy"]))

    return measure
