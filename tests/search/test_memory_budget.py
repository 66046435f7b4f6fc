"""The budget on activation memory: from what the user writes to proposals that hold no more than they may."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from niwaki.search.budget import Budget, check_reachable
from niwaki.search.config import parse_config
from niwaki.search.context import costing_of
from niwaki.search.costing import Costing, Limits
from niwaki.search.outcome import cost_from_json
from niwaki.search.repair import fit_to
from niwaki.search.units import parse, show
from niwaki.spaces import Cost, InputError, carve, derive
from niwaki.spaces.memory import measured_peak
from tests.search.fake_space import FakeSpace
from tests.search.tiny import SETTINGS

EXAMPLE = torch.zeros(2, 3, 16, 16)


def plateau(layers: int = 6) -> nn.Module:
    """Many convolutions share the peak, three linear layers never have it."""
    convolutions: list[nn.Module] = []
    for i in range(layers):
        convolutions += [nn.Conv2d(16 if i else 3, 16, 3, padding=1), nn.ReLU()]
    head = [nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head).eval()


MODEL = plateau()
SPACE = derive(MODEL, EXAMPLE)
COSTING = Costing(SPACE, memory=True)
TOP = np.array([len(v.choices) - 1 for v in SPACE.variables])
FULL = SPACE.memory(TOP[None])[0]


def test_written_as_sizes_are() -> None:
    teacher = Cost(10, 4, 16, 1.0, memory_bytes=8_000_000)
    for text, expected in (("2MB", 2e6), ("512KiB", 524288.0), (3000, 3000.0), ("25%", 2e6)):
        assert Budget(memory=text).resolve(teacher).values == {"memory": expected}
    assert show("memory", 1_500_000) == "1.5 MB"
    with pytest.raises(InputError, match=r"budget\.memory: '3ms': unknown unit 'ms'.*'2MB'"):
        parse("memory", "3ms")
    with pytest.raises(ValueError, match="no memory"):
        Budget(memory="50%").resolve(Cost(1, 1, 1))


def test_in_a_configuration() -> None:
    settings = {**SETTINGS, "budget": {"memory": "50%"}}
    assert parse_config(settings, "tiny").budget.memory == "50%"
    assert parse_config(SETTINGS, "tiny", ["budget.memory=2MB"]).budget.memory == "2MB"
    with pytest.raises(InputError, match="size, memory must be set"):
        parse_config({**SETTINGS, "budget": {}}, "tiny")


def test_costs_of_older_runs_are_read() -> None:
    old = {"macs": 10, "params": 4, "bytes": 16, "latency_ms": None}
    assert cost_from_json(old).memory_bytes is None
    cost = Cost(10, 4, 16, None, 64)
    assert cost_from_json(json.loads(json.dumps(cost.to_json()))).memory_bytes == 64
    with pytest.raises(ValueError, match="memory_bytes"):
        cost_from_json({**old, "memory_bytes": "64"})


def test_equal_costs_may_know_more_or_less_of_memory() -> None:
    cost = Cost(10, 4, 16, None, 64)
    assert cost == replace(cost, memory_bytes=None)
    assert cost != replace(cost, bytes=17)


def test_costing_tells_memory_only_where_asked() -> None:
    assert "memory" not in Costing(SPACE)(TOP[None])
    assert COSTING(TOP[None])["memory"].tolist() == [float(FULL)]
    assert COSTING.cost(SPACE.largest()).memory_bytes == FULL


def test_a_run_with_a_memory_budget_knows_what_carving_makes() -> None:
    config = parse_config({**SETTINGS, "budget": {"memory": "50%"}}, "tiny")
    space = derive(MODEL, EXAMPLE)
    assert not costing_of(parse_config(SETTINGS, "tiny"), MODEL, space, None).memory
    assert costing_of(config, MODEL, space, None).memory
    assert space.plan.memory["keeps_class"] is True
    object.__setattr__(space, "peaks", None)
    with pytest.raises(InputError, match=r"budget\.memory: .* depends on data"):
        costing_of(config, MODEL, space, None)


def test_unreachable_is_said_with_numbers() -> None:
    limits = Budget(memory="1kB").resolve(COSTING.cost(SPACE.largest()))
    least = show("memory", float(SPACE.memory([SPACE.smallest()])[0]), "kB")
    with pytest.raises(InputError, match=f"memory 1 kB is below the smallest candidate, {least}"):
        check_reachable(limits, COSTING)
    with pytest.raises(ValueError, match="costing with memory"):
        check_reachable(limits, Costing(SPACE))
    check_reachable(Budget(memory="40%").resolve(COSTING.cost(SPACE.largest())), COSTING)


@pytest.mark.parametrize("level", [0.9, 0.7, 0.5, 0.35])
def test_proposals_hold_no_more_than_they_may(level: float) -> None:
    limits, rng = Limits({"memory": FULL * level}, {}), np.random.default_rng(0)
    for start in (TOP, rng.integers(0, TOP + 1)):
        row = fit_to(start, COSTING, limits, 1.0, rng)
        assert row is not None
        student = carve(MODEL, SPACE, SPACE.decode(row.tolist()))
        assert measured_peak(student, EXAMPLE) <= FULL * level


def test_what_has_no_part_in_the_peak_stays() -> None:
    """Steps that relieve nothing are taken on the way down from a plateau, and given back."""
    rng = np.random.default_rng(0)
    linear = [i for i, v in enumerate(SPACE.variables) if len(v.choices) > 1 and int(v.name) > 12]
    assert len(linear) == 3
    for level in (0.9, 0.6, 0.4):
        for _ in range(4):
            row = fit_to(TOP, COSTING, Limits({"memory": FULL * level}, {}), 1.0, rng)
            assert row is not None
            assert (row[linear] == TOP[linear]).all()
            up = row + np.eye(len(row), dtype=np.int64)[np.flatnonzero(row < TOP)]
            assert (SPACE.memory(up) > FULL * level).all()  # nothing more could have been given back


def test_together_with_other_budgets() -> None:
    full = {name: values[0] for name, values in COSTING(TOP[None]).items()}
    limits, rng = Limits({n: 0.5 * full[n] for n in ("memory", "macs", "size")}, {}), np.random.default_rng(1)
    for _ in range(10):
        row = fit_to(rng.integers(0, TOP + 1), COSTING, limits, 1.0, rng)
        assert row is not None
        costs = COSTING(row[None])
        assert all(costs[n][0] <= limit for n, limit in limits.values.items())


def test_a_space_in_which_blocks_may_go() -> None:
    space = FakeSpace()
    costing, rng = Costing(space, memory=True), np.random.default_rng(2)
    top = np.array(space.encode(space.largest()))
    limit = 0.6 * float(space.memory(top[None])[0])
    for _ in range(10):
        row = fit_to(rng.integers(0, top + 1), costing, Limits({"memory": limit}, {}), 1.0, rng)
        assert row is not None
        assert space.memory(row[None])[0] <= limit


def test_command_line_refuses_before_training(tmp_path: Path) -> None:
    from tests.test_cli import QUICK, call

    folder = tmp_path / "run"
    code, _, err = call("search", "quickstart", "--to", folder, *QUICK, "--memory", "100B")
    assert code == 2
    assert "memory 100 B is below the smallest candidate" in err
    assert not folder.exists()
