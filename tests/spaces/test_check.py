"""The proofs hold for right rules, and each of them fails where what it is about is broken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, Cost, Space, derive
from niwaki.spaces import check as module
from niwaki.spaces.check import PROOFS, check, draw
from tests.zoo import build


def test_all_hold_on_a_network_with_everything() -> None:
    model, x = build("residual_a")
    proofs = check(model, derive(model, x), seeds=2)
    assert [p.name for p in proofs] == [*PROOFS, "untouched"]
    assert all(p.held for p in proofs), proofs
    assert next(p for p in proofs if p.name == "cost").detail.endswith("parameters")


class Doubled(nn.Module):
    """Stands in for a student that is wrong everywhere."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 2:
            raise RuntimeError("only two")
        return self.student(x) * (float("nan") if self.training else 2)


def test_a_wrong_student_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("chain")
    space = derive(model, x)
    real = module.carve

    def wrong(*args: Any) -> nn.Module:
        return Doubled(real(*args))

    monkeypatch.setattr(module, "carve", wrong)
    found = {p.name: p for p in check(model, space)}
    failed = {name for name, proof in found.items() if not proof.held}
    assert failed == {"largest", "masked", "batch", "backward", "cost", "state"}
    assert "relative, allowed 1e-09" in found["masked"].detail
    assert "not finite" in found["backward"].detail
    assert "only two" in found["batch"].detail


def test_a_wrong_cost_and_a_changed_teacher_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("chain")
    space = derive(model, x)

    def wrong(student: nn.Module, *_: Any) -> Cost:
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return Cost(1, 2, 3)

    monkeypatch.setattr(module, "count", wrong)
    found = {p.name: p for p in check(copy.deepcopy(model), space)}
    assert not found["cost"].held
    assert "counted Cost(macs=1" in found["cost"].detail
    assert found["untouched"].held
    assert not {p.name: p for p in check(model, space)}["untouched"].held


def test_what_cannot_be_carved_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("chain")

    def refuses(*_: Any) -> nn.Module:
        raise RuntimeError("no\nreally")

    monkeypatch.setattr(module, "carve", refuses)
    (only,) = check(model, derive(model, x))
    assert (only.name, only.held, only.detail) == ("carve", False, "RuntimeError: no")


def test_draw_covers_widths_and_respects_ties() -> None:
    model, x = build("residual_b")
    space: Space = derive(model, x, tie=["layer1.*.conv1"])
    seen: list[Candidate] = [draw(space, torch.Generator().manual_seed(s))[0] for s in range(40)]
    assert all(len({c.widths[f"layer1.{k}.conv1"] for k in range(3)}) == 1 for c in seen)
    assert {c.widths["layer1.0.conv1"] for c in seen} == set(range(1, 9))
    assert {len(c.skipped) for c in seen} >= {0, 1, 2}
