"""The same candidates measured again and again beside busy cores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from _latency_cases import Case

from niwaki.search.bench import TEACHER
from niwaki.search.latency import calibration_candidates
from niwaki.search.targets import MeasurePlan, Timing

APART_S = 120
_SPIN = "import numpy as np\nx = np.ones(8_000_000)\nwhile True: x += 1.0"


def repeated() -> tuple[list[dict[str, Any]], str]:
    """Quiet, then (``APART_S`` later) beside one busy core, then with every core busy."""
    case = Case("cifar_resnet20", "onnxruntime:threads=1")
    candidates = calibration_candidates(case.space, 24, seed=0)
    cores = sorted(os.sched_getaffinity(0))
    first = case.bench.time(candidates, MeasurePlan())
    time.sleep(APART_S)
    with busy(cores[-1:]):
        second = case.bench.time(candidates, MeasurePlan())
    with busy(cores):
        third = case.bench.time(candidates, MeasurePlan())
    rows = [row(name, timing, first) for name, timing in
            (("quiet", first), ("one core busy", second), ("all cores busy", third))]  # fmt: skip
    warned = "; ".join(third.warnings) or "nothing"
    return rows, f"off: median of |ratio to the teacher / the quiet one's - 1|. With all cores busy it says: {warned}"


def row(name: str, timing: Timing, first: Timing) -> dict[str, Any]:
    ratios, before = (np.array([t.ms[k] / t.ms[TEACHER] for k in first.ms if k != TEACHER]) for t in (timing, first))
    return {
        "machine": name, "teacher ms": timing.ms[TEACHER], "off %": 100 * float(np.median(np.abs(ratios / before - 1))),
        "interrupted runs %": 100 * timing.dropped, "noisy": len(timing.noisy), "warnings": len(timing.warnings),
    }  # fmt: skip


@contextmanager
def busy(cores: list[int]) -> Iterator[None]:
    """A process that streams through memory on each of the cores."""
    code = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\n" + _SPIN
    running = [subprocess.Popen([sys.executable, "-c", code, str(core)]) for core in cores]
    time.sleep(2)
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
