"""What the benchmarks on CIFAR-10 share: the data, runs kept under runs/bench, and trainings outside of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from _bench import OUT
from torch import nn

from niwaki.distill import Answers, Data, FitRun, Recipe, accuracy, answers, fit
from niwaki.distill import load as load_data
from niwaki.distill.augment import derived_seed
from niwaki.search.compress import load, resume
from niwaki.search.config import load_config
from niwaki.search.context import load_teacher, recipe_of
from niwaki.search.controller import search
from niwaki.search.result import Result
from niwaki.search.shared import data_spec


def data_folder(name: str) -> Path | None:
    """The folder that ``NIWAKI_DATA`` names; None, with a word about it, where it names none."""
    if "NIWAKI_DATA" in os.environ:
        return Path(os.environ["NIWAKI_DATA"])
    print(f"{name}: skipped; set NIWAKI_DATA to a folder with cifar10.npz and resnet20.safetensors (or .pt, .th)")
    return None


def searched(folder: Path, name: str, overrides: Sequence[str]) -> Result:
    """``configs/cifar10_resnet20.yaml`` with the data and the teacher in ``folder``, as a run under runs/bench.

    Read where it is finished, resumed where it is not, begun where there is none.
    """
    run = OUT / name
    if (run / "front.json").is_file():
        return load(run)
    if (run / "config.yaml").is_file():
        return resume(run)
    weights = [p for s in ("safetensors", "pt", "th") for p in folder.glob(f"resnet20*.{s}")]
    if not weights and "teacher.weights=null" not in overrides:
        raise SystemExit(f"{folder}: no resnet20.safetensors, .pt or .th")
    given = ["data.source=npz", f"data.path={folder / 'cifar10.npz'}", *(f"teacher.weights={w}" for w in weights[:1])]
    return search(load_config("cifar10_resnet20", [*given, f"run.folder={run}", *overrides]))


@dataclass(frozen=True)
class Lesson:
    """What a student of a run is trained with, for students that no run has: same recipe, same answers."""

    teacher: nn.Module
    data: Data
    recipe: Recipe
    answers: Answers

    @classmethod
    def of(cls, result: Result) -> Lesson:
        config, facts = result.config, result.facts
        data = load_data(data_spec(config.data))
        teacher = load_teacher(config, data.classes, result.folder, None)
        recipe = replace(recipe_of(config), precision=facts["precision"], layout=facts["layout"])
        return cls(teacher, data, recipe, answers(teacher, data, recipe, derived_seed(config.run.seed, "views")))

    def teach(self, student: nn.Module, seed: int, images: int | None = None) -> float:
        """Train a student, on as many images as the recipe says unless told; its test accuracy."""
        recipe = self.recipe if images is None else self.recipe.scaled(images)
        fit(student, self.data, recipe, FitRun(answers=self.answers, seed=seed))
        return accuracy(student, self.data, "test")
