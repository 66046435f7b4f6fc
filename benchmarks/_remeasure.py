"""Latency of ONNX files beside one another, in this process: prints name -> milliseconds as JSON.

    python benchmarks/_remeasure.py SHAPE FILE...       SHAPE: of one input, such as 1x3x224x224
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from niwaki.search.targets import MeasurePlan, Run, measure_runs, parse
from niwaki.search.targets.onnxruntime import session_options


def ready(path: str, shape: tuple[int, ...]) -> Run:
    session = onnxruntime.InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.random.default_rng(0).random(shape, dtype=np.float32)}
    return lambda: session.run(None, feed)


if __name__ == "__main__":
    sizes = tuple(int(n) for n in sys.argv[1].split("x"))
    runs = {Path(path).stem: ready(path, sizes) for path in sys.argv[2:]}
    found = measure_runs(runs, MeasurePlan(rounds=12, seconds=1.0), parse("onnxruntime:threads=1"))
    print(json.dumps(dict(found.ms)))
