"""Claim: for the same number of training images, searches find better models than uniform widths and random draws.

A pretrained CIFAR-10 ResNet-20, budgets of 70, 50 and 30 % of its MACs. Every method trains on as many images in all,
those of a supernet or of an architecture search included: what a method learns from, its three finals do without.
Candidates are judged on validation images before any training, after a refit, except where they inherit a supernet.
``random`` draws without starts; the others begin with uniform widths, a knapsack over measured harm and global
magnitude, as Niwaki does by default. Uniform widths keep residual streams whole where the budget allows; they and what
Torch-Pruning makes of the teacher (global L2 over inner widths) are trained for a third of the images each, with the
same recipe and answers. Test accuracies; nothing is chosen by them. Then the supernet's run answers for one more
budget, of 40 %.

    NIWAKI_DATA=folder python benchmarks/search_quality.py [--images 180000] [--seeds 3] [--methods uniform,random,...]
"""

from __future__ import annotations

import argparse
import copy
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from _bench import OUT, report
from _runs import Lesson, data_folder, searched
from torch import nn

from niwaki.pruning import Chosen, Refitter, select
from niwaki.search.files import read_json, read_tensors, write_json_atomic
from niwaki.search.pareto import hypervolume
from niwaki.search.result import Result
from niwaki.spaces import Candidate, Space, carve, count

