"""The plots of a report, as plotly figures: accuracy against each cost, and how wide every layer stayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from niwaki.search.report import text
from niwaki.search.report.data import Costs, Kind, Member, Point, ReportData
from niwaki.spaces import Block

INK, PALE, GREEN, BRICK, GOLD, BLUE = "#22302a", "#b9c4bd", "#2f7d4f", "#b5472f", "#c08a1e", "#3f6fa8"


@dataclass(frozen=True)
class Axis:
    """A cost as an axis: figures are divided by ``scale`` and shown in ``unit``."""

    name: str
    title: str
    unit: str
    scale: float
    show: Callable[[float | None], str]

    def of(self, costs: Costs) -> float | None:
        value: float | None = getattr(costs, self.name)
        return None if value is None else value / self.scale


@dataclass(frozen=True)
class _Style:
    kind: Kind
    label: str
    colour: str
    symbol: str
    mark: str
    size: int
    opacity: float


_STYLES = (
    _Style("search", "trial of the search", PALE, "circle", "●", 7, 0.75),
    _Style("uniform", "uniform widths", BLUE, "square", "■", 8, 0.9),
    _Style("random", "random at the budget", GOLD, "triangle-up", "▲", 9, 0.9),
    _Style("final", "trained to the end, not on the front", GREEN, "circle-open", "○", 9, 0.9),
)


def axes(data: ReportData) -> list[Axis]:
    """The costs worth a plot: the budgeted ones first, then those of the rest that are known."""
    largest = data.teacher.costs
    choices = [
        _axis("latency", "Latency of one batch", largest.latency or 1.0, {"ms": 1.0, "µs": 1e-3}, text.ms),
        _axis("macs", "MACs", largest.macs, {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}, text.count),
        _axis("size", "Stored size", largest.size, {"MB": 1e6, "kB": 1e3, "B": 1.0}, text.size),
        _axis("params", "Parameters", largest.params, {"M": 1e6, "k": 1e3, "": 1.0}, text.count),
    ]
    asked = {b.name for b in data.budgets}
    if "memory" in asked:
        units = {"MB": 1e6, "kB": 1e3, "B": 1.0}
        choices.append(_axis("memory", "Activation memory of one example", largest.memory or 1.0, units, text.size))
    known = [a for a in choices if any(a.of(m.costs) is not None for m in [*data.members, data.teacher])]
    return sorted(known, key=lambda axis: axis.name not in asked)


def _axis(name: str, title: str, largest: float, units: dict[str, float], show: Callable[..., str]) -> Axis:
    unit = next((u for u, worth in units.items() if largest >= worth), list(units)[-1])
    return Axis(name, title, unit, units[unit], show)


def front(data: ReportData, axis: Axis) -> go.Figure:
    """Validation accuracy against one cost: trials pale, front strong, baselines, teacher, and the budget as a line."""
    figure = go.Figure()
    for style in _STYLES:
        points = [p for p in data.points if p.kind == style.kind and axis.of(p.costs) is not None]
        if points:
            figure.add_trace(_cloud(points, style, axis))
    figure.add_trace(_line(sorted(data.members, key=lambda m: axis.of(m.costs) or 0), axis))
    figure.add_trace(_star(data.teacher, axis))
    for budget in data.budgets:
        if budget.name == axis.name:
            where = budget.limit / axis.scale
            figure.add_vline(x=where, line={"color": BRICK, "dash": "dash", "width": 1.5})
            label = {"text": f"budget {escape(budget.asked)}", "font": {"color": BRICK, "size": 12}, "showarrow": False}
            figure.add_annotation(x=where, y=0.0, yref="paper", yanchor="bottom", xanchor="left", xshift=3, **label)
    unit = f" ({axis.unit})" if axis.unit else ""
    figure.update_layout(**_layout(), height=400, hovermode="closest", showlegend=False)
    figure.update_xaxes(title=axis.title + unit, rangemode="tozero", **_grid())
    figure.update_yaxes(title="Validation accuracy (%)", range=_accuracy_range(data), **_grid())
    return figure


def legend(data: ReportData) -> list[tuple[str, str, str]]:
    """(colour, mark, label) of everything in the front plots, so that one legend serves all of them."""
    kinds = {p.kind for p in data.points}
    used = [(s.colour, s.mark, s.label) for s in _STYLES if s.kind in kinds]
    return [(GREEN, "●", "front"), (INK, "★", "teacher"), *([(BRICK, "┆", "budget")] if data.budgets else []), *used]


def _cloud(points: Sequence[Point], style: _Style, axis: Axis) -> go.Scatter:
    hover = [
        f"<b>{escape(p.name)}</b><br>{style.label}<br>{text.percent(p.accuracy)} on validation, "
        f"{text.count(p.images)} images{'<br>' + escape(p.detail) if p.detail else ''}<br>{_costs(p.costs)}"
        for p in points
    ]
    marker = {"color": style.colour, "symbol": style.symbol, "size": style.size, "opacity": style.opacity}
    return _scatter([axis.of(p.costs) for p in points], [100 * p.accuracy for p in points], hover, marker, style.label)


def _line(members: Sequence[Member], axis: Axis) -> go.Scatter:
    hover = [
        f"<b>{escape(m.name)}</b><br>{text.percent(m.validation)} on validation, {text.percent(m.test)} on test"
        f"<br>{_costs(m.costs)}<br>speed-up {text.times(m.speed_up)}" for m in members
    ]
    marker = {"color": GREEN, "size": 12, "line": {"color": "white", "width": 1.5}}
    trace = _scatter([axis.of(m.costs) for m in members], [100 * m.validation for m in members], hover, marker, "front")
    return trace.update(mode="lines+markers", line={"color": GREEN, "width": 2, "dash": "dot"})


def _star(teacher: Member, axis: Axis) -> go.Scatter:
    hover = [f"<b>teacher: {escape(teacher.name)}</b><br>{text.percent(teacher.validation)}<br>{_costs(teacher.costs)}"]
    marker = {"color": INK, "symbol": "star", "size": 15}
    return _scatter([axis.of(teacher.costs)], [100 * teacher.validation], hover, marker, "teacher")


def _scatter(
    x: Sequence[float | None], y: Sequence[float], hover: Sequence[str], marker: dict[str, object], name: str,
) -> go.Scatter:
    template = "%{text}<extra></extra>"
    return go.Scatter(x=x, y=y, text=hover, mode="markers", marker=marker, name=name, hovertemplate=template)


def _costs(costs: Costs) -> str:
    parts = [f"{text.count(costs.macs)} MACs", f"{text.count(costs.params)} parameters", text.size(costs.size)]
    return ", ".join(parts + ([text.ms(costs.latency)] if costs.latency is not None else []))


def _accuracy_range(data: ReportData) -> list[float]:
    """From a little under the front to a little over the best: trials trained for a moment would squash the rest."""
    strong = [m.validation for m in [*data.members, data.teacher]]
    strong += [p.accuracy for p in data.points if p.kind in ("uniform", "random", "final")]
    top, low = 100 * max(strong), 100 * min(strong)
    room = max(top - low, 1.0)
    return [max(0.0, low - 0.5 * room), min(100.0 + 0.12 * room, top + 0.25 * room)]


def widths(best: Member, teacher: Member) -> go.Figure:
    """Units of every group in the best member, over the teacher's."""
    names = list(teacher.widths)
    full = [teacher.widths[n] for n in names]
    # a candidate has a width for the groups of blocks that it leaves out, too
    skipped = [path for block in best.skipped for path in Block.modules(block)]
    gone = [any(n == path or n.startswith(f"{path}.") for path in skipped) for n in names]
    kept = [0 if out else best.widths.get(n, 0) for n, out in zip(names, gone, strict=True)]
    hover = [f"<b>{escape(n)}</b><br>{k} of {f} units kept" for n, k, f in zip(names, kept, full, strict=True)]
    labels = [escape(n) for n in names]
    note = ["block left out" if out else f"{k} / {f}" for k, f, out in zip(kept, full, gone, strict=True)]
    template = "%{customdata}<extra></extra>"
    figure = go.Figure([
        go.Bar(y=labels, x=full, orientation="h", marker={"color": "#e3e9e5"}, text=note, textposition="outside",
               cliponaxis=False, customdata=hover, hovertemplate=template, name="teacher"),
        go.Bar(y=labels, x=kept, orientation="h", marker={"color": GREEN}, customdata=hover, hovertemplate=template,
               width=0.5, name="kept"),
    ])
    layout = _layout() | {"margin": {"l": 10, "r": 110, "t": 10, "b": 45}}
    figure.update_layout(**layout, barmode="overlay", height=90 + 24 * len(names), showlegend=False, bargap=0.25)
    figure.update_yaxes(autorange="reversed", type="category", automargin=True, ticksuffix=" ")
    figure.update_xaxes(title="Units (channels)", rangemode="tozero", **_grid())
    return figure


