"""Claim: the driver keeps up with any cluster: overhead per trial and its growth, busy workers, memory, two workers.

Stub trials (no torch work) go through the real stages, proposer, journal and store, on the space of CIFAR's ResNet-20.
``--trials 100,1000,10000`` sets the sizes; ``--skip tune,memory,cifar`` leaves parts out.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _bench import report
from _scale import Clocked, cluster, loop, stub_run, tuned
from _scale_cifar import trials_per_second

TARGET_MS, TARGET_BUSY, TARGET_GB, TARGET_SPEED = 20.0, 0.95, 1.5, 1.8


def main() -> None:
    asked = _arguments()
    sizes, skip = [int(n) for n in asked.trials.split(",")], set(asked.skip.split(","))
    if asked.peak:
        print(*_peak(sizes[0], asked.workers_here))
        return
    rows = overhead(sizes, asked.proposer, 0 if "tune" in skip else asked.workers_here)
    runner_ms = max((r["Tune (ms)"] for r in rows if isinstance(r["Tune (ms)"], float)), default=0.0)
    report("scale_overhead", f"Driver's share of a trial, {asked.proposer}, stub trials", rows, _growth(rows))
    busy = [workers_busy(asked.workers, asked.seconds, sizes[-1], ms) for ms in sorted({0.0, runner_ms})]
    report("scale_workers", f"{asked.workers:,} simulated workers, trials of {asked.seconds:g} s (log-normal)", busy,
           f"target: >= {TARGET_BUSY:.0%} busy while there is work to hand out")  # fmt: skip
    if "memory" not in skip:
        before, peak = _apart(sizes[-1], asked.workers_here)
        report("scale_memory", "Peak memory of the driver, through Ray Tune",
               [{"trials": sizes[-1], "before (GB)": before, "peak (GB)": peak, "target": TARGET_GB}],
               "before the first trial: Python, torch, Ray, the space")  # fmt: skip
    if "cifar" not in skip and (found := trials_per_second(asked.cifar_trials)) is not None:
        one, two = found
        report("scale_two_workers", "Real CIFAR-10 trials, one worker against two",
               [{"trials/s, 1": one, "trials/s, 2": two, "ratio": two / one, "target": TARGET_SPEED}])  # fmt: skip


def overhead(sizes: Sequence[int], proposer: str, workers: int) -> list[dict[str, Any]]:
    """A row a size: milliseconds of ``ask``, ``tell`` and, within it, the journal; beside them Tune's (0: not run)."""
    rows = []
    for trials in sizes:
        with tempfile.TemporaryDirectory() as folder, stub_run(Path(folder), trials, proposer) as run:
            clock = Clocked(run)
            loop(clock)
            count = len(run.schedule.outcomes)
            per = 1e3 / count
            rows.append({
                "trials": count, "ask (ms)": clock.asking * per, "tell (ms)": clock.telling * per,
                "of it journal (ms)": run.store.seconds * per, "sum (ms)": (clock.asking + clock.telling) * per,
                "CPU (ms)": clock.cpu * per, "last tenth (ms)": clock.last_tenth * 1e3, "target": TARGET_MS,
                "Tune (ms)": "not run", "with Tune (trials/s)": "not run",
            })  # fmt: skip
        if workers:
            with tempfile.TemporaryDirectory() as folder, stub_run(Path(folder), trials, proposer) as run:
                clock = Clocked(run)
                seconds = tuned(clock, Path(folder) / "scratch", workers)
                own = clock.asking + clock.telling
                rows[-1] |= {"Tune (ms)": (seconds - own) / count * 1e3, "with Tune (trials/s)": count / seconds}
    return rows


def workers_busy(workers: int, seconds: float, trials: int, runner_ms: float) -> dict[str, Any]:
    """Simulated workers, real asks and tells: the clock stands still for the workers, not for the driver."""
    with tempfile.TemporaryDirectory() as folder, stub_run(Path(folder), trials, "nsga2") as run:
        found = cluster(run, workers, seconds, runner_ms / 1e3)
    return {
        "trials": found.trials, "runner adds (ms)": runner_ms, "busy while there is work": found.busy,
        "busy to the very end": found.busy_to_end, "driver busy": found.driver,
        "shortest trial it could feed (s)": found.driver_seconds / found.trials * workers,
    }  # fmt: skip


def _growth(rows: Sequence[dict[str, Any]]) -> str:
    """How the CPU time of all trials grows between two sizes, against n log n; above 1 it grows faster."""
    said = []
    for a, b in itertools.pairwise(rows):
        expected = b["trials"] * math.log(b["trials"]) / (a["trials"] * math.log(a["trials"]))
        found = b["CPU (ms)"] * b["trials"] / (a["CPU (ms)"] * a["trials"])
        said.append(f"{a['trials']:,} -> {b['trials']:,} trials: CPU time grows {found:.2f}x, n log n {expected:.2f}x")
    return "; ".join(said)


def _apart(trials: int, workers: int) -> tuple[float, float]:
    """:func:`_peak` in a process of its own: this one has run other sizes before."""
    command = [sys.executable, __file__, "--peak", "--trials", str(trials), "--workers-here", str(workers)]
    *_, before, peak = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    return float(before), float(peak)


def _peak(trials: int, workers: int) -> tuple[float, float]:
    """Peak resident memory of this process in GB, before and after a run of stub trials through Tune."""
    def peak() -> float:  # not getrusage: what that says is inherited from the parent
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9

    with tempfile.TemporaryDirectory() as folder, stub_run(Path(folder), trials, "nsga2") as run:
        before = peak()
        tuned(Clocked(run), Path(folder) / "scratch", workers)
    return before, peak()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", default="100,1000,10000")
    parser.add_argument("--proposer", default="nsga2")
    parser.add_argument("--workers", type=int, default=1000, help="simulated ones")
    parser.add_argument("--seconds", type=float, default=120.0, help="mean length of a simulated trial")
    parser.add_argument("--workers-here", type=int, default=min(2, os.cpu_count() or 1), help="real ones, through Tune")
    parser.add_argument("--cifar-trials", type=int, default=16)
    parser.add_argument("--skip", default="", help="of tune, memory, cifar")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
