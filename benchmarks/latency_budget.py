"""Claim: judged by measured milliseconds, a search under a latency budget beats the same search under a MACs budget.

Needs the data and the teacher: ``NIWAKI_DATA`` names a folder with ``cifar10.npz`` and ``resnet20.safetensors`` (or
``.pt``, ``.th``). Two searches with the same settings, seeds and trainings, blocks removable in both: one aims at 60,
45, 30 and 15 % of the teacher's latency on onnxruntime with one thread, the other at the same shares of its MACs. All
finished models are then measured beside the teacher in the same rounds. Test accuracies; nothing is chosen by them.

    NIWAKI_DATA=folder python benchmarks/latency_budget.py [--seeds 1]
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from _bench import report
from _runs import data_folder, searched

from niwaki.search.bench import TEACHER, Bench
from niwaki.search.pareto import hypervolume
from niwaki.search.result import Result
from niwaki.search.targets import MeasurePlan, parse

TARGET = "onnxruntime:threads=1,batch=1"
WORST = 0.5
"""Accuracy from which on a front counts in the hypervolume."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if (folder := data_folder("latency_budget")) is None:
        return
    rows, volumes = [], dict[str, list[float]]()
    for seed in range(options.seeds):
        results = {budget: run(folder, budget, seed) for budget in ("latency", "macs")}
        found = judged(results)
        rows += found
        for budget in results:
            points = [[r["latency"], 1 - r["test %"] / 100] for r in found if r["budget"] == budget]
            volumes.setdefault(budget, []).append(hypervolume(np.array(points), np.array([1.0, 1 - WORST])))
    lines = [
        f"{budget}: hypervolume {statistics.mean(v):.4f}" + (f" +- {statistics.stdev(v):.4f}" if len(v) > 1 else "")
        for budget, v in volumes.items()
    ]
    lines.append(f"latency, MACs: shares of the teacher's; hypervolume: (latency share <= 1, accuracy >= {WORST:.0%})")
    report("latency_budget", "ResNet-20 on CIFAR-10, judged by milliseconds on " + TARGET, rows, "\n".join(lines))


def run(folder: Path, budget: str, seed: int) -> Result:
    """A search under four levels of one kind of budget."""
    overrides = [
        "budget.macs=null", f"budget.{budget}=60%", f"latency.target={TARGET}", "space.depth=true", "space.step=auto",
        "search.trials=48", "search.levels=[1.0, 0.75, 0.5, 0.25]", "search.keep=0.2", "search.members=4",
        "search.repeats=1", "train.rungs=[4000, 12000]", "train.final_images=45000", f"run.seed={seed}",
        "export.formats=[]",
    ]  # fmt: skip
    return searched(folder, f"latency_budget-{budget}-{seed}", overrides)


def judged(results: dict[str, Result]) -> list[dict[str, Any]]:
    """All members of both fronts, measured in the same rounds."""
    first = results["latency"].models
    example = results["latency"].example[:2]
    bench = Bench(first.teacher, first.space, parse(TARGET), example)
    members = [(budget, m) for budget, result in results.items() for m in result.front]
    timing = bench.time(list({m.candidate.key: m.candidate for _, m in members}.values()), MeasurePlan(12, 1.0))
    full = first.space.cost(first.space.largest()).macs
    rows = [
        {
            "budget": budget, "latency": timing.ms[m.candidate.key] / timing.ms[TEACHER], "MACs": m.cost.macs / full,
            "blocks dropped": len(m.candidate.skipped), "test %": 100 * m.metrics["test_mean"],
        }
        for budget, m in members
    ]
    return sorted(rows, key=lambda r: (r["budget"], -r["latency"]))


if __name__ == "__main__":
    main()
