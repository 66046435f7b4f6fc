"""Results as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from niwaki.search.report import ReportData, text
from niwaki.search.report.data import Member
from niwaki.spaces import SpaceReport


def front(data: ReportData) -> RenderableType:
    """The Pareto front and the teacher; latency columns where it was measured."""
    timed = data.teacher.costs.latency is not None
    table = Table(box=None, padding=(0, 1), header_style="bold", title_justify="left")
    table.add_column("model", no_wrap=True, max_width=18)
    for name in ("val", "test", "MACs", "params", "size", *(("predicted", "measured", "speed-up") if timed else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for member in data.members:
        table.add_row(*_cells(member, timed))
    table.add_row(*_cells(data.teacher, timed), style="dim")
    parts: list[RenderableType] = [table]
    if any(m.test_spread is not None for m in data.members):
        spread = ", ".join(f"{m.name} ± {100 * m.test_spread:.2f}" for m in data.members if m.test_spread is not None)
        parts.append(Text(f" test: mean of repeated trainings; standard deviation in points: {spread}", style="dim"))
    return Group(*parts)


def _cells(member: Member, timed: bool) -> list[str]:
    tight = [text.percent(member.validation, 1), text.percent(member.test, 1), text.count(member.costs.macs)]
    tight += [text.count(member.costs.params), text.size(member.costs.size)]
    if timed:
        tight += [text.ms(member.predicted_ms), text.ms(member.costs.latency), text.times(member.speed_up)]
    return [member.name, *(cell.replace(" ", "") for cell in tight)]


def space(name: str, report: SpaceReport) -> RenderableType:
    """What may be cut in a model, what may not, and why."""
    full, least = report.teacher, report.smallest
    facts = Text.assemble(
        (name, "bold"),
        f": {text.count(full.macs)} MACs, {text.count(full.params)} parameters, {text.size(full.bytes)}\n"
        f"smallest candidate: {text.count(least.macs)} MACs, {text.count(least.params)} parameters, "
        f"{text.size(least.bytes)}\n"
        f"{text.percent(report.cuttable_macs, 0)} of the MACs and {text.percent(report.cuttable_params, 0)} of the "
        f"parameters can shrink; about 10^{report.candidates:.0f} candidates\n",
    )
    return Group(facts, _groups(report), *_stages(report), *_sparsities(report), *_fixed(report))


def _groups(report: SpaceReport) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("group", overflow="fold")
    for name in ("layers", "units"):
        table.add_column(name, justify="right")
    table.add_column("choices", overflow="fold")
    table.add_column("MACs", justify="right", no_wrap=True)
    for row in report.groups:
        tied = str(len(row.layers))
        table.add_row(row.name, tied, str(row.units), _short(row.choices), text.percent(row.share, 1))
    return table


def _stages(report: SpaceReport) -> list[RenderableType]:
    if not report.stages:
        return []
    lines = [f"{stage}: {len(blocks)} removable ({', '.join(blocks)})" + (f", at least {least} stay" if least else "")
             for stage, (blocks, least) in report.stages.items()]
    return [_section("Depth (blocks are removed from the end of a stage)", lines)]


def _sparsities(report: SpaceReport) -> list[RenderableType]:
    if not report.sparsities:
        return []
    tokens = sorted({t for offered in report.sparsities.values() for t in offered})
    return [_section("Sparsity", [f"{len(report.sparsities)} layers, each with a choice of: {', '.join(tokens)}"])]


def _fixed(report: SpaceReport) -> list[RenderableType]:
    lines = [f"{f.name} ({f.units} units): {f.reason}" for f in report.fixed]
    return [_section("Fixed", lines)] if lines else []


def _section(title: str, lines: Sequence[str]) -> RenderableType:
    return Group(Text(f"\n {title}", style="bold"), Padding(Text("\n".join(lines)), (0, 1)))


def _short(choices: Sequence[int]) -> str:
    shown = [str(c) for c in choices]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "...", *shown[-2:]])
