"""The report: self-contained, escaped, and saying what the data say."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from niwaki.search.report import BudgetLine, Costs, Member, Point, ReportData, plots, render, text, write_report

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&$title"


def _data(**changes):
    teacher = Member("net", 0.95, Costs(40e6, 270e3, 1.08e6, 2.0), 0.94, widths={"conv1": 16, "layer1.0.conv1": 32})
    best = Member(
        "m1", 0.93, Costs(20e6, 130e3, 0.5e6, 1.0), 0.92, 0.0021, 1.02, 2.0, {"conv1": 8, "layer1.0.conv1": 32},
        ["layer1.0"], {"conv1": "2:4"}, ["onnx"],
    )
    small = replace(best, name="m2", validation=0.9, test=0.89, costs=Costs(8e6, 60e3, 0.2e6, 0.5), speed_up=4.0)
    points = [Point("search-0-a", "search", 0.6, Costs(21e6, 131e3, 0.5e6, 1.1), 2000, "rung 1"),
              Point("uniform-0-b", "uniform", 0.88, Costs(20e6, 130e3, 0.5e6, 1.0), 6000)]
    fields = {
        "title": "run one", "task": {"data": "digits"}, "teacher": teacher, "members": [best, small], "points": points,
        "budgets": [BudgetLine("size", "0.5MB", 5e5), BudgetLine("latency", "50%", 1.0)],
        "settings": {"train": {"lr": 0.05, "views": None}, "levels": [1.0, 0.8]}, "versions": {"torch": "2.15.0"},
        "machine": {"target": "torch:threads=1", "spread_of_rounds": 0.012}, "command": "niwaki search x --trials 3",
        "notes": ["one trial failed"],
    }
    return ReportData(**(fields | changes))


class _Page(HTMLParser):
    """Tags with attributes, and the text outside scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self._inside = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag):
        self._inside = None if tag == self._inside else self._inside

    def handle_data(self, data):
        if self._inside is None:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_loads_nothing_from_anywhere():
    page = _Page(render(_data()))
    assert not any({"src", "href"} & set(attrs) for _, attrs in page.tags)
    assert sum(tag == "script" for tag, _ in page.tags) >= 5  # plotly itself, and one a plot


def test_it_says_what_the_data_say():
    words = _Page(render(_data())).text
    for expected in (
        "run one", "2 models on the Pareto front, from 1 trials", "93.00 %", "92.00 % ± 0.21", "20.0 M 50%",
        "130 k 48%", "500 kB 46%", "1.02 ms", "1.00 ms", "2.00x", "net (teacher)", "at most 500 kB (0.5MB)",
        "Blocks left out: layer1.0.",
        "conv1 (2:4)", "train.lr 0.05", "levels [1.0, 0.8]", "train.views –", "torch 2.15.0", "one trial failed",
        "niwaki search x --trials 3", "m1: onnx", "spread of rounds 1.2 %",
    ):
        assert expected in words, expected


def test_user_text_is_escaped_everywhere():
    data = _data()
    hostile = _data(
        title=HOSTILE, task={HOSTILE: HOSTILE}, settings={HOSTILE: {HOSTILE: HOSTILE}}, versions={HOSTILE: HOSTILE},
        machine={HOSTILE: HOSTILE}, command=HOSTILE, notes=[HOSTILE], budgets=[BudgetLine("size", HOSTILE, 5e5)],
        points=[replace(p, name=HOSTILE, detail=HOSTILE) for p in data.points],
        members=[replace(m, name=HOSTILE, skipped=[HOSTILE], sparsity={HOSTILE: HOSTILE}, exported=[HOSTILE],
                         widths={HOSTILE: 3}) for m in data.members],
        teacher=replace(data.teacher, name=HOSTILE, widths={HOSTILE: 5}),
    )
    page = _Page(render(hostile))
    counts = [[tag for tag, _ in p.tags].count("script") for p in (page, _Page(render(data)))]
    assert counts[0] == counts[1]
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "<script>alert" not in render(hostile)
    assert page.text.count("$title") >= 8  # nothing was substituted into user text


def _figures(page):
    """Data of every plotly figure in the page, by plot name."""
    found = {}
    for match in re.finditer(r'Plotly\.newPlot\(\s*"plot-(\w+)",\s*(\[)', page):
        traces, _ = json.JSONDecoder().raw_decode(page, match.start(2))
        found[match[1]] = {trace["name"]: trace for trace in traces}
    return found


def test_plots_hold_every_model_in_units_of_their_axis():
    figures = _figures(render(_data()))
    assert list(figures) == ["latency", "size", "macs", "params", "widths"]  # budgeted costs first
    assert figures["size"]["front"]["x"] == [0.2, 0.5]
    assert figures["size"]["front"]["y"] == [90.0, 93.0]
    assert figures["macs"]["teacher"]["x"] == [40.0]
    assert figures["latency"]["trial of the search"]["x"] == [1.1]
    assert figures["params"]["uniform widths"]["x"] == [130.0]


def test_widths_of_left_out_blocks_are_zero():
    figures = _figures(render(_data()))
    assert figures["widths"]["kept"]["x"] == [8, 0]
    assert figures["widths"]["teacher"]["x"] == [16, 32]


def test_without_latency_there_is_no_latency():
    data = _data(machine={}, budgets=[BudgetLine("size", "50%", 5e5)])

    def strip(thing):
        return replace(thing, costs=replace(thing.costs, latency=None))

    members = [replace(strip(m), predicted_ms=None, speed_up=None) for m in data.members]
    data = replace(data, teacher=strip(data.teacher), members=members, points=[strip(p) for p in data.points])
    page = render(data)
    assert "latency" not in _figures(page)
    assert "Measured" not in _Page(page).text
    assert [axis.name for axis in plots.axes(data)] == ["size", "macs", "params"]


def test_writing_replaces_the_old_report_whole(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_report(_data(), path) == path
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_an_empty_front_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the front is empty"):
        write_report(_data(members=[]), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.count(999.4), "999"), (text.count(999_700), "1.00 M"), (text.count(12_345), "12.3 k"),
        (text.count(0), "0"), (text.size(999), "999 B"), (text.size(1_500_000), "1.50 MB"), (text.size(None), "–"),
        (text.ms(123.4), "123 ms"),
        (text.ms(0.00512), "0.00512 ms"), (text.percent(1, 0), "100 %"), (text.times(None), "–"),
        (text.seconds(59.6), "1 min 0 s"), (text.seconds(3_600), "1 h 0 min"), (text.seconds(0.04), "0.0 s"),
    ],
)
def test_figures_are_short_and_carry_their_unit(shown, expected):
    assert shown == expected
