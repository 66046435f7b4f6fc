"""Milliseconds per node of an ONNX file, from the runtime's own profiler, under the names that the file gave them.

The runtime runs another graph than it was given: activations are fused into convolutions, layouts are converted. A
node of a blocked layout is named after the tensor that it writes (``relu_1_nchwc``), a fused one after the one it
grew from, with a suffix (``node_silu/QuickGeluFusion/``); helpers are named after their kind alone.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnx import NodeProto

SUFFIX = "_kernel_time"
AHEAD = ("ReorderInput", "gemm_input_reshape")
"""Helpers that prepare what comes next; all others finish what came before."""
CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv")


@dataclass(frozen=True)
class Event:
    """A node as the runtime ran it: its ``name`` and operation there, and milliseconds."""

    name: str
    op: str
    ms: float


def profile(data: bytes, feed: Mapping[str, Any], options: ort.SessionOptions, runs: int) -> list[Event]:
    """Run a file ``runs`` times after one to warm up: its events in order of execution.

    Milliseconds are the mean of the faster half of the runs: the profiler counts whole microseconds, and others' work
    only ever adds.
    """
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, feed)
        records = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        if record.get("cat") == "Node" and record["name"].endswith(SUFFIX):
            which = (record["name"].removesuffix(SUFFIX), record["args"]["op_name"], record["args"]["node_index"])
            durations.setdefault(which, []).append(record["dur"] / 1e3)
    half = math.ceil(runs / 2)
    return [Event(name, op, sum(sorted(ms[1:])[:half]) / half) for (name, op, _), ms in durations.items()]


def node_times(events: list[Event], nodes: list[NodeProto]) -> dict[str, float]:
    """Node of the file -> milliseconds; what was fused counts at the node that gave the name, a convolution at itself,
    helpers at what they help."""
    found = _Names(nodes, {e.name for e in events})
    homes = [found.home(e) for e in events]
    times: dict[str, float] = {}
    for i, event in enumerate(events):
        around = homes[i:] if event.name.startswith(AHEAD) else homes[i::-1]
        others = homes[i::-1] if event.name.startswith(AHEAD) else homes[i:]
        home = next((h for h in (*around, *others) if h), "")
        times[home] = times.get(home, 0.0) + event.ms
    return times


class _Names:
    """The file's nodes by name and by what they write."""

    def __init__(self, nodes: list[NodeProto], names: set[str]) -> None:
        self.by_name = {n.name: n for n in nodes}
        self.maker = {out: n for n in nodes for out in n.output}
        direct = [self._node(name) for name in names]
        self.claimed = {n.name for n in direct if n is not None and n.op_type == "Conv"}

    def home(self, event: Event) -> str:
        """The name of the node that an event belongs to, '' for a helper."""
        node = self._node(event.name)
        if node is None:
            return ""
        if event.op in CONVOLUTIONS and node.op_type != "Conv":
            free = [c for c in self._convolutions(node) if c.name not in self.claimed]
            if free:
                self.claimed.add(free[0].name)
                return free[0].name
        return node.name

    def _node(self, name: str) -> NodeProto | None:
        name = re.sub(r"_token_\d+$", "", name.partition("/")[0])
        return self.by_name.get(name) or self.maker.get(name.removesuffix("_nchwc"))

    def _convolutions(self, node: NodeProto) -> Iterator[NodeProto]:
        """Those whose results reach ``node`` with no other convolution between, nearest first."""
        todo, seen = [node], {node.name}
        while todo:
            current = todo.pop(0)
            for name in current.input:
                before = self.maker.get(name)
                if before is None or before.name in seen:
                    continue
                seen.add(before.name)
                if before.op_type == "Conv":
                    yield before
                else:
                    todo.append(before)
