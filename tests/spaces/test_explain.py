"""Coverage of a space: shares recounted on models that really lack the part, reasons, lines, JSON."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, Fixed, SpaceReport, carve, count, derive, explain
from tests.zoo import build

MODEL, X = build("residual_a")
SPACE = derive(MODEL, X, sparsity=["0.5"])
REPORT = explain(SPACE)


class Pins(nn.Module):
    """cumsum runs over ``a`` and ``c``, so they stay; ``tiny`` is too small; ``b`` is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.tiny, self.head = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cumsum(self.a(x), dim=1)
        x = torch.cumsum(self.c(torch.relu(self.b(x))), dim=1)
        x = self.tiny(x)
        return self.head(x)


def line_of(text: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    return f"test_explain.py:{1 + next(i for i, line in enumerate(lines) if line.strip() == text)}"


PINS = explain(derive(Pins(), torch.zeros(2, 3, 4, 4)))


def test_a_group_holds_what_vanishes_with_it() -> None:
    row = next(r for r in REPORT.groups if r.name == "layer1.0.conv1")
    one = 2 * 64 * 8 * 8 * 9  # two 3x3 convolutions of 8 to 8 channels on 8x8
    assert row.macs == pytest.approx(one / count(MODEL, X).macs)
    layer = MODEL.layer1[0]  # type: ignore[index]
    params = sum(p.numel() for m in (layer.conv1, layer.bn1) for p in m.parameters()) + layer.conv2.weight.numel()  # type: ignore[union-attr]
    assert row.params == pytest.approx(params / count(MODEL, X).params)
    assert (row.exact, row.stream, row.tied, row.layers) == (True, False, (), ("layer1.0.conv1",))
    stem = next(r for r in REPORT.groups if r.name == "stem.0")
    assert stem.stream
    assert "layer1.1.conv2" in stem.layers


def test_all_that_widths_can_reach() -> None:
    assert REPORT.cuttable_macs == 1.0
    total = count(MODEL, X).params
    bias = MODEL.fc.bias.numel()  # type: ignore[union-attr,operator]
    assert REPORT.cuttable_params == pytest.approx(1 - bias / total)  # type: ignore[operator]
    assert REPORT.teacher == count(MODEL, X)
    assert REPORT.smallest == SPACE.cost(SPACE.smallest())


def test_stages_hold_what_goes_with_their_blocks() -> None:
    full = SPACE.largest()
    gone = frozenset(b for s, blocks in SPACE.stages.items() for b in blocks[SPACE.least[s] :])
    student = count(carve(MODEL, SPACE, Candidate(full.widths, gone)), X)
    assert REPORT.removable_macs == pytest.approx(1 - student.macs / REPORT.teacher.macs)
    assert REPORT.removable_params == pytest.approx(1 - student.params / REPORT.teacher.params)
    assert [(s.name, s.blocks, s.least) for s in REPORT.stages] == [
        (s, blocks, SPACE.least[s]) for s, blocks in SPACE.stages.items()
    ]
    assert sum(s.macs for s in REPORT.stages) == pytest.approx(REPORT.removable_macs)


def test_pinned_parts_have_reason_line_and_shares() -> None:
    rows = {r.name: r for r in PINS.fixed}
    assert set(rows) == {"a", "c", "tiny", "head"}
    assert rows["a"].reason == rows["c"].reason
    assert "aten.cumsum.default" in rows["a"].reason
    assert rows["a"].where == line_of("x = torch.cumsum(self.a(x), dim=1)")
    assert rows["c"].where == line_of("x = torch.cumsum(self.c(torch.relu(self.b(x))), dim=1)")
    assert (rows["tiny"].reason, rows["tiny"].where) == ("fewer than 4 units", line_of("x = self.tiny(x)"))
    assert (rows["head"].reason, rows["head"].where) == ("feeds the output", line_of("return self.head(x)"))
    macs = {"a": 3 * 8, "b": 8 * 16, "c": 16 * 8, "tiny": 8 * 3, "head": 3 * 5}
    assert PINS.cuttable_macs == pytest.approx((macs["b"] + macs["c"]) / sum(macs.values()))
    assert rows["a"].macs == pytest.approx((macs["a"] + macs["b"]) / sum(macs.values()))
    assert rows["head"].macs == pytest.approx(macs["head"] / sum(macs.values()))
    assert rows["head"].params == pytest.approx((15 + 5) / count(Pins(), torch.zeros(1, 3, 4, 4)).params)


def test_one_row_a_reason_most_parameters_first() -> None:
    cumsum = next(r for r in PINS.reasons if "cumsum" in r.reason)
    assert PINS.reasons[0] == cumsum
    assert (cumsum.parts, cumsum.units) == (("a", "c"), 16)
    assert cumsum.where == tuple(r.where for r in PINS.fixed if r.name in ("a", "c"))
    macs = {"a": 3 * 8, "b": 8 * 16, "c": 16 * 8, "tiny": 8 * 3, "head": 3 * 5}
    assert cumsum.macs == pytest.approx((sum(macs.values()) - macs["head"]) / sum(macs.values()))  # a union, not a sum
    assert sorted(n for r in PINS.reasons for n in r.parts) == sorted(f.name for f in PINS.fixed)


def test_ties_and_candidates() -> None:
    tied = explain(derive(MODEL, X, tie=[["layer1.0.conv1", "layer1.1.conv1"]], sparsity=["0.5"]))
    assert {r.name: r.tied for r in tied.groups if r.tied} == {
        "layer1.0.conv1": ("layer1.1.conv1",),
        "layer1.1.conv1": ("layer1.0.conv1",),
    }
    row = next(r for r in REPORT.groups if r.name == "layer1.0.conv1")
    assert 10 ** (REPORT.candidates - tied.candidates) == pytest.approx(len(row.choices))


def test_a_model_of_which_nothing_may_be_cut() -> None:
    report = explain(derive(nn.Sequential(nn.Conv2d(3, 5, 1)), torch.zeros(2, 3, 4, 4)))
    assert (report.groups, report.stages, report.candidates) == ((), (), 0.0)
    assert (report.cuttable_macs, report.removable_params) == (0.0, 0.0)
    assert [(f.reason, f.macs, f.params) for f in report.fixed] == [("feeds the output", 1.0, 1.0)]


def test_models_that_only_export_in_eval_mode_say_so() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, momentum=None), nn.Conv2d(8, 5, 1))
    rows = {f.name: f for f in explain(derive(model, torch.zeros(2, 3, 4, 4))).fixed}
    assert (rows["train mode"].units, rows["train mode"].macs, rows["train mode"].where) == (0, 0.0, "")


