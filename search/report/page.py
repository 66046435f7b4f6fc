"""report.html: one self-contained page that works without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from plotly import graph_objects as go
from plotly.offline import get_plotlyjs

from niwaki.search.files import write_text_atomic
from niwaki.search.report import plots, text
from niwaki.search.report.data import BudgetLine, Costs, Member, ReportData

_SHOW = {"latency": text.ms, "macs": text.count, "params": text.count, "size": text.size, "memory": text.size}
_BUDGET = {
    "latency": "Latency", "macs": "MACs", "params": "Parameters", "size": "Stored size", "memory": "Activation memory",
}
_UNWANTED = ["lasso2d", "select2d", "sendChartToCloud"]
_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": _UNWANTED}


def write_report(data: ReportData, path: Path | str) -> Path:
    """Write the page to ``path`` (replaced whole or not at all) and return it.

    The page holds plotly's script and loads nothing from anywhere. All text that comes from the run is escaped.

    Raises:
        ValueError: the front is empty; there is nothing to report.
    """
    if not data.members:
        raise ValueError("report: the front is empty")
    write_text_atomic(Path(path), render(data))
    return Path(path)


def render(data: ReportData) -> str:
    """The page as text."""
    best = data.members[0]
    template = Template(resources.files("niwaki.search.report").joinpath("template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(data.title), plotly=get_plotlyjs(), lead=_lead(data), figures=_headline(best, data),
        legend="".join(f'<span><i style="color:{c}">{mark}</i>{label}</span>' for c, mark, label in plots.legend(data)),
        plots="".join(f"<div>{_figure(figure, name)}</div>" for name, figure in _plots(data).items()),
        plots_note=_plots_note(data), members=_members(data), members_note=_members_note(data),
        widths=_widths(best, data.teacher), budgets=_budgets(data.budgets, best.costs, data.teacher.costs),
        task=_rows(data.task.items()), machine=_machine(data.machine), notes=_notes(data.notes),
        command=escape(data.command) or "–", settings=_rows(_flat(data.settings)),
        versions=_rows(data.versions.items()),
    )


def _figure(figure: go.Figure, name: str) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG, div_id=f"plot-{name}"))


def _lead(data: ReportData) -> str:
    trials = sum(p.kind == "search" for p in data.points)
    models = f"{len(data.members)} model{'s' if len(data.members) > 1 else ''} on the Pareto front"
    return escape(f"{models}, from {trials} trials, carved out of the teacher and trained with its answers.")


def _headline(best: Member, data: ReportData) -> str:
    split, accuracy = ("test", best.test) if best.test is not None else ("validation", best.validation)
    theirs = data.teacher.test if best.test is not None else data.teacher.validation
    cells = [(text.percent(accuracy), f"best model, {split} accuracy (teacher {text.percent(theirs)})")]
    cells.append((text.percent(best.costs.macs / data.teacher.costs.macs, 0), "of the teacher's MACs"))
    cells.append((text.percent(best.costs.size / data.teacher.costs.size, 0), "of the teacher's stored size"))
    if best.speed_up is not None:
        cells.append((text.times(best.speed_up), "speed-up over the teacher, measured side by side"))
    return "".join(f'<div class="figure"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in cells)


def _plots(data: ReportData) -> dict[str, go.Figure]:
    found = {axis.name: plots.front(data, axis) for axis in plots.axes(data)}
    return found | ({"predictions": plots.predictions(data)} if data.calibration else {})


def _plots_note(data: ReportData) -> str:
    parts = ["Accuracies are on the validation split; trials of the search are trained for less than the front."]
    if any(p.costs.latency is not None for p in data.points):
        parts.append("Latency is measured for the front and the teacher, predicted for the trials.")
    if data.calibration:
        parts.append(
            "Measured against predicted: blue are the candidates that the latency model was fitted to, each predicted "
            "by a fit that did not see it; green is the front."
        )
    return escape(" ".join(parts))


def _members(data: ReportData) -> str:
    timed = any(m.costs.latency is not None for m in data.members)
    heads = ["Model", "Validation", "Test", "MACs", "Parameters", "Size"]
    costs = ["macs", "params", "size", *(["memory"] if any(b.name == "memory" for b in data.budgets) else [])]
    heads += ["Memory"] if "memory" in costs else []
    heads += ["Predicted", "Measured", "Speed-up"] if timed else []
    rows = [
        _member(m, data.teacher.costs, costs, timed, "best" if i == 0 else "") for i, m in enumerate(data.members)
    ]
    rows.append(_member(data.teacher, None, costs, timed, "teacher"))
    return f"<thead><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr></thead><tbody>{''.join(rows)}</tbody>"


def _member(member: Member, teacher: Costs | None, costs: list[str], timed: bool, mark: str) -> str:
    def share(name: str) -> str:
        return f" <small>{getattr(member.costs, name) / getattr(teacher, name):.0%}</small>" if teacher else ""

    test = text.percent(member.test)
    if member.test_spread is not None:
        test += f" <small>± {100 * member.test_spread:.2f}</small>"
    name = escape(member.name) + (" (teacher)" if mark == "teacher" and member.name != mark else "")
    cells = [name, text.percent(member.validation), test]
    cells += [_SHOW[name](getattr(member.costs, name)) + share(name) for name in costs]
    if timed:
        cells += [text.ms(member.predicted_ms), text.ms(member.costs.latency), text.times(member.speed_up)]
    return f'<tr class="{mark}">{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def _members_note(data: ReportData) -> str:
    parts = ["Percentages are shares of the teacher's figure."]
    if any(m.test_spread is not None for m in data.members):
        parts.append("± is the standard deviation over repeated trainings.")
    if any(m.exported for m in data.members):
        written = "; ".join(f"{m.name}: {', '.join(m.exported)}" for m in data.members if m.exported)
        parts.append(f"Exported and verified: {written}.")
    return escape(" ".join(parts))


def _widths(best: Member, teacher: Member) -> str:
    if not teacher.widths:
        return ""
    notes = []
    if best.skipped:
        notes.append(f"Blocks left out: {', '.join(best.skipped)}.")
    if best.sparsity:
        notes.append("Sparse layers: " + ", ".join(f"{k} ({v})" for k, v in best.sparsity.items()) + ".")
    figure = _figure(plots.widths(best, teacher), "widths")
    note = f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""
    return f"<section><h2>Widths of the best model, over the teacher's</h2>{figure}{note}</section>"


def _budgets(budgets: Iterable[BudgetLine], best: Costs, teacher: Costs) -> str:
    rows = []
    for b in budgets:
        show, mine, full = _SHOW[b.name], getattr(best, b.name), getattr(teacher, b.name)
        mark = ' class="out"' if mine is not None and mine > b.limit else ""
        rows.append(
            f"<tr><td>{_BUDGET[b.name]}</td><td>at most <b>{escape(show(b.limit))}</b> ({escape(b.asked)})<br>"
            f"<small>best model <span{mark}>{escape(show(mine))}</span>, teacher {escape(show(full))}</small></td></tr>"
        )
    return "".join(rows) or "<tr><td>none</td><td></td></tr>"


def _machine(machine: Mapping[str, Any]) -> str:
    if not machine:
        return ""
    shown: dict[str, Any] = {k: "; ".join(v) if isinstance(v, list) else v for k, v in machine.items() if v != []}
    shares = ("interrupted_runs", "spread_of_rounds")
    rows = [(k.replace("_", " "), text.percent(v, 1) if k in shares else v) for k, v in shown.items()]
    return f'<section><h2>Latency measured on</h2><table class="plain">{_rows(rows)}</table></section>'


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Remarks</h2><ul>{items}</ul></section>" if items else ""


def _rows(pairs: Iterable[tuple[str, Any]]) -> str:
    return "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in pairs)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as ``section.key`` rows."""
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value
        rows += _flat(value, f"{name}.") if nested else [(name, "–" if value is None else value)]
    return rows
