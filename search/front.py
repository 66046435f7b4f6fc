"""From finished trainings to the front: repeats joined, budgets kept, dominated models left out; JSON and CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from niwaki.search.budget import value_of
from niwaki.search.costing import FIELDS, Limits
from niwaki.search.outcome import Kind, Outcome, cost_from_json
from niwaki.search.pareto import non_dominated
from niwaki.spaces import Candidate, Cost, InputError

COLUMNS = (
    "name", "kind", "level", "accuracy", "accuracy_mean", "accuracy_std", "test_accuracy", "test_mean", "test_std",
    "macs", "params", "bytes", "latency_ms", "predicted_ms", "speed_up", "repeats", "candidate", "trial",
    "memory_bytes",
)


@dataclass(frozen=True)
class Entry:
    """One finished model: a member of the front, or a baseline beside it.

    Attributes:
        name: ``m1`` (the most accurate), ``m2``... on the front; ``uniform-1``, ``random-1``... for baselines.
        kind: ``final``, ``uniform`` or ``random``.
        level: fraction of the budget that its candidate was fitted to.
        cost: ``latency_ms`` is the measured one where there is one, else the predicted.
        predicted_ms: by the latency model.
        speed_up: teacher's latency over this one's, from one measurement.
        metrics: ``accuracy`` (validation) and ``test_accuracy`` of the weights that ``load`` gives; ``accuracy_mean``,
            ``accuracy_std``, ``test_mean``, ``test_std`` over the repeats (std: of a sample, absent for one).
        trials: keys of the repeats, the one with the best validation accuracy, whose weights count, first.
    """

    name: str
    kind: Kind
    level: float
    candidate: Candidate
    cost: Cost
    predicted_ms: float | None = None
    speed_up: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    trials: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "level": self.level, "candidate": self.candidate.to_json(),
            "cost": self.cost.to_json(), "predicted_ms": self.predicted_ms, "speed_up": self.speed_up,
            "metrics": dict(self.metrics), "trials": list(self.trials),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Inverse of :meth:`to_json`; InputError where ``front.json`` was damaged."""
        try:
            return cls(
                data["name"], data["kind"], float(data["level"]), Candidate.from_json(data["candidate"]),
                cost_from_json(data["cost"]), data["predicted_ms"], data["speed_up"], dict(data["metrics"]),
                tuple(data["trials"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"front.json: an entry cannot be read: {error!r}") from error


def join(outcomes: Sequence[Outcome], measured: Mapping[str, float], teacher: Cost) -> list[Entry]:
    """One entry a (kind, candidate), its repeats joined; failed repeats are left out."""
    together: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.complete:
            together.setdefault((outcome.job.kind, outcome.job.candidate.key), []).append(outcome)
    entries = []
    for (_, key), found in together.items():
        best, *_ = repeats = sorted(found, key=lambda o: (-o.accuracy, o.job.seed))
        predicted, ms = best.cost.latency_ms, measured.get(key)
        cost = best.cost if ms is None else replace(best.cost, latency_ms=ms)
        entries.append(Entry(
            key, best.job.kind, best.job.level, best.job.candidate, cost, predicted,
            None if ms is None or teacher.latency_ms is None else teacher.latency_ms / ms,
            spread("accuracy", [o.accuracy for o in repeats]), tuple(o.key for o in repeats),
        ))
    return entries


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """``name`` is the first value (the weights that count); mean, and sample standard deviation of two or more.

    Example:
        >>> spread("accuracy", [0.92, 0.90])["accuracy_mean"]
        0.91
    """
    short = name.removesuffix("_accuracy")
    found = {name: values[0], f"{short}_mean": statistics.fmean(values)}
    return found | ({f"{short}_std": statistics.stdev(values)} if len(values) > 1 else {})


def front_of(entries: Sequence[Entry], limits: Limits) -> list[Entry]:
    """Finals within every budget that no other beats in accuracy (mean of the repeats) and every budgeted cost.

    Best accuracy first, named ``m1``, ``m2``...
    """
    fitting = [e for e in entries if e.kind == "final" and limits.fits(e.cost)]
    if not fitting:
        return []
    points = [[-e.metrics["accuracy_mean"], *(value_of(e.cost, n) for n in limits.values)] for e in fitting]
    best = [e for e, keep in zip(fitting, non_dominated(np.array(points)), strict=True) if keep]
    best.sort(key=lambda e: (-e.metrics["accuracy_mean"], e.cost.macs, e.candidate.key))
    return [replace(e, name=f"m{i}") for i, e in enumerate(best, start=1)]


def baselines_of(entries: Sequence[Entry]) -> list[Entry]:
    """Baselines, largest level first, named after their kind."""
    named = []
    for kind in ("uniform", "random"):
        mine = sorted((e for e in entries if e.kind == kind), key=lambda e: (-e.level, e.candidate.key))
        named += [replace(e, name=f"{kind}-{i}") for i, e in enumerate(mine, start=1)]
    return named


def to_csv(entries: Sequence[Entry]) -> str:
    """The entries as a table; the columns are ``COLUMNS``, empty where a figure does not exist."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    for entry in entries:
        row: dict[str, Any] = {
            **entry.metrics, **entry.cost.to_json(), "name": entry.name, "kind": entry.kind, "level": entry.level,
            "predicted_ms": entry.predicted_ms, "speed_up": entry.speed_up, "repeats": len(entry.trials),
            "candidate": entry.candidate.key, "trial": entry.trials[0],
        }
        writer.writerow(row)
    return text.getvalue()


def nearest_text(entry: Entry, limits: Limits) -> str:
    """Name and budgeted figures of an entry, for messages."""
    return f"{entry.name} with " + ", ".join(
        f"{name} {getattr(entry.cost, FIELDS[name])}" for name in limits.values
    )