KEYS = {
    "": {
        "teacher", "smallest", "cuttable_macs", "cuttable_params", "removable_macs", "removable_params", "groups",
        "stages", "sparsities", "fixed", "reasons", "candidates",
    },
    "groups": {"name", "layers", "units", "choices", "macs", "params", "exact", "stream", "tied"},
    "stages": {"name", "blocks", "least", "macs", "params"},
    "fixed": {"name", "units", "reason", "where", "macs", "params"},
    "reasons": {"reason", "parts", "units", "where", "macs", "params"},
}  # fmt: skip


@pytest.mark.parametrize("report", [REPORT, PINS], ids=["residual", "pins"])
def test_the_json_has_the_documented_keys(report: SpaceReport) -> None:
    """Scripts read it: keys may be added here, never renamed."""
    content = json.loads(json.dumps(report.to_json()))
    assert set(content) == KEYS[""]
    for part in ("groups", "stages", "fixed", "reasons"):
        assert all(set(row) == KEYS[part] for row in content[part])
    assert set(content["teacher"]) == {"macs", "params", "bytes", "latency_ms", "memory_bytes"}


@pytest.mark.parametrize(
    ("pin", "expected"),
    [
        ("no rule for aten.x (net.py:12)", Fixed("n", 4, "no rule for aten.x", "net.py:12")),
        ("view to (2, 3) cuts (net.py:12)", Fixed("n", 4, "view to (2, 3) cuts", "net.py:12")),
        ("kept on request", Fixed("n", 4, "kept on request", "layer.py:3")),
        ("cuts (2, 3)", Fixed("n", 4, "cuts (2, 3)", "layer.py:3")),
    ],
)
def test_reason_and_line_apart(pin: str, expected: Fixed) -> None:
    fixed = Fixed.because("n", 4, pin, "layer.py:3")
    assert fixed == expected
    assert str(fixed) == f"n: {expected.reason} ({expected.where})"


def test_explaining_changes_nothing() -> None:
    before = copy.deepcopy(SPACE.to_json())
    explain(SPACE)
    assert SPACE.to_json() == before
    assert explain(SPACE) == REPORT
