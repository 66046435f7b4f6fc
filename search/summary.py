"""A run told to its report: the one place that knows both."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from niwaki.search import report
from niwaki.search.formats import CardFile, Environment, LatencyFile, SpaceFile, read_checked
from niwaki.search.outcome import Outcome, cost_from_json
from niwaki.spaces import Cost
from niwaki.spaces.latency import PredictionError

if TYPE_CHECKING:
    from niwaki.search.result import Member, Result


def write_report(result: Result) -> Path:
    """``report.html`` in the run folder."""
    return report.write_report(report_data(result), result.folder.path / "report.html")


def report_data(result: Result) -> report.ReportData:
    """Everything the page shows, as plain values."""
    environment = read_checked(result.folder.path / "env.json", Environment)
    config = result.config
    return report.ReportData(
        title=config.run.name,
        task=_task(result),
        teacher=_teacher(result),
        budgets=[report.BudgetLine(n, str(getattr(config.budget, n)), v) for n, v in result.limits.values.items()],
        points=[p for o in result.outcomes() if (p := _point(o)) is not None],
        members=[_member(m) for m in result.front],
        settings=config.model_dump(mode="json"),
        versions=environment["versions"],
        machine=_machine(result),
        calibration=_calibration(result),
        command=f"niwaki search {shlex.quote(str(result.folder.path / 'config.yaml'))} --to again",
        notes=_notes(result),
    )


def _task(result: Result) -> dict[str, str]:
    facts = result.facts
    shape = " x ".join(str(n) for n in facts["shape"])
    images = f"{result.config.train.final_images:,} images a final model"
    return {
        "data": f"{facts['data']}, {facts['classes']} classes, examples of {shape}",
        "teacher": str(facts["teacher"]["name"]),
        "training": f"{images}, {facts['precision']}, {facts['layout']}",
        "search": f"{result.config.search.proposer}, {result.config.search.trials} candidates",
    }


def _teacher(result: Result) -> report.Member:
    teacher = result.content["teacher"]
    space = read_checked(result.folder.space, SpaceFile)
    return report.Member(
        "teacher", teacher["accuracy"], _costs(cost_from_json(teacher["cost"])), teacher["test_accuracy"],
        widths={g["name"]: g["units"] for g in space["groups"]},
    )


def _member(member: Member) -> report.Member:
    entry, metrics = member.entry, member.metrics
    exported = member.run.folder.path / "export" / member.name / "card.json"
    return report.Member(
        member.name, metrics["accuracy"], _costs(entry.cost), metrics.get("test_mean"), metrics.get("test_std"),
        entry.predicted_ms, entry.speed_up, entry.candidate.widths, sorted(entry.candidate.skipped),
        entry.candidate.sparsity, tuple(read_checked(exported, CardFile)["formats"]) if exported.is_file() else (),
    )


def _point(outcome: Outcome) -> report.Point | None:
    job = outcome.job
    if not outcome.complete or job.kind == "learn":
        return None
    detail = f"rung {job.rung + 1}, level {job.level:g}" if job.kind == "search" else f"level {job.level:g}"
    return report.Point(outcome.key, job.kind, outcome.accuracy, _costs(outcome.cost), outcome.images, detail)


def _costs(cost: Cost) -> report.Costs:
    return report.Costs(cost.macs, cost.params, cost.bytes, cost.latency_ms, cost.memory_bytes)


def _machine(result: Result) -> Mapping[str, Any]:
    latency = result.folder.latency
    return dict(read_checked(latency, LatencyFile)["source"]) if latency.is_file() else {}


def _calibration(result: Result) -> list[tuple[float, float]]:
    latency = result.folder.latency
    samples = read_checked(latency, LatencyFile)["samples"] if latency.is_file() else []
    return [(s["held_out"], s["ms"]) for s in samples]


def _notes(result: Result) -> list[str]:
    notes = []
    failed = [o for o in result.outcomes() if not o.complete]
    if failed:
        notes.append(f"{len(failed)} trials failed; each says why in its outcome.json")
    if result.folder.latency.is_file():
        error = PredictionError(**read_checked(result.folder.latency, LatencyFile)["error"])
        notes.append(
            f"latency predictions: median error {error.median:.1%}, 90th percentile {error.p90:.1%}, rank "
            f"correlation {error.spearman:.3f} over {error.samples} measured candidates (cross-validated)"
        )
    for item in result.content["dropped"]:
        notes.append(f"candidate {item['candidate']} left out: measured {item['latency_ms']:.3g} ms, over the budget")
    if result.config.search.repeats > 1:
        notes.append(f"test accuracies are means of {result.config.search.repeats} trainings under different seeds")
    return notes
