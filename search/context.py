"""What a worker knows: read from the run folder once, then used for every job it does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from niwaki.distill import Answers, Data, Recipe, build
from niwaki.pruning import Refitter
from niwaki.search.config import Config, load_config
from niwaki.search.costing import Costing, LatencyPredictor
from niwaki.search.files import read_json, read_tensors
from niwaki.search.formats import Facts, read_checked
from niwaki.search.shared import open_data
from niwaki.search.store import RunStore
from niwaki.search.supernet import FILE, supernet_weights
from niwaki.spaces import InputError, Space, SpaceOptions, derive
from niwaki.spaces.latency import LatencyModel
from niwaki.spaces.memory import settle

IN_HAND = "in-hand"
"""``teacher.name`` or ``data.source`` of a run whose model or data were Python objects."""


@dataclass(frozen=True)
class RunFolder:
    """Where things are in a run folder."""

    path: Path

    @property
    def store(self) -> RunStore:
        return RunStore(self.path)

    @property
    def teacher(self) -> Path:
        return self.path / "teacher.safetensors"

    @property
    def space(self) -> Path:
        return self.path / "space.json"

    @property
    def latency(self) -> Path:
        return self.path / "latency.json"

    @property
    def staircase(self) -> Path:
        """Where latency jumps with width on the run's target; absent where nobody asked."""
        return self.path / "staircase.json"

    @property
    def scores(self) -> Path:
        return self.path / "scores.safetensors"

    @property
    def sensitivity(self) -> Path:
        """Harm of every single cut; absent where no start of the search needs it."""
        return self.path / "sensitivity.json"

    @property
    def supernet(self) -> Path:
        """Weights that all students inherit; absent where the proposer needs none."""
        return self.path / FILE

    @property
    def facts(self) -> Path:
        """What the driver found out before the search and workers need: precision, layout, classes."""
        return self.path / "facts.json"

    @property
    def front(self) -> Path:
        return self.path / "front.json"

    @property
    def measured(self) -> Path:
        """Latencies of finalists, measured interleaved with the teacher: candidate key -> ms."""
        return self.path / "measured.json"

    @property
    def example(self) -> Path:
        """A few normalised validation images, on which exports are compared with their originals."""
        return self.path / "example.safetensors"

    @property
    def shared(self) -> Path:
        """Arrays for the workers; made again on resume, removed when a run ends."""
        return self.path / ".shared"

    @property
    def answers(self) -> Path:
        return self.shared / "answers.safetensors"


@dataclass(frozen=True, eq=False)
class InHand:
    """Objects that a caller of the Python API brought along instead of names in a configuration."""

    model: nn.Module | None = None
    data: Data | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """Everything the jobs of a run share; nothing in it is changed by a job.

    Attributes:
        folder: of the run.
        teacher: on the worker's device, in eval mode.
        example: two normalised training images, on the CPU.
        costing: exact costs, and predicted latency where the run has a latency model.
        recipe: precision and layout settled; ``images`` is replaced by each job's own.
        answers: of the teacher; None where the loss needs none.
        scores: group -> (units,), larger = keep.
        threads: torch threads of a job.
        config: of the run.
    """

    folder: RunFolder
    teacher: nn.Module
    space: Space
    example: Tensor
    data: Data
    costing: Costing
    recipe: Recipe
    answers: Answers | None
    scores: Mapping[str, Tensor]
    threads: int
    config: Config

    @cached_property
    def source(self) -> nn.Module:
        """What students are carved from: the teacher, or a copy with the weights of the run's supernet."""
        if (weights := supernet_weights(self.folder.path)) is None:
            return self.teacher
        source = copy.deepcopy(self.teacher)
        source.load_state_dict(weights)
        return source

    @cached_property
    def refitter(self) -> Refitter | None:
        """Refits students on the same un-augmented training images for every job; None where the run does not."""
        if not self.config.criterion.refit:
            return None
        train, count = self.data.train, self.config.criterion.refit
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
        images = self.data.normalise(train.batch(rows)[0]).to(next(self.teacher.parameters()).device)
        return Refitter(self.source, images)