def predictions(data: ReportData) -> go.Figure:
    """Measured against predicted latency: candidates of the calibration, and the front."""
    front = [(m.predicted_ms, m.costs.latency) for m in data.members if m.predicted_ms and m.costs.latency]
    top = 1.05 * max(v for pair in [*data.calibration, *front] for v in pair)
    diagonal = go.Scatter(x=[0, top], y=[0, top], mode="lines", line={"color": PALE, "dash": "dash"}, hoverinfo="skip")
    figure = go.Figure([
        diagonal, _pairs(data.calibration, "calibration", {"color": BLUE, "size": 7, "opacity": 0.7}),
        _pairs(front, "front", {"color": GREEN, "size": 12}),
    ])
    figure.update_layout(**_layout(), height=380, hovermode="closest", showlegend=False)
    figure.update_xaxes(title="Predicted latency (ms)", range=[0, top], **_grid())
    figure.update_yaxes(title="Measured latency (ms)", range=[0, top], **_grid())
    return figure


def _pairs(pairs: Sequence[tuple[float, float]], name: str, marker: dict[str, object]) -> go.Scatter:
    hover = [f"{name}: predicted {text.ms(p)}, measured {text.ms(m)} ({m / p - 1:+.1%})" for p, m in pairs]
    return _scatter([p for p, _ in pairs], [m for _, m in pairs], hover, marker, name)


def _layout() -> dict[str, object]:
    return {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK}, "plot_bgcolor": "white",
        "paper_bgcolor": "white", "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "hoverlabel": {"bgcolor": "white", "bordercolor": PALE, "font": {"color": INK}},
    }


def _grid() -> dict[str, object]:
    return {"gridcolor": "#eef1ef", "zeroline": False, "showline": True, "linecolor": PALE, "automargin": True}
