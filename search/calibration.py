"""What a run knows of latency: the grid of widths, the bench, and a latency model that may be relied on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from niwaki.search.bench import Measures
from niwaki.search.checks import budget_of, target_of
from niwaki.search.config import Config
from niwaki.search.context import RunFolder, read_latency, space_options
from niwaki.search.costing import Costing
from niwaki.search.events import Listener, Notice, PhaseProgress
from niwaki.search.files import read_json, reading
from niwaki.search.latency import CalibrationPlan, calibrate, extend
from niwaki.search.repair import fit_to
from niwaki.search.staircase import SMALL, Benches, Staircase, find_staircase, kinds_of, on, shapeless, stepped
from niwaki.search.subject import phase
from niwaki.search.targets import MeasurePlan, Target, parse, spec_of
from niwaki.spaces import Candidate, InputError, Space, SpaceOptions, derive
from niwaki.spaces.latency import LatencyModel

AUTO = "auto"


@dataclass(frozen=True, eq=False)
class Grid:
    """The configuration with its widths settled, the space they give, and the staircase they come from."""

    config: Config
    space: Space
    staircase: Staircase | None = None


def settle_widths(config: Config, folder: RunFolder, teacher: nn.Module, example: Tensor, listener: Listener) -> Grid:
    """``space.step: auto`` becomes the target's own grid where latency is budgeted, 1 where it is not.

    The staircase is measured in seconds on small networks, or read where a run (this one, or the one that
    ``latency.calibration`` names) knows it.
    """
    with phase("space", listener) as detail:
        space = derive(teacher, example, space_options(config))
        target, found = target_of(config), None
        if config.space.step == AUTO and config.budget.latency is not None and target is not None:
            known = _known_staircase(config, folder)
            found = known or find_staircase(_benches(config, shapeless(target), SMALL), target.batch, kinds_of(space))
            options = stepped(space_options(config), space, found)
            space = derive(teacher, example, options)
            steps = ", ".join(f"{kind} {step}" for kind, step in found.steps.items())
            detail.append(f"widths on the target's grid ({steps}; less in narrow groups)")
            config = _with_step(config, options.step)
        elif config.space.step == AUTO:
            config = _with_step(config, 1)
        sizes = f"{len(space.groups)} groups, {len(space.blocks)} removable blocks"
        detail.insert(0, f"{sizes}, {len(space.variables)} choices")
    return Grid(config, space, found)


def bench_of(config: Config, teacher: nn.Module, space: Space, target: Target, example: Tensor) -> Measures:
    """Here, or on the node of the cluster that the configuration asks for; InputError where there is none."""
    return _benches(config, target, space_options(config))(teacher, space, example)


def _benches(config: Config, target: Target, options: SpaceOptions) -> Benches:
    if config.latency.where == "here":
        return on(target)
    from niwaki.search.bench_ray import RayBench

    return lambda teacher, space, example: RayBench(teacher, space, target, example, options)


def latency_model(
    config: Config, folder: RunFolder, bench: Measures, target: Target, listener: Listener
) -> LatencyModel:
    """The run's own model, one taken over from another run, or one calibrated now.

    Raises:
        InputError: the one to take over is of another space or target; or predictions are too far off to be used.
    """
    if (known := read_latency(folder, bench.space)) is not None:
        return known
    if config.latency.calibration is not None:
        return _taken_over(Path(config.latency.calibration), bench.space, target)
    latency = config.latency
    plan = CalibrationPlan(latency.samples, MeasurePlan(latency.rounds, latency.seconds), config.run.seed)
    with phase("latency", listener) as detail:
        model = calibrate(bench, plan, lambda done, total: listener(PhaseProgress("latency", done, total)))
        model = extend(model, bench, _at_the_edge(config, bench.space, model), plan)
        detail.append(f"teacher {model.anchor_ms:.3g} ms, predictions within {model.error.median:.1%} (median)")
        if bench.reason:
            listener(Notice(f"every model was exported anew to be measured: {bench.reason}"))
    bench.close()
    for warning in model.source.get("warnings", ()):
        listener(Notice(f"latency: {warning}"))
    if model.error.median > latency.max_error:
        raise InputError(
            f"latency: predictions on {spec_of(target)!r} are {model.error.median:.1%} off (median, cross-validated on "
            f"{model.error.samples} candidates), more than latency.max_error = {latency.max_error:.0%}; measure on a "
            "quieter machine, for longer (latency.seconds), more candidates (latency.samples), or accept more"
        )
    return model


def _at_the_edge(config: Config, space: Space, model: LatencyModel) -> list[Candidate]:
    """Random candidates at the budget and its levels, as predicted so far."""
    costing, rng = Costing(space, model, config.budget.memory is not None), np.random.default_rng(config.run.seed)
    limits = budget_of(config).resolve(replace(space.cost(space.largest()), latency_ms=model.anchor_ms))
    sizes = [len(v.choices) for v in space.variables]
    found: dict[str, Candidate] = {}
    for number in range(config.latency.near):
        level = config.search.levels[number % len(config.search.levels)]
        point = fit_to(rng.integers(0, sizes), costing, limits, level, rng)
        if point is not None:
            candidate = space.canonical(space.decode(point.tolist()))
            found.setdefault(candidate.key, candidate)
    return list(found.values())


def _taken_over(path: Path, space: Space, target: Target) -> LatencyModel:
    file = _file(path, "latency.json")
    try:
        with reading(file):
            model = LatencyModel.from_json(read_json(file), space)
    except InputError as error:
        raise InputError(f"latency.calibration: {error}") from error
    measured = str(model.source.get("target"))
    if parse(measured) != target:
        asked = spec_of(target)
        raise InputError(f"latency.calibration: {file} was measured on {measured!r}, this run asks for {asked!r}")
    return model


def _known_staircase(config: Config, folder: RunFolder) -> Staircase | None:
    files = [folder.staircase]
    if config.latency.calibration is not None:
        files.append(_file(Path(config.latency.calibration), "latency.json").with_name("staircase.json"))
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return None
    with reading(found):
        return Staircase.from_json(read_json(found))


def _file(path: Path, name: str) -> Path:
    """``path`` itself, or the file of that name in the folder that it is."""
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"latency.calibration: {str(path)!r} is neither a run folder with a {name} nor such a file")
    return file


def _with_step(config: Config, step: object) -> Config:
    return config.model_copy(update={"space": config.space.model_copy(update={"step": step})})