def open_context(path: Path, in_hand: InHand | None = None) -> Context:
    """Read a run folder that :mod:`niwaki.search.equip` has filled; InputError where something is missing."""
    folder, in_hand = RunFolder(Path(path)), in_hand or InHand()
    config = load_config(folder.store.config)
    torch.set_num_threads(config.run.cpus_per_trial)
    data = in_hand.data or open_data(folder.shared, config.data)
    teacher = load_teacher(config, data.classes, folder, in_hand.model)
    example = data.example(2)
    space = derive(teacher, example, space_options(config))
    facts = read_checked(folder.facts, Facts)
    check_digest(space, facts["space"], folder.space)
    teacher.to(trial_device(config)).eval()
    recipe = replace(recipe_of(config), precision=facts["precision"], layout=facts["layout"])
    return Context(
        folder, teacher, space, example, data,
        costing_of(config, teacher, space, read_latency(folder, space)), recipe,
        Answers.load(folder.answers) if recipe.build_loss().needs_teacher else None,
        read_tensors(folder.scores), config.run.cpus_per_trial, config,
    )


def load_teacher(config: Config, classes: int, folder: RunFolder, model: nn.Module | None) -> nn.Module:
    """The teacher of a run: built (or copied from the one in hand), with the weights that the run folder holds."""
    if model is None and config.teacher.name == IN_HAND:
        raise InputError(
            f"{folder.path}: the run was started from a model in hand, which a folder cannot hold; pass it: "
            "niwaki.load(folder, model=...)"
        )
    teacher = copy.deepcopy(model) if model is not None else build(config.teacher.name, classes, config.teacher.options)
    state = read_tensors(folder.teacher)
    own = teacher.state_dict()
    wrong = [k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape]
    if wrong:
        raise InputError(f"{folder.teacher}: does not fit this model: {sorted(wrong)[0]!r} differs")
    teacher.load_state_dict(state)
    return teacher.requires_grad_(True).cpu().eval()  # students of a frozen teacher must train


def check_digest(space: Space, expected: Any, where: Path) -> None:
    """The space must be the one the run began with, or its candidates would mean other models."""
    if space.digest != expected:
        raise InputError(
            f"{where}: the model gives another space now ({space.digest}, the run began with {expected}): its code, "
            "the options or a library have changed"
        )


def read_latency(folder: RunFolder, space: Space) -> LatencyModel | None:
    """The latency model of the run; None where it has none."""
    return LatencyModel.from_json(read_json(folder.latency), space) if folder.latency.is_file() else None


def costing_of(config: Config, teacher: nn.Module, space: Space, latency: LatencyPredictor | None) -> Costing:
    """The costs that a run looks at; memory is exact for what carving makes where there is a budget for it."""
    if config.budget.memory is None:
        return Costing(space, latency)
    if space.peaks is None:
        raise InputError(f"budget.memory: what {config.teacher.name!r} holds in memory depends on data")
    settle(teacher, space)
    return Costing(space, latency, memory=True)


def space_options(config: Config) -> SpaceOptions:
    try:
        options = config.space.model_dump()
        return SpaceOptions(**options | {"step": 1 if options["step"] == "auto" else options["step"]})
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"space: {error}") from error


def recipe_of(config: Config) -> Recipe:
    """The recipe of all trainings; ``images`` is that of a final model."""
    train = config.train.model_dump(exclude={"rungs", "final_images"})
    return Recipe(images=config.train.final_images, **train)


def teaching_of(config: Config) -> Recipe:
    """The recipe of the teacher's own training: labels only, on the run's augmentation unless it has one of its own."""
    plan = config.teacher.train.model_dump()
    plan["augment"] = plan["augment"] or config.train.augment
    return Recipe(loss="cross_entropy", precision=config.train.precision, layout=config.train.layout, **plan)


def trial_device(config: Config) -> torch.device:
    """Where trials run: a trial that was given no GPU leaves GPUs alone, unless ``device: cuda`` says otherwise."""
    alone = config.run.device == "auto" and config.run.gpus_per_trial == 0
    return torch.device("cpu") if alone else device_of(config.run.device)


def device_of(name: str) -> torch.device:
    """``auto``: the GPU where this process sees one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("run.device: 'cuda' was asked for, but torch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device(name)