LEVELS = {1.0: 70, 0.714: 50, 0.428: 30}
"""Level of the budget -> percent of the teacher's MACs."""
LEARN = {"tas": 1 / 4, "supernet": 1 / 4}
"""Share of the images that a proposer learns from, each counted as often as a candidate sees it."""
OUTSIDE = ("uniform", "torch-pruning")
METHODS = ("random", *OUTSIDE, "tpe", "tas", "supernet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=180_000, help="training images of each search in all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more for the configuration")
    options = parser.parse_args()
    if (folder := data_folder("search_quality")) is None:
        return
    methods = options.methods.split(",")
    found = {m: [measured(folder, m, seed, options) for seed in range(options.seeds)] for m in methods}
    rows = [row(method, figures) for method, figures in found.items()]
    note = f"{options.images:,} training images each, {options.seeds} seeds; the teacher has 91.73 %"
    if "supernet" in methods:
        note += "\n" + second_budget(folder)
    plot(found)
    report("search_quality", "CIFAR-10, ResNet-20: test accuracy in % at shares of the MACs", rows, note)


def measured(folder: Path, method: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Test accuracy at each level (by percent), shares of the MACs and images of one method and seed; kept."""
    kept = OUT / "search_quality" / f"{method}-{seed}.json"
    if kept.is_file():
        return dict(read_json(kept))
    if method in OUTSIDE:
        found = outside(run(folder, "random", 0, options), method, seed, options.images // len(LEVELS))
    else:
        found = of_run(run(folder, method, seed, options))
    points = [[found[f"MACs {p}"] / 70, 1 - (found[f"{p} %"] - 10) / 90] for p in LEVELS.values() if f"{p} %" in found]
    volume = hypervolume(np.array(points), np.ones(2))
    write_json_atomic(kept, {**found, "hypervolume": volume})
    return dict(read_json(kept))


def run(folder: Path, method: str, seed: int, options: argparse.Namespace) -> Result:
    """A search with the proposer that the method is called after."""
    learned = LEARN.get(method, 0) * options.images
    final = round((options.images - learned) / len(LEVELS))
    overrides = [
        f"search.proposer={method}", f"run.seed={seed}", f"train.final_images={final}", "train.rungs=[0]",
        "search.trials=60", "search.repeats=1", "search.baselines=[]", "export.formats=[]",
    ]  # fmt: skip
    if method == "random":
        overrides += ["search.starts=[]"]
    if method == "tas":
        overrides += [f"search.options={{images: {round(learned)}}}"]
    if method == "supernet":  # the largest, the smallest and one between them see each image
        overrides += [f"search.options={{images: {round(learned / 3)}, middles: 1}}"]
    return searched(folder, f"search_quality/{method}-{seed}", [*overrides, *options.set])


def of_run(result: Result) -> dict[str, float]:
    """Of the final model at each level; one that another dominates is not on the front, and was not tested."""
    levels = {o.key: o.job.level for o in result.outcomes()}
    found = {}
    for member in result.front:
        percent = LEVELS[levels[member.entry.trials[0]]]
        found[f"{percent} %"] = 100 * member.metrics["test_mean"]
        found[f"MACs {percent}"] = 100 * member.cost.macs / result.teacher_cost.macs
    found["images"] = float(sum(o.job.images for o in result.outcomes()))
    return found


def outside(result: Result, method: str, seed: int, images: int) -> dict[str, float]:
    """What no search chose, at each level: trained with the recipe and the answers of ``result``."""
    lesson, space = Lesson.of(result), result.models.space
    full, found = space.cost(space.largest()).macs, {}
    for percent in LEVELS.values():
        share = percent / 100
        student = uniform(result, lesson, share * full) if method == "uniform" else peer(lesson, share)
        found[f"MACs {percent}"] = 100 * count(student, lesson.data.example(2)).macs / full
        found[f"{percent} %"] = 100 * lesson.teach(student, seed, images)
    return {**found, "images": float(images * len(LEVELS))}


def uniform(result: Result, lesson: Lesson, macs: float) -> nn.Module:
    """Uniform widths, refit as the run's candidates are."""
    space, train = result.models.space, lesson.data.train
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: result.config.criterion.refit]
    images, candidate = train.batch(rows)[0], widest(space, macs)
    kept = select(space, candidate, read_tensors(result.folder.scores))
    student = carve(lesson.teacher, space, candidate, kept)
    Refitter(lesson.teacher, lesson.data.normalise(images)).refit(student, Chosen(space, candidate, kept))
    return student


def peer(lesson: Lesson, share: float) -> nn.Module:
    """Global L2 over inner widths (it crashes on option-A shortcuts when the residual stream is cut)."""
    model, example = copy.deepcopy(lesson.teacher), lesson.data.example(2)
    full = count(model, example).macs
    stream = [m for n, m in model.named_modules() if n == "conv1" or n.endswith(".conv2") or isinstance(m, nn.Linear)]
    pruner = tp.pruner.BasePruner(
        model, example[:1], importance=tp.importance.GroupMagnitudeImportance(p=2), global_pruning=True,
        pruning_ratio=0.95, iterative_steps=300, ignored_layers=stream,
    )  # fmt: skip
    while count(model, example).macs > share * full:
        pruner.step()
    return model


def widest(space: Space, macs: float) -> Candidate:
    """The largest uniform widths within ``macs``, residual streams whole where that is enough."""
    for power in (0, 1):
        for percent in range(100, 24, -1):
            candidate = space.uniform(percent / 100, (percent / 100) ** power)
            if space.cost(candidate).macs <= macs:
                return candidate
    raise ValueError(f"no uniform widths within {macs:g} MACs")


def second_budget(folder: Path) -> str:
    """What another budget costs once the supernet is there: nothing is trained."""
    name = "search_quality/supernet-0"
    outcomes = searched(folder, name, []).outcomes()
    overrides = [
        "search.proposer=supernet", f"run.base={OUT / name}", "budget.macs=40%", "search.levels=[1.0]",
        "search.members=1", "train.rungs=[0]", "search.trials=20", "search.repeats=1", "search.finish=inherit",
        "search.baselines=[]", "export.formats=[]",
    ]  # fmt: skip
    second = searched(folder, "search_quality/supernet-0-second", overrides)
    first, again = ((sum(o.job.images for o in os), sum(o.seconds for o in os)) for os in (outcomes, second.outcomes()))
    best = second.front[0]
    return (
        f"a second budget (40 % of the MACs) from the finished supernet run: {again[0]:,} training images and "
        f"{again[1]:.0f} s of trials, {again[1] / first[1]:.0%} of the first; with inherited weights alone "
        f"{best.metrics['test_mean']:.2%} (test) at {best.cost.macs / second.teacher_cost.macs:.1%} of the MACs"
    )


def row(method: str, found: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, with the sample standard deviation."""

    def mean(key: str, digits: int) -> str:
        values = [f[key] for f in found if key in f]
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}" if values else "dominated"

    return {
        "method": method, **{f"{p} %": mean(f"{p} %", 2) for p in LEVELS.values()},
        "hypervolume": mean("hypervolume", 4), "images": mean("images", 0), "seeds": len(found),
    }


def plot(found: dict[str, list[dict[str, float]]]) -> None:
    """``search_quality.png`` beside the JSON file: every seed of every method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=110)
    for method, figures in found.items():
        points = [(f[f"MACs {p}"], f[f"{p} %"]) for f in figures for p in LEVELS.values() if f"{p} %" in f]
        axes.plot(*zip(*points, strict=True), "o", alpha=0.6, label=method)
    axes.set(xlabel="MACs, % of the teacher's 40.6 M", ylabel="test accuracy, %", title="CIFAR-10, ResNet-20")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(OUT / "search_quality.png")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
