"""What a run knows of latency: where its grid and its model come from, and when it refuses to start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from niwaki.distill import build
from niwaki.search import calibration
from niwaki.search.bench import TEACHER, Bench
from niwaki.search.calibration import bench_of, latency_model, settle_widths
from niwaki.search.config import Config
from niwaki.search.context import RunFolder
from niwaki.search.events import Event, ignore
from niwaki.search.staircase import WIDTHS, Staircase
from niwaki.search.targets import MeasurePlan, Timing, parse
from niwaki.spaces import Candidate, InputError, Space, derive
from tests.search.tiny import tiny

EXAMPLE = torch.zeros(2, 1, 8, 8)
STAIRS = Staircase.of({"conv3x3": {c: -(-c // 16) * 16.0 for c in WIDTHS}}, 0.01, {})
TARGET = "torch:threads=1,batch=1,layout=contiguous,dtype=float32"


@pytest.fixture(scope="module")
def teacher() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("small_cnn", 10, {}).eval()


@pytest.fixture(scope="module")
def space(teacher: torch.nn.Module) -> Space:
    return derive(teacher, EXAMPLE)


class Machine:
    """Milliseconds from MACs, exactly or with noise; remembers what it was asked."""

    reason: str | None = "it is a fake"

    def __init__(self, space: Space, noise: float = 0.0) -> None:
        self.space, self.noise, self.asked = space, np.random.default_rng(0).normal, list[Candidate]()
        self.scale = noise

    def time(self, candidates: Sequence[Candidate], plan: MeasurePlan, progress: Any = None) -> Timing:
        self.asked += candidates
        macs = self.space.costs([*candidates, self.space.largest()]).macs
        ms = (0.1 + macs / 1e6) * np.exp(self.noise(0, self.scale, len(macs)))
        names = [*(c.key for c in candidates), TEACHER]
        return Timing(dict(zip(names, ms.tolist(), strict=True)), dict.fromkeys(names, 0.01), warnings=("it is warm",))

    def profile(self, candidates: Sequence[Candidate], runs: int = 20) -> dict[str, dict[str, float]]:
        return {}

    def machine(self) -> dict[str, Any]:
        return {"target": TARGET}

    def close(self) -> None:
        self.closed = True


def config(folder: Path, *more: str) -> Config:
    return tiny(folder, "budget.latency=60%", "budget.macs=null", "budget.size=null", "space.sparsity=[]",
                "latency.target=torch", "space.ratios=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]", *more)


@pytest.mark.parametrize(("budget", "measured"), [("budget.latency=60%", True), ("budget.macs=50%", False)])
def test_the_grid_of_the_target_counts_where_latency_is_budgeted(
    tmp_path: Path, teacher: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, budget: str, measured: bool
) -> None:
    monkeypatch.setattr(calibration, "find_staircase", lambda *_: STAIRS)
    asked = tiny(tmp_path / "a", "space.step=auto", "budget.macs=null", "budget.size=null", budget)
    grid = settle_widths(asked, RunFolder(tmp_path / "a"), teacher, EXAMPLE, ignore)
    widths = {g.units: g.choices for g in grid.space.groups}
    assert grid.staircase == (STAIRS if measured else None)
    assert asked.space.step == "auto"
    if measured:
        assert widths[64] == (16, 32, 48, 64)
        assert widths[32] == (8, 16, 24, 32)
        assert isinstance(grid.config.space.step, dict)
    else:
        assert grid.config.space.step == 1
        assert grid.space.digest == derive(teacher, EXAMPLE, ratios=[0.25, 0.5, 0.75, 1.0], sparsity=["0.5"]).digest


def test_a_step_that_was_given_is_kept(tmp_path: Path, teacher: torch.nn.Module) -> None:
    grid = settle_widths(config(tmp_path, "space.step=8"), RunFolder(tmp_path), teacher, EXAMPLE, ignore)
    assert grid.config.space.step == 8
    assert grid.staircase is None
    assert all(w % 8 == 0 for g in grid.space.groups for w in g.choices)


def test_candidates_at_the_edge_of_the_budget_are_measured_too(tmp_path: Path, space: Space) -> None:
    machine, events = Machine(space), list[Event]()
    asked = config(tmp_path, "latency.samples=12", "latency.near=6")
    model = latency_model(asked, RunFolder(tmp_path), machine, parse("torch"), events.append)
    share = space.costs(machine.asked[12:]).macs / space.cost(space.largest()).macs
    assert 12 < len(machine.asked) <= 18
    assert len(model.samples) == len(machine.asked)
    assert share.max() < 0.7, "60 % of the latency, which is nearly proportional to MACs here"
    texts = [str(e) for e in events]
    assert any("it is a fake" in t for t in texts)
    assert any("it is warm" in t for t in texts)


def test_a_model_that_is_too_far_off_is_refused(tmp_path: Path, space: Space) -> None:
    with pytest.raises(InputError, match=r"predictions on .torch:.* more than latency.max_error = 5%"):
        latency_model(
            config(tmp_path, "latency.max_error=0.05"), RunFolder(tmp_path), Machine(space, 0.5), parse("torch"), ignore
        )
    accepted = config(tmp_path, "latency.max_error=1.0")
    assert latency_model(accepted, RunFolder(tmp_path), Machine(space, 0.5), parse("torch"), ignore).error.median > 0.05


def test_a_model_is_taken_over_from_another_run(tmp_path: Path, space: Space) -> None:
    first = latency_model(config(tmp_path), RunFolder(tmp_path), Machine(space), parse("torch"), ignore)
    other = tmp_path / "other"
    other.mkdir()
    (other / "latency.json").write_text(json.dumps(first.to_json()))
    machine = Machine(space)
    asked = config(tmp_path, f"latency.calibration={other}")
    again = latency_model(asked, RunFolder(tmp_path), machine, parse("torch"), ignore)
    assert machine.asked == []
    matrix = np.array([space.encode(space.smallest())])
    assert again.predict(matrix) == pytest.approx(first.predict(matrix))
    with pytest.raises(InputError, match="was measured on"):
        latency_model(asked, RunFolder(tmp_path), machine, parse("torch:batch=4"), ignore)
    smaller = Machine(derive(build("small_cnn", 10, {}).eval(), EXAMPLE, ratios=[0.5, 1.0]))
    with pytest.raises(InputError, match="belongs to space"):
        latency_model(asked, RunFolder(tmp_path), smaller, parse("torch"), ignore)
    absent = config(tmp_path, f"latency.calibration={tmp_path / 'nowhere'}")
    with pytest.raises(InputError, match="neither a run folder"):
        latency_model(absent, RunFolder(tmp_path), machine, parse("torch"), ignore)


def test_the_staircase_of_another_run_gives_the_same_grid(tmp_path: Path, teacher: torch.nn.Module) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "latency.json").write_text("{}")
    (other / "staircase.json").write_text(json.dumps(STAIRS.to_json()))
    asked = config(tmp_path, "space.step=auto", f"latency.calibration={other}")
    grid = settle_widths(asked, RunFolder(tmp_path), teacher, EXAMPLE, ignore)
    assert grid.staircase is not None
    assert grid.staircase.steps == STAIRS.steps


def test_the_bench_stands_here_unless_asked_otherwise(tmp_path: Path, teacher: torch.nn.Module, space: Space) -> None:
    assert isinstance(bench_of(config(tmp_path), teacher, space, parse("torch"), EXAMPLE), Bench)
