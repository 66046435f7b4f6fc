"""Claim: accuracy at 70, 50 and 30 % of the MACs of a pretrained CIFAR-10 ResNet-20, beside its baselines.

Needs the data and the teacher: ``NIWAKI_DATA`` names a folder with ``cifar10.npz`` (``x_train``, ``y_train``,
``x_test``, ``y_test``) and ``resnet20.safetensors`` (or ``.pt``, ``.th``). One search with
``configs/cifar10_resnet20.yaml`` gives the front, with uniform widths as a baseline in the same run; then Torch-Pruning
cuts the same teacher, and its students are trained with the same recipe, answers and number of images. Test accuracies
are means over seeds; nothing is chosen by them.

    NIWAKI_DATA=folder python benchmarks/cifar10.py [--run FOLDER] [--peer-seeds 3]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from _bench import OUT, report
from torch import nn

from niwaki.distill import Answers, Data, FitRun, Recipe, accuracy, answers, fit
from niwaki.distill import load as load_data
from niwaki.distill.augment import derived_seed
from niwaki.search.compress import load, resume
from niwaki.search.config import load_config
from niwaki.search.context import load_teacher, recipe_of
from niwaki.search.controller import search
from niwaki.search.result import Member, Result
from niwaki.search.shared import data_spec
from niwaki.spaces import count

LEVELS = (0.7, 0.5, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", type=Path, help="a finished run of configs/cifar10_resnet20.yaml, instead of a new one"
    )
    parser.add_argument("--peer-seeds", type=int, default=3)
    options = parser.parse_args()
    if options.run is None and "NIWAKI_DATA" not in os.environ:
        print("cifar10: skipped; set NIWAKI_DATA to a folder with cifar10.npz and resnet20.safetensors")
        return
    result = load(options.run) if options.run else searched(Path(os.environ["NIWAKI_DATA"]))
    rows = [row("Niwaki", result, m) for m in result.front]
    rows += [row(m.name.rsplit("-", 1)[0], result, m) for m in result.baselines]
    if options.peer_seeds:
        lesson = Lesson.of(result)
        rows += [peer_row(result, lesson, level, options.peer_seeds) for level in LEVELS]
    rows.sort(key=lambda r: (-round(r["MACs %"] / 10), r["method"]))
    note = (
        f"teacher {100 * result.content['teacher']['test_accuracy']:.2f} %, "
        f"{result.teacher_cost.macs / 1e6:.2f} M MACs; "
        f"at most {result.config.train.final_images:,} training images per final model"
    )
    report("cifar10", "CIFAR-10, ResNet-20 (option A), test accuracy in %", rows, note)
    plot(rows, result)


def searched(folder: Path) -> Result:
    """The run under runs/bench: read where it is finished, resumed where it is not, begun where there is none."""
    run = OUT / "cifar10_resnet20"
    if (run / "front.json").is_file():
        return load(run)
    if (run / "config.yaml").is_file():
        return resume(run)
    weights = next(p for s in ("safetensors", "pt", "th") for p in folder.glob(f"resnet20*.{s}"))
    overrides = [
        "data.source=npz", f"data.path={folder / 'cifar10.npz'}", f"teacher.weights={weights}",
        "search.baselines=[uniform]", f"run.folder={run}",
    ]  # fmt: skip
    return search(load_config("cifar10_resnet20", overrides))


@dataclass(frozen=True)
class Lesson:
    """What a student of the run is trained with."""

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


def row(method: str, result: Result, member: Member) -> dict[str, Any]:
    return {
        "method": method,
        "MACs %": 100 * member.cost.macs / result.teacher_cost.macs,
        "test mean": 100 * member.metrics["test_mean"],
        "std": 100 * member.metrics["test_std"] if "test_std" in member.metrics else None,
        "seeds": len(member.entry.trials),
    }


def peer_row(result: Result, lesson: Lesson, level: float, seeds: int) -> dict[str, Any]:
    """Torch-Pruning's students, each trained as ours are: same recipe, same answers, same images."""
    found = []
    for seed in range(seeds):
        student = peer(lesson, level)
        fit(student, lesson.data, lesson.recipe, FitRun(answers=lesson.answers, seed=seed))
        found.append(accuracy(student, lesson.data, "test"))
    return {
        "method": "Torch-Pruning",
        "MACs %": 100 * count(peer(lesson, level), lesson.data.example(2)).macs / result.teacher_cost.macs,
        "test mean": 100 * statistics.mean(found),
        "std": 100 * statistics.stdev(found) if seeds > 1 else None,
        "seeds": seeds,
    }


def peer(lesson: Lesson, level: float) -> nn.Module:
    """Global L2 over inner widths (it crashes on option-A shortcuts when the residual stream is cut)."""
    model, example = copy.deepcopy(lesson.teacher), lesson.data.example(2)
    full = count(model, example).macs
    stream = [m for n, m in model.named_modules() if n == "conv1" or n.endswith(".conv2") or isinstance(m, nn.Linear)]
    pruner = tp.pruner.BasePruner(
        model, example[:1], importance=tp.importance.GroupMagnitudeImportance(p=2), global_pruning=True,
        pruning_ratio=0.95, iterative_steps=300, ignored_layers=stream,
    )  # fmt: skip
    while count(model, example).macs > level * full:
        pruner.step()
    return model


def plot(rows: list[dict[str, Any]], result: Result) -> None:
    """``cifar10.png`` beside the JSON file: accuracy against MACs with error bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=110)
    for method, style in (("Niwaki", "o-"), ("Torch-Pruning", "s--"), ("uniform", "^:"), ("random", "v:")):
        mine = sorted((r for r in rows if r["method"] == method), key=lambda r: r["MACs %"])
        if mine:
            axes.errorbar(
                [r["MACs %"] for r in mine], [r["test mean"] for r in mine],
                [r["std"] or 0 for r in mine], fmt=style, capsize=3, label=method,
            )  # fmt: skip
    axes.axhline(100 * result.content["teacher"]["test_accuracy"], color="gray", lw=0.8, label="teacher")
    axes.set(xlabel="MACs, % of the teacher's 40.6 M", ylabel="test accuracy, %", title="CIFAR-10, ResNet-20")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / "cifar10.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
