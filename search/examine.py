"""The checks before a run: data, teacher, space, latency model, budgets. Nothing is trained, nothing is written."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from niwaki.distill import Data, build, check, load, load_weights
from niwaki.distill.augment import derived_seed
from niwaki.search.budget import check_reachable
from niwaki.search.checks import budget_of, target_of
from niwaki.search.config import Config
from niwaki.search.context import (
    IN_HAND,
    InHand,
    RunFolder,
    check_digest,
    load_teacher,
    read_latency,
    space_options,
)
from niwaki.search.costing import Costing
from niwaki.search.events import BudgetsResolved, Listener, PhaseProgress
from niwaki.search.files import read_json
from niwaki.search.latency import CalibrationPlan, calibrate
from niwaki.search.shared import data_spec
from niwaki.search.subject import Subject, phase
from niwaki.search.targets import MeasurePlan, Target
from niwaki.spaces import InputError, Space, carve, derive
from niwaki.spaces.latency import LatencyModel


def examine(config: Config, folder: RunFolder, in_hand: InHand, listener: Listener) -> Subject:
    """Data, teacher, space, latency model and budgets, checked; nothing is trained and nothing is written.

    What ``folder`` holds already (a run that is continued) is read instead of made.
    """
    with phase("data", listener) as detail:
        data = in_hand.data or _load(config)
        sizes = f"{len(data.train)} training, {len(data.validation)} validation"
        detail.append(f"{data.name}: {sizes}, {data.classes} classes")
    with phase("space", listener) as detail:
        teacher = _untrained(config, data, folder, in_hand.model)
        space = derive(teacher, data.example(2), space_options(config))
        if folder.facts.is_file():
            check_digest(space, read_json(folder.facts)["space"], folder.space)
        if not space.variables:
            reasons = "; ".join(str(f) for f in space.fixed[:5])
            raise InputError(f"teacher: nothing in {config.teacher.name!r} may be cut ({reasons})")
        sizes = f"{len(space.groups)} groups, {len(space.blocks)} removable blocks"
        detail.append(f"{sizes}, {len(space.variables)} choices")
    target = target_of(config)
    latency = _latency(config, folder, target, (teacher, space, data.example(2)), listener)
    costing = Costing(space, latency)
    cost = space.cost(space.largest())
    cost = cost if latency is None else replace(cost, latency_ms=latency.anchor_ms)
    limits = budget_of(config).resolve(cost)
    check_reachable(limits, costing, config.run.seed)
    listener(BudgetsResolved(cost, dict(limits.values)))
    return Subject(config, data, teacher, space, costing, cost, limits, target)


def _load(config: Config) -> Data:
    if config.data.source == IN_HAND:
        raise InputError("data: the run was started from data in hand, which a folder cannot hold; go on with "
                         "niwaki.resume(folder, model=..., data=...)")
    return load(data_spec(config.data))


def _untrained(config: Config, data: Data, folder: RunFolder, model: nn.Module | None) -> nn.Module:
    if folder.teacher.is_file():
        return load_teacher(config, data.classes, folder, model)
    if model is None and config.teacher.name == IN_HAND:
        raise InputError("teacher: the run began with a model in hand; go on with niwaki.resume(folder, model=...)")
    if model is not None:
        teacher = copy.deepcopy(model)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(config.run.seed, "teacher"))
            teacher = build(config.teacher.name, data.classes, config.teacher.options)
    if config.teacher.weights is not None:
        load_weights(teacher, config.teacher.weights)
    teacher.cpu().eval()
    check(teacher, data)
    return teacher


def _latency(
    config: Config, folder: RunFolder, target: Target | None, parts: tuple[nn.Module, Space, Tensor], listener: Listener
) -> LatencyModel | None:
    teacher, space, example = parts
    if target is None:
        return None
    if (known := read_latency(folder, space)) is not None:
        return known
    plan = CalibrationPlan(
        config.latency.samples, MeasurePlan(config.latency.rounds, config.latency.seconds), config.run.seed, teacher
    )
    with phase("latency", listener) as detail:
        model = calibrate(space, lambda c: carve(teacher, space, c), target, example, plan,
                          lambda done, total: listener(PhaseProgress("latency", done, total)))
        detail.append(f"teacher {model.anchor_ms:.3g} ms, predictions within {model.error.median:.1%} (median)")
    return model
