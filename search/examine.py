"""The checks before a run: data, teacher, space, latency model, budgets. Nothing is trained, nothing is written."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from niwaki.distill import Data, build, check, load, load_weights
from niwaki.distill.augment import derived_seed
from niwaki.search.budget import check_reachable
from niwaki.search.calibration import bench_of, latency_model, settle_widths
from niwaki.search.checks import budget_of, proposer_class, target_of
from niwaki.search.config import Config
from niwaki.search.context import (
    IN_HAND,
    InHand,
    RunFolder,
    check_digest,
    costing_of,
    load_teacher,
)
from niwaki.search.events import BudgetsResolved, Listener
from niwaki.search.formats import Facts, MeasuredFile, read_checked
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.reuse import check_findings
from niwaki.search.shared import data_spec
from niwaki.search.subject import Subject, phase
from niwaki.spaces import InputError


def examine(config: Config, folder: RunFolder, in_hand: InHand, listener: Listener) -> Subject:
    """Data, teacher, space, latency model and budgets, checked; nothing is trained and nothing is written.

    What ``folder`` holds already (a run that is continued) is read instead of made.
    """
    with phase("data", listener) as detail:
        data = in_hand.data or _load(config)
        sizes = f"{len(data.train)} training, {len(data.validation)} validation"
        detail.append(f"{data.name}: {sizes}, {data.classes} classes")
    teacher, example = _untrained(config, data, folder, in_hand.model), data.example(2)
    grid = settle_widths(config, folder, teacher, example, listener)
    config, space = grid.config, grid.space
    if folder.facts.is_file():
        check_digest(space, read_checked(folder.facts, Facts)["space"], folder.space)
    if folder.measured.is_file():
        read_checked(folder.measured, MeasuredFile)
    check_findings(config, teacher, space.digest)
    if not space.variables:
        reasons = "; ".join(str(f) for f in space.fixed[:5])
        raise InputError(f"teacher: nothing in {config.teacher.name!r} may be cut ({reasons})")
    target = target_of(config)
    bench = None if target is None else bench_of(config, teacher, space, target, example)
    latency = None if bench is None or target is None else latency_model(config, folder, bench, target, listener)
    costing = costing_of(config, teacher, space, latency)
    cost = space.cost(space.largest())
    cost = cost if latency is None else replace(cost, latency_ms=latency.anchor_ms)
    limits = budget_of(config).resolve(cost)
    check_reachable(limits, costing, config.run.seed)
    listener(BudgetsResolved(cost, dict(limits.values)))
    proposer_class(config)(ProposerSetup(space, costing, limits, config.search.levels))  # its options may be wrong
    return Subject(config, data, teacher, space, costing, cost, limits, bench, grid.staircase)


def _load(config: Config) -> Data:
    if config.data.source == IN_HAND:
        raise InputError("data.source: 'in-hand': the run was started from data in hand, which a folder cannot hold; "
                         "go on with niwaki.resume(folder, model=..., data=...)")
    return load(data_spec(config.data))


def _untrained(config: Config, data: Data, folder: RunFolder, model: nn.Module | None) -> nn.Module:
    if folder.teacher.is_file():
        return load_teacher(config, data.classes, folder, model)
    if model is None and config.teacher.name == IN_HAND:
        raise InputError("teacher.name: 'in-hand': the run began with a model in hand; go on with "
                         "niwaki.resume(folder, model=...)")
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
