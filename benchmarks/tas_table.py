"""TAS's table for CIFAR-10, from nothing: teacher from scratch, architecture search, knowledge distillation.

Dong & Yang 2019 (arXiv 1905.09717), table 4: ResNet-20, 32 and 56 with 1x1 shortcuts, pruned to 54.9, 50.6 and 47.3 %
of their MACs. Meant for a GPU, where the whole schedule is 200 epochs for the teacher, 20 for the search and 200 with
distillation; elsewhere it is shortened to 1 % of that, and says so: then it shows that all steps work, and no more.
One seed; 45,000 training images, since 5,000 judge candidates; the test split is looked at once, at the end.

    NIWAKI_DATA=folder python benchmarks/tas_table.py [--models 20,32,56] [--scale 1.0]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from _bench import report
from _runs import data_folder, searched

from niwaki.search.result import Result

PUBLISHED = {20: (22.4, 92.88), 32: (35.0, 93.16), 56: (59.5, 93.69)}
"""Depth -> M MACs and test accuracy in the paper."""
EPOCHS, SEARCH_EPOCHS, IMAGES = 200, 20, 45_000


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="20,32,56" if gpu else "20")
    parser.add_argument("--scale", type=float, default=1.0 if gpu else 0.01, help="of all schedules")
    options = parser.parse_args()
    if (folder := data_folder("tas_table")) is None:
        return
    rows = [row(depth, run(folder, depth, options.scale)) for depth in map(int, options.models.split(","))]
    where = "a GPU" if gpu else "the CPU"
    note = (
        f"on {where}, schedules at {options.scale:g} of {EPOCHS} epochs for teacher and student and "
        f"{SEARCH_EPOCHS} for the search; one seed"
    )
    if options.scale < 1:
        note += ". SHORTENED: these accuracies say nothing about TAS, which trains longer than this"
    report("tas_table", "TAS on CIFAR-10, from scratch (M MACs, test accuracy in %)", rows, note)


def run(folder: Path, depth: int, scale: float) -> Result:
    final, learned = (max(round(scale * epochs * IMAGES), 2_000) for epochs in (EPOCHS, SEARCH_EPOCHS))
    overrides = [
        f"teacher.name=cifar_resnet{depth}", "teacher.options={shortcut: B}", "teacher.weights=null",
        f"teacher.train={{images: {final}, batch_size: 128, lr: 0.1, augment: crop_flip}}",
        f"budget.macs={PUBLISHED[depth][0]}M", "search.levels=[1.0]", "search.trials=4", "search.members=1",
        "search.repeats=1", "search.starts=[]", "search.proposer=tas",
        f"search.options={{images: {learned}, batch_size: 128}}", "train.rungs=[0]", f"train.final_images={final}",
        "train.augment=crop_flip", "train.views=4", "train.lr=0.1", "export.formats=[]",
    ]  # fmt: skip
    return searched(folder, f"tas_table-{depth}-{scale:g}", overrides)


def row(depth: int, result: Result) -> dict[str, Any]:
    best, (macs, accuracy) = result.front[0], PUBLISHED[depth]
    outcomes = result.outcomes()
    return {
        "model": f"ResNet-{depth}",
        "teacher": 100 * result.content["teacher"]["test_accuracy"],
        "MACs": best.cost.macs / 1e6, "test": 100 * best.metrics["test_mean"],
        "published MACs": macs, "published test": accuracy,
        "search, s": sum(o.seconds for o in outcomes if o.job.kind == "learn"),
        "distillation, s": sum(o.seconds for o in outcomes if o.job.kind == "final"),
    }


if __name__ == "__main__":
    main()
