"""Results as tables for a terminal of 80 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from niwaki.search.report import ReportData, text
from niwaki.search.report.data import Member
from niwaki.spaces import SpaceReport
from niwaki.spaces.check import Proof


def front(data: ReportData) -> RenderableType:
    """The Pareto front and the teacher; latency columns where it was measured, memory where it had a budget."""
    timed = data.teacher.costs.latency is not None
    memory = any(b.name == "memory" for b in data.budgets)
    table = Table(box=None, padding=(0, 1), header_style="bold", title_justify="left")
    table.add_column("model", no_wrap=True, max_width=18)
    for name in ("val", "test", "MACs", "params", "size", *(("memory",) if memory else ()),
                 *(("predicted", "measured", "speed-up") if timed else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for member in data.members:
        table.add_row(*_cells(member, timed, memory))
    table.add_row(*_cells(data.teacher, timed, memory), style="dim")
    parts: list[RenderableType] = [table]
    if any(m.test_spread is not None for m in data.members):
        spread = ", ".join(f"{m.name} ± {100 * m.test_spread:.2f}" for m in data.members if m.test_spread is not None)
        parts.append(Text(f" test: mean of repeated trainings; standard deviation in points: {spread}", style="dim"))
    return Group(*parts)


def _cells(member: Member, timed: bool, memory: bool) -> list[str]:
    tight = [text.percent(member.validation, 1), text.percent(member.test, 1), text.count(member.costs.macs)]
    tight += [text.count(member.costs.params), text.size(member.costs.size)]
    tight += [text.size(member.costs.memory)] if memory else []
    if timed:
        tight += [text.ms(member.predicted_ms), text.ms(member.costs.latency), text.times(member.speed_up)]
    return [member.name, *(cell.replace(" ", "") for cell in tight)]


def space(name: str, report: SpaceReport) -> RenderableType:
    """What may be cut in a model, what may not, and why; ``--json`` has every part and every width."""
    full, least = report.teacher, report.smallest
    lines = [
        f": {text.count(full.macs)} MACs, {text.count(full.params)} parameters, {text.size(full.bytes)}",
        f"smallest candidate: {text.count(least.macs)} MACs, {text.count(least.params)} parameters, "
        f"{text.size(least.bytes)}",
        f"widths can cut into {text.percent(report.cuttable_macs, 0)} of the MACs and "
        f"{text.percent(report.cuttable_params, 0)} of the parameters",
        *([f"blocks that may go hold {text.percent(report.removable_macs, 0)} of the MACs and "
           f"{text.percent(report.removable_params, 0)} of the parameters"] if report.stages else []),
        f"about 10^{report.candidates:.0f} candidates\n",
    ]
    facts = Text.assemble((name, "bold"), "\n".join(lines))
    return Group(facts, *_groups(report), *_stages(report), *_sparsities(report), *_fixed(report))


def proofs(name: str, found: Sequence[Proof]) -> RenderableType:
    """What held and what did not, with figures."""
    table = _table("proof", "", "figures")
    for proof in found:
        mark = Text("held", style="green") if proof.held else Text("FAILED", style="bold red")
        table.add_row(proof.says, mark, Text(proof.detail))
    failed = sum(not proof.held for proof in found)
    verdict = f"{name}: {failed} of {len(found)} proofs failed" if failed else f"{name}: all {len(found)} proofs held"
    return Group(table, _title(verdict))


def _groups(report: SpaceReport) -> list[RenderableType]:
    classes = list(dict.fromkeys(tuple(sorted((r.name, *r.tied))) for r in report.groups if r.tied))
    rows = []
    for r in report.groups:
        ties = [f"={i + 1}" for i, names in enumerate(classes) if r.name in names]
        note = " ".join([*([] if r.exact else ["norm"]), *ties])
        rows.append((r.name, (str(len(r.layers)), str(r.units), _short(r.choices), note), (r.macs, r.params)))
    notes = any(cells[-1] for _, cells, _ in rows)
    table = _table("group", "layers", "units", "choices", "MACs", "params", *(["note"] if notes else []))
    merged = _merged(rows)
    for name, (layers, units, choices, note), shares in merged:
        table.add_row(name, layers, units, choices, *shares, *([note] if notes else []))
    legend = [
        "(n): so many groups alike; their largest shares" if len(merged) < len(rows) else "",
        "norm: the units pass a normaliser: removing one is not the same as zeroing it"
        if not all(r.exact for r in report.groups) else "",
        "=1, =2...: groups of one number are tied on request: they keep equally many units" if classes else "",
    ]
    return [table, *(Padding(Text(line, style="dim"), (0, 1)) for line in legend if line)] if rows else []


def _stages(report: SpaceReport) -> list[RenderableType]:
    if not report.stages:
        return []
    table = _table("stage", "blocks", "stay", "MACs", "params")
    rows = [(s.name, (str(len(s.blocks)), str(s.least)), (s.macs, s.params)) for s in report.stages]
    for name, cells, shares in _merged(rows):
        table.add_row(name, *cells, *shares)
    return [_title("Depth: blocks are removed from the end of a stage"), table]


_MANY = 30
_Row = tuple[str, tuple[str, ...], tuple[float, float]]


def _merged(rows: Sequence[_Row]) -> list[tuple[str, tuple[str, ...], tuple[str, str]]]:
    """Where there are many, rows whose cells agree and whose names differ in numbers alone become one pattern."""
    alike: dict[tuple[str, tuple[str, ...]], list[_Row]] = {}
    for name, cells, shares in rows:
        general = re.sub(r"\d+", "0", name) if len(rows) > _MANY else name
        alike.setdefault((general, cells), []).append((name, cells, shares))
    found: list[tuple[str, tuple[str, ...], tuple[str, str]]] = []
    for (_, cells), some in alike.items():
        pieces = zip(*(re.split(r"(\d+)", name) for name, _, _ in some), strict=True)
        name = "".join(p[0] if len(set(p)) == 1 else "*" for p in pieces)
        macs, params = (_share(max(shares[i] for _, _, shares in some)) for i in range(2))
        found.append((name + (f" ({len(some)})" if len(some) > 1 else ""), cells, (macs, params)))
    return found


def _sparsities(report: SpaceReport) -> list[RenderableType]:
    if not report.sparsities:
        return []
    tokens = sorted({t for offered in report.sparsities.values() for t in offered})
    layers = Text(f"{len(report.sparsities)} layers, each with a choice of: {', '.join(tokens)}")
    return [_title("Sparsity"), Padding(layers, (0, 1))]


def _fixed(report: SpaceReport) -> list[RenderableType]:
    """One row a reason: hundreds of layers of one kind are pinned for the same one."""
    if not report.fixed:
        return []
    table = _table("parts", "MACs", "params", "why, where, which", name="")
    for row in report.reasons:
        where = f" ({_few(row.where, 2)})" if row.where else ""
        which = Text.assemble(row.reason, (where, "dim"), "\n", (_few(row.parts, 3), "dim"))
        table.add_row(str(len(row.parts)), _share(row.macs), _share(row.params), which)
    count = f"{len(report.fixed)} part{'' if len(report.fixed) == 1 else 's'}"
    return [_title(f"Fixed: {count} (shares: of the layers that they sit in)"), table]


def _table(*columns: str, name: str | None = None) -> Table:
    """Numbers to the right; the column ``name`` (the first one) and long texts to the left, folded."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in columns:
        left = column in (columns[0] if name is None else name, "choices", "note", "why, where, which", "figures")
        table.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table


def _title(words: str) -> Text:
    return Text(f"\n {words}", style="bold")


def _share(value: float) -> str:
    return text.percent(value, 1)


def _few(names: Sequence[str], limit: int) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _short(choices: Sequence[int]) -> str:
    shown = ", ".join(str(c) for c in choices)
    return shown if len(shown) <= 14 else f"{choices[0]} ... {choices[-1]} ({len(choices)})"
