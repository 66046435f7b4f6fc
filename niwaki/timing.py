"""``niwaki latency``: calibrate a latency model on a target, then measure candidates that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from niwaki.search.bench import TEACHER, Bench, Inputs
from niwaki.search.latency import CalibrationPlan, calibrate, calibration_candidates
from niwaki.search.report import text
from niwaki.search.targets import MeasurePlan, Target
from niwaki.spaces import derive
from niwaki.spaces.latency import LatencyModel


@dataclass(frozen=True)
class Checked:
    """A fitted model and what it says about unseen candidates: (key, MACs, predicted ms, measured ms) each."""

    model: LatencyModel
    teacher_ms: float
    rows: tuple[tuple[str, int, float, float], ...]
    noisy: int
    warnings: tuple[str, ...] = ()

    @property
    def errors(self) -> list[float]:
        """Relative errors after the drift of the teacher between the two measurements is taken out."""
        drift = self.teacher_ms / self.model.anchor_ms
        return [abs(predicted * drift / measured - 1) for _, _, predicted, measured in self.rows]

    def to_json(self) -> dict[str, Any]:
        keys = ("candidate", "macs", "predicted_ms", "measured_ms")
        return {
            "latency_model": self.model.to_json(), "teacher_ms": self.teacher_ms, "noisy": self.noisy,
            "warnings": list(self.warnings),
            "checked": [dict(zip(keys, row, strict=True)) for row in self.rows],
            "checked_median_error": float(np.median(self.errors)) if self.rows else None,
        }


def calibrate_and_check(network: nn.Module, example: Inputs, target: Target, samples: int, check: int) -> Checked:
    """Fit on ``samples`` candidates of the network's space; then measure ``check`` others beside the teacher."""
    space = derive(network, example)
    bench = Bench(network, space, target, example)
    model = calibrate(bench, CalibrationPlan(samples))
    seen = {c.key for c in calibration_candidates(space, samples, 0)}
    others = [c for c in calibration_candidates(space, 2 * check + 8, 1) if c.key not in seen][:check]
    timing = bench.time(others, MeasurePlan(seed=1))
    matrix = np.array([space.encode(c) for c in others], dtype=np.int64).reshape(len(others), -1)
    figures = zip(others, space.costs(matrix).macs, model.predict(matrix), strict=True) if others else ()
    rows = [(c.key, int(macs), float(predicted), timing.ms[c.key]) for c, macs, predicted in figures]
    slow = (f"every model was exported anew: {bench.reason}",) if bench.reason else ()
    warnings = (*slow, *dict.fromkeys([*model.source["warnings"], *timing.warnings]))
    ordered = tuple(sorted(rows, key=lambda row: -row[3]))
    return Checked(model, timing.ms[TEACHER], ordered, len(timing.noisy), warnings)


def table(name: str, checked: Checked) -> RenderableType:
    """The figures for a reader."""
    model, error = checked.model, checked.model.error
    facts = Text.assemble(
        (name, "bold"), f" on {model.source['target']} ({model.source['runtime']}, {model.source['processor']})\n",
        f"teacher: {text.ms(model.anchor_ms)} a batch at calibration, {text.ms(checked.teacher_ms)} at the check\n"
        f"fitted on {error.samples} candidates ({model.method}); cross-validated error: median "
        f"{text.percent(error.median, 1)}, 90th percentile {text.percent(error.p90, 1)}, rank correlation "
        f"{error.spearman:.3f}\n",
    )
    if not checked.rows:
        return facts
    rows = Table(box=None, padding=(0, 1), header_style="bold")
    rows.add_column("candidate", no_wrap=True)
    for column in ("MACs", "predicted", "measured", "error", "speed-up"):
        rows.add_column(column, justify="right", no_wrap=True)
    for (key, macs, predicted, measured), off in zip(checked.rows, checked.errors, strict=True):
        speed_up = text.times(checked.teacher_ms / measured)
        rows.add_row(key, text.count(macs), text.ms(predicted), text.ms(measured), text.percent(off, 1), speed_up)
    note = "errors are relative to the teacher measured in the same rounds"
    noisy = f"; {checked.noisy} of the figures are noisy" if checked.noisy else ""
    warnings = [Text(f" {warning}", style="yellow") for warning in checked.warnings]
    return Group(facts, rows, Text(f" {note}{noisy}", style="dim"), *warnings)
