"""The proofs of ``niwaki check`` over torchvision: small forms of every family always, the whole zoo where asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from niwaki.spaces import Candidate, derive
from niwaki.spaces.check import check
from tests.torchvision_small import SMALL, build

STUCK = {"shufflenet_v2_x1_0": 0.55, "convnext": 0.36, "mvit": 0.4}
"""Streams that a shuffle cuts inside a pair of units stay whole; small networks are mostly stem and few heads."""


@pytest.mark.parametrize("name", list(SMALL))
def test_proofs_hold(name: str) -> None:
    model, x = build(name)
    space = derive(model, x)
    failed = [p for p in check(model, space, seeds=2) if not p.held]
    assert not failed, failed
    half = space.cost(Candidate({g.name: max(1, g.units // 2) for g in space.groups}))
    assert half.macs <= STUCK.get(name, 0.35) * space.cost(space.largest()).macs


@pytest.mark.slow
def test_the_whole_zoo() -> None:
    """The benchmark runs the same proofs over all 109 models, each in a process of its own."""
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "benchmarks/zoo.py"), "--no-peer", "--jobs", "2"]
    subprocess.run(command, check=True, cwd=root)
    rows = json.loads((root / "runs/bench/zoo.json").read_text())["rows"]
    assert len(rows) == 109
    assert {r["model"]: r["proofs"] for r in rows if not r["proofs"].startswith("held")} == {}
