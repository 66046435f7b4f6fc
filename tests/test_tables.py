"""Tables for terminals of 80 columns, hundreds of parts included."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from niwaki import tables
from niwaki.spaces import Cost, GroupRow, SpaceReport
from niwaki.spaces.explain import FixedRow, ReasonRow, Stage
from niwaki.spaces.options import matches

LONG = "encoder.layers.encoder_layer_{}.self_attention.in_projection#{}"


def group(name: str, units: int = 64, exact: bool = True, tied: tuple[str, ...] = ()) -> GroupRow:
    return GroupRow(name, (name,), units, (19, 25, 32, 38, 44, 51, 57, units), 0.031, 0.02, exact, False, tied)


def pinned(count: int, reason: str = "no rule for aten.mystery.default") -> tuple[list[FixedRow], ReasonRow]:
    names = [LONG.format(i, 0) for i in range(count)]
    rows = [FixedRow(n, 12, reason, f"transformer.py:{i}", 0.01, 0.01) for i, n in enumerate(names)]
    return rows, ReasonRow(reason, tuple(names), 12 * count, tuple(r.where for r in rows), 0.3, 0.25)


def report(groups: list[GroupRow], pins: int = 300, stages: tuple[Stage, ...] = ()) -> SpaceReport:
    rows, reason = pinned(pins)
    reasons = (reason,) if pins else ()
    costs = Cost(10**9, 10**7, 4 * 10**7), Cost(10**8, 10**6, 4 * 10**6)
    return SpaceReport(*costs, 0.75, 0.5, 0.25, 0.125, tuple(groups), stages, {}, tuple(rows), reasons, 12.3)


def shown(content: SpaceReport, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(tables.space("net", content))
    return out.getvalue().splitlines()


def test_three_hundred_pins_of_one_reason_are_one_row() -> None:
    lines = shown(report([group("conv1")]))
    text = " ".join(" ".join(lines).split())
    assert len(lines) < 25
    assert all(len(line) <= 80 for line in lines)
    assert "Fixed: 300 parts" in text
    assert "no rule for aten.mystery.default (transformer.py:0, transformer.py:1 and 298 more)" in text
    assert "and 297 more" in text
    assert "25.0 %" in text


def test_coverage_comes_first() -> None:
    text = " ".join(
        " ".join(shown(report([group("conv1")], stages=(Stage("layer1", ("a", "b"), 1, 0.25, 0.125),)))).split()
    )
    assert "widths can cut into 75 % of the MACs and 50 % of the parameters" in text
    assert "blocks that may go hold 25 % of the MACs and 12 % of the parameters" in text
    assert "about 10^12 candidates" in text
    assert "layer1 2 1 25.0 % 12.5 %" in text


@pytest.mark.parametrize("width", [80, 100])
def test_few_groups_are_listed_each(width: int) -> None:
    lines = shown(report([group(f"layer{i}.conv1") for i in range(5)], pins=0), width)
    assert [line.split()[0] for line in lines if ".conv1" in line] == [f"layer{i}.conv1" for i in range(5)]
    assert "Fixed" not in "".join(lines)
    assert "note" not in "".join(lines)


def test_many_groups_alike_become_one_pattern_that_options_take() -> None:
    groups = [group(LONG.format(i, k), 64 * k) for i in range(24) for k in (1, 2)]
    for width in (80, 140):
        lines = shown(report(groups, pins=0), width)
        assert len([line for line in lines if "19 ... " in line]) == 2
        assert "(n): so many groups alike" in " ".join(lines)
        assert all(len(line) <= width for line in lines)
    for pattern, row in zip((LONG.format("*", 1), LONG.format("*", 2)), groups[:2], strict=True):
        assert any(f" {pattern} (24) " in line for line in lines)
        assert matches(row.name, pattern)


def test_groups_that_differ_in_more_than_numbers_stay_apart() -> None:
    groups = [group(f"layer{i}.conv{1 + i % 2}", 64 + i) for i in range(40)]
    lines = shown(report(groups, pins=0), 100)
    assert len([line for line in lines if "19 ... " in line]) == 40


def test_normalisers_and_ties_are_marked() -> None:
    rows = [group("a", exact=False), group("b", tied=("c",)), group("c", tied=("b",)), group("d", tied=("e",)),
            group("e", False, tied=("d",))]  # fmt: skip
    rows[4] = replace(rows[4], exact=False)
    lines = shown(report(rows, pins=0))
    notes = {line.split()[0]: line.split("%")[-1].split() for line in lines if "19 ... " in line}
    assert notes == {"a": ["norm"], "b": ["=1"], "c": ["=1"], "d": ["=2"], "e": ["norm", "=2"]}
    text = " ".join(lines)
    assert "norm: the units pass a normaliser" in text
    assert "tied on request" in text
