"""Claim: every model of torchvision is derived, carved and proven; and how fast, beside Torch-Pruning.

80 classifiers, 6 segmentation, 9 video, 2 optical-flow models, 12 detectors. For each: the proofs of ``niwaki check``
(the largest candidate is the teacher bit for bit, a carved model equals the masked reference, predicted cost equals
counted cost, backward, state dict, export, ...), the MACs left when every width is halved, seconds to derive once, and
milliseconds to carve a candidate. Torch-Pruning traces and cuts each candidate anew (it changes the model it is given):
its time is a copy, its graph and one cut at half the channels. Each tool runs in a process of its own, on one thread.

    python benchmarks/zoo.py [--models resnet18,vit_b_16] [--family video] [--jobs 2] [--no-peer]
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from _bench import report
from _torchvision import FAMILIES, LARGE, ONLY_FLOAT32, build, example, names, stir
from torch import nn

from niwaki.spaces import Candidate, Space, carve, derive
from niwaki.spaces.check import check

CANDIDATES = 100
LIMIT_S = 300
LARGE_FIGURES: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="names, separated by commas")
    parser.add_argument("--family", choices=list(FAMILIES))
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; times are cleanest with 1")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        tool, name = options.one
        print("RESULT " + json.dumps({"niwaki": ours, "torch-pruning": theirs, "meta": on_meta}[tool](name)))
        return
    families = [options.family] if options.family else list(FAMILIES)[::-1]
    wanted = options.models.split(",") if options.models else [n for f in families for n in names(f)]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = [r for r in pool.map(lambda n: row(n, not options.no_peer), wanted) if r]
    report("zoo", "torchvision: derived, carved, proven", rows, note(rows))


def row(name: str, peer: bool) -> dict[str, Any]:
    mine = apart("niwaki", name)
    theirs = apart("torch-pruning", name) if peer else {}
    large = apart("meta", name) if name in LARGE else {}
    ready, each = mine.get("derive s"), mine.get("carve ms")
    total = None if ready is None or each is None else ready + mine["first carve s"] + CANDIDATES * each / 1000
    other = theirs.get("candidate s")
    found = {
        "model": name,
        "proofs": mine.get("proofs", mine.get("error", "")),
        "half": mine.get("halved"),
        "nodes": mine.get("nodes"),
        "derive s": ready,
        "carve ms": each,
        "Torch-Pruning": other or theirs.get("error"),
        "x 100": None if other is None or total is None else CANDIDATES * other / total,
    }
    if large:
        grown = f"{mine['growth']:+.0%} of its size" if "growth" in mine else mine["error"]
        ready = f"{large['derive s']:.1f} s" if "derive s" in large else large["error"]
        LARGE_FIGURES.append(f"{name}: derived on meta tensors in {ready}, memory with weights {grown}")
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}, file=sys.stderr, flush=True)
    return found


def apart(tool: str, name: str) -> dict[str, Any]:
    """Run one tool on one model in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", tool, name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=(3 if name in LARGE else 1) * LIMIT_S, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": "not done in time"}
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
    if lines:
        return dict(json.loads(lines[-1].removeprefix("RESULT ")))
    last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return {"error": last[:90]}


def ours(name: str) -> dict[str, Any]:
    model, inputs = stir(build(name)), example(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    space = derive(model, inputs)
    derived = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    half = halved(space)
    first = seconds(lambda: carve(model, space, half))
    each = sorted(seconds(lambda: carve(model, space, half)) for _ in range(3))[1]
    left, full = space.cost(half).macs, space.cost(space.largest()).macs
    return {
        "proofs": proofs(name, model, space),
        "halved": left / max(full, 1),
        "nodes": sum(len(p.graph.nodes) for p in space.plan.programs.values()),
        "derive s": derived,
        "first carve s": first,
        "carve ms": 1000 * each,
        "growth": grown / size,
    }


def proofs(name: str, model: nn.Module, space: Space) -> str:
    """Within 1e-4 in float32; where rounding adds up to more than that, within 1e-9 in float64."""
    found = check(model, space)
    if name not in (*LARGE, *ONLY_FLOAT32) and any("relative" in p.detail for p in found if not p.held):
        model = model.double()
        found = check(model, derive(model, example(name, torch.float64)))
        if all(p.held for p in found):
            return "held (float64)"
    return "; ".join(f"{p.name}: {p.detail}" for p in found if not p.held) or "held"


def halved(space: Space) -> Candidate:
    return Candidate({g.name: max(1, g.units // 2) for g in space.groups})


def on_meta(name: str) -> dict[str, Any]:
    model = build(name).to("meta")
    return {"derive s": seconds(lambda: derive(model, example(name, device="meta")))}


def theirs(name: str) -> dict[str, Any]:
    import torch_pruning as tp

    model, inputs = stir(build(name)), example(name)
    found = []
    for _ in range(2):
        start = time.perf_counter()
        student = copy.deepcopy(model)
        heads = {m: m.num_heads for m in student.modules() if isinstance(m, nn.MultiheadAttention)}
        last = [m for m in student.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))][-1:]
        pruner = tp.pruner.BasePruner(
            student, inputs, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=last, num_heads=heads,
        )  # fmt: skip
        pruner.step()
        found.append(time.perf_counter() - start)
    with torch.no_grad():
        student(*inputs if isinstance(inputs, tuple) else (inputs,))
    parameters = [sum(p.numel() for p in m.parameters()) for m in (student, model)]
    if parameters[0] > 0.9 * parameters[1]:
        return {"error": f"keeps {parameters[0] / parameters[1]:.0%} of the parameters"}
    return {"candidate s": min(found)}


def seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def note(rows: list[dict[str, Any]]) -> str:
    """The claims in words."""
    held = sum(r["proofs"].startswith("held") for r in rows)
    over = [f"{r['model']} {r['half']:.2f}" for r in rows if r["half"] is not None and r["half"] > 0.35]
    lines = [
        "half: MACs left when every width is halved. Torch-Pruning: seconds for one candidate, or why not.",
        f"x 100: its time over ours for {CANDIDATES} candidates.",
        f"{held} of {len(rows)} models: all proofs held. More than 0.35 of the MACs left: {', '.join(over) or 'none'}.",
        *LARGE_FIGURES,
    ]
    both = [r["x 100"] for r in rows if r["x 100"] is not None]
    if both:
        theirs = [CANDIDATES * r["Torch-Pruning"] for r in rows if r["x 100"] is not None]
        ours = [t / x for t, x in zip(theirs, both, strict=True)]
        lines.append(
            f"Torch-Pruning cuts {len(both)} of {len(rows)}; x 100: in total {sum(theirs) / sum(ours):.1f} "
            f"({sum(theirs):.0f} / {sum(ours):.0f} s), mean {statistics.mean(both):.1f}, "
            f"median {statistics.median(both):.1f}, least {min(both):.1f}."
        )
    sized = [(r["nodes"], r["derive s"]) for r in rows if r["nodes"]]
    if len(sized) > 2:
        slope = statistics.linear_regression(*([math.log(v) for v in column] for column in zip(*sized, strict=True)))
        lines.append(f"Seconds to derive grow with graph nodes to the power of {slope.slope:.2f} (1 = linear).")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
