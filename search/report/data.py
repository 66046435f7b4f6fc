"""What a report shows: plain values, filled from a run by whoever has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["search", "uniform", "random", "final", "teacher"]


@dataclass(frozen=True)
class Costs:
    """Figures of one model: MACs of one example, parameters, stored bytes, ms of one batch, bytes of activations."""

    macs: float
    params: float
    size: float
    latency: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Point:
    """One trained model in the plots.

    Attributes:
        name: shown on hover (a job's or a candidate's key).
        kind: a trial of the search, a baseline, a finalist, or the teacher.
        accuracy: on the validation split, 0..1.
        costs: its costs; plots leave out the points that have no figure for their axis.
        images: training images seen.
        detail: one more line for the hover, such as ``rung 1, level 0.8``.
    """

    name: str
    kind: Kind
    accuracy: float
    costs: Costs
    images: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Member:
    """One model of the front, a row of the table.

    Attributes:
        name: of the member, as ``export`` and ``Result`` call it.
        validation: accuracy 0..1. test: the same on the test split, None where that is still untouched.
        test_spread: sample standard deviation over the repeats, None for a single training.
        costs: with the *measured* latency where there is one. predicted_ms: by the latency model.
        speed_up: teacher's measured latency over this one's, from the same rounds.
        widths: group -> units kept. skipped: blocks left out. sparsity: layer -> pattern.
        exported: formats written, for the record.
    """

    name: str
    validation: float
    costs: Costs
    test: float | None = None
    test_spread: float | None = None
    predicted_ms: float | None = None
    speed_up: float | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    sparsity: Mapping[str, str] = field(default_factory=dict)
    exported: Sequence[str] = ()


@dataclass(frozen=True)
class BudgetLine:
    """One budget: ``name`` (latency, macs, params, size, memory), as ``asked`` for (``50%``), the ``limit``."""

    name: str
    asked: str
    limit: float


@dataclass(frozen=True)
class ReportData:
    """Everything ``report.html`` shows.

    Attributes:
        title: the run's name.
        task: a few lines of facts about data and model: label -> text.
        teacher: a Member with every unit; its ``widths`` are the full ones.
        budgets: that held together.
        points: all complete trials and baselines (the members may be among them).
        members: the front, best accuracy first.
        settings: the resolved configuration, nested as in ``config.yaml``.
        versions: package -> version.
        machine: where latency was measured, empty where it was not; floats are shown as percentages.
        calibration: (predicted, measured) ms of the candidates that the latency model was fitted to, each predicted
            by a fit that did not see it.
        command: to run the same again.
        notes: remarks for the reader (failed trials, noisy measurements, prediction error), one line each.
    """

    title: str
    task: Mapping[str, str]
    teacher: Member
    budgets: Sequence[BudgetLine]
    points: Sequence[Point]
    members: Sequence[Member]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    calibration: Sequence[tuple[float, float]] = ()
    command: str = ""
    notes: Sequence[str] = ()
