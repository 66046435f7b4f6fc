"""Claims: latency is predicted well enough to search with, budgets in milliseconds are met, and thinner is faster.

a. How far predictions are from measurements of 40 unseen candidates, depth varied, on onnxruntime and torch.
b. Budgets of 80, 60 and 40 % of the teacher: the exported file, measured in a new process beside the teacher's.
c. Realised speed-up of candidates chosen by predicted latency at about half the MACs.
d. Two calibrations minutes apart, one beside a busy core, compared; and whether a busy measuring core is noticed.
e. The peak of live activation tensors, computed from the graph and measured.

    python benchmarks/latency.py [--parts abcde] [--models resnet18,small_vit]

Latency is that of one image on one thread. Everything is a ratio to the teacher measured in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bench import report
from _latency_cases import ANY_INTEGER, NAMES, Case
from _latency_repeat import repeated
from _memory import rows as memory_rows

from niwaki.search.aim import aim, retained
from niwaki.search.bench import TEACHER
from niwaki.search.export.onnx import ONNX
from niwaki.search.latency import calibration_candidates
from niwaki.search.targets import MeasurePlan
from niwaki.spaces import Candidate, carve
from niwaki.spaces.latency import PredictionError

ORT, EAGER = "onnxruntime:threads=1", "torch:threads=1"
UNSEEN = 40
SHARES = (0.8, 0.6, 0.4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="abcde")
    parser.add_argument("--models", default=",".join(NAMES))
    options = parser.parse_args()
    names = options.models.split(",")
    cases = {n: Case(n, ORT, ANY_INTEGER if n == "cifar_resnet20" else None) for n in names}
    if "a" in options.parts:
        eager = [Case(c.name, EAGER, c.options) for c in cases.values()]
        rows = [predicted(case) for case in [*cases.values(), *eager]]
        note = (
            "ms: the teacher's; of it: range of the candidates; rank: Spearman's correlation; median, p90: of "
            "|predicted / measured - 1|; fit: what the model learned from; says: its own cross-validated median"
        )
        report("latency_prediction", f"a. {UNSEEN} unseen candidates, one thread, batch 1", rows, note)
    if "b" in options.parts:
        rows = [row for case in cases.values() for row in aimed(case)]
        inside = sum(0.93 <= r["of budget"] <= 1.02 for r in rows)
        mean = statistics.mean(r["of budget"] for r in rows)
        note = f"{inside} of {len(rows)} within 93 to 102 % of the budget, mean {mean:.1%}"
        report("latency_budgets", "b. exported models, measured again in a new process", rows, note)
    if "c" in options.parts:
        report("latency_speedups", "c. realised speed-up, onnxruntime, one thread", speed_ups())
    if "d" in options.parts:
        report("latency_repeats", "d. the same candidates measured again", *repeated())
    if "e" in options.parts:
        found = [{**vars(row), "equal": str(row.predicted == row.measured)} for row in memory_rows()]
        note = f"predicted == measured in {sum(r['equal'] == 'True' for r in found)} of {len(found)}"
        report("latency_memory", "e. peak of live activation tensors, bytes at batch 1", found, note)


def predicted(case: Case) -> dict[str, Any]:
    """Unseen candidates, measured beside the teacher, against the calibrated model."""
    model = case.calibrated
    seen = {s.candidate for s in model.samples}
    drawn = calibration_candidates(case.space, 3 * UNSEEN, seed=1)
    unseen = [c for c in drawn if tuple(case.space.encode(c)) not in seen][:UNSEEN]
    timing = case.bench.time(unseen, MeasurePlan(seed=1))
    measured = np.array([timing.ms[c.key] for c in unseen]) / timing.ms[TEACHER]
    error = PredictionError.of(model.ratio(np.array([case.space.encode(c) for c in unseen])), measured)
    return {
        "model": case.name.removeprefix("cifar_"), "target": case.target.partition(":")[0], "ms": timing.ms[TEACHER],
        "of it": f"{measured.min():.2f}-{measured.max():.2f}", "rank": round(error.spearman, 3),
        "median %": round(100 * error.median, 1), "p90 %": round(100 * error.p90, 1), "fit": model.method,
        "says %": round(100 * model.error.median, 1),
    }  # fmt: skip


def aimed(case: Case) -> list[dict[str, Any]]:
    """Random candidates, aimed at each budget; then what their exported files really take."""
    worth = retained(case.space, {})
    found: list[tuple[float, int, Candidate]] = []
    for share in SHARES:
        limits = case.limits(share)
        start = case.near(limits, seed=0) or case.space.smallest()

        def measure(candidates: Any) -> dict[str, float]:
            timing = case.bench.time(candidates, MeasurePlan(rounds=12, seconds=0.5))
            scale = case.calibrated.anchor_ms / timing.ms[TEACHER]
            return {c.key: timing.ms[c.key] * scale for c in candidates}

        done = aim(start, limits, case.costing, worth, measure)
        found.append((share, len(done.tries), done.candidate))
    ratios = remeasured(case, [c for _, _, c in found])
    full = case.space.cost(case.space.largest()).macs
    return [
        {"model": case.name, "budget": share, "measured": ratio, "of budget": ratio / share, "tries": tries,
         "MACs": case.space.cost(candidate).macs / full}
        for (share, tries, candidate), ratio in zip(found, ratios, strict=True)
    ]  # fmt: skip


def remeasured(case: Case, candidates: list[Candidate]) -> list[float]:
    """Latency of really exported files over the teacher's, in a new process."""
    models = [case.model, *(carve(case.model, case.space, c) for c in candidates)]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.onnx" for i in range(len(models))]
        for file, model in zip(files, models, strict=True):
            file.write_bytes(ONNX(dynamic_batch=False).serialize(model, (case.example[:1],)))
        shape = "x".join(map(str, case.example[:1].shape))
        script = Path(__file__).parent / "_remeasure.py"
        done = subprocess.run(
            [sys.executable, script, shape, *files], capture_output=True, text=True, check=True
        )  # fmt: skip
    ms = json.loads(done.stdout.splitlines()[-1])
    return [ms[str(i)] / ms["0"] for i in range(1, len(models))]


def speed_ups() -> list[dict[str, Any]]:
    """The candidate predicted fastest among many with at least ``share`` - 4 % of the MACs, and at most ``share``."""
    rows = []
    for name, share in (("resnet18", 0.50), ("cifar_resnet20", 0.54), ("mobilenet_v2", 0.50)):
        case = Case(name, ORT)
        drawn = [case.near(case.limits(share, "macs"), seed) for seed in range(400)]
        some = list({c.key: c for c in drawn if c is not None}.values())
        matrix = np.array([case.space.encode(c) for c in some])
        best = [some[i] for i in np.argsort(case.calibrated.predict(matrix))[:3]]
        times = dict(zip([c.key for c in best], remeasured(case, best), strict=True))
        full = case.space.cost(case.space.largest()).macs
        for candidate in best:
            macs, ratio = case.space.cost(candidate).macs / full, times[candidate.key]
            rows.append({
                "model": name, "MACs": macs, "speed-up": 1 / ratio, "ideal": 1 / macs, "realised / ideal": macs / ratio,
                "skipped": len(candidate.skipped),
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
