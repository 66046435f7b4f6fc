"""Claim: whatever is killed, no finished trial is lost, and the run ends with the front of an undisturbed one.

Several Ray nodes on this machine, a search on real digits over them, and random SIGKILLs of worker processes, nodes and
the driver itself, which is then resumed. Trials go through the object store, as on machines that do not see the run
folder.

    python benchmarks/chaos.py [--kills 30] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from _bench import report
from ray.cluster_utils import Cluster

from niwaki.search.config import parse_config, to_yaml
from niwaki.search.store import RunStore

SETTINGS: dict[str, Any] = {
    "teacher": {"train": {"images": 4_000}},
    "data": {"limit": 400},
    "space": {"ratios": [0.25, 0.5, 0.75, 1.0]},
    "budget": {"macs": "60%"},
    "search": {"trials": 12, "levels": [1.0, 0.5], "keep": 0.34, "members": 2, "finish": "fresh"},
    "train": {"rungs": [1_000, 3_000], "final_images": 12_000, "batch_size": 64, "lr": 0.05, "precision": "fp32",
              "layout": "contiguous"},
    "run": {"checkpoint_every": 0.5, "retries": 50, "workers": 2, "share": "store"},
    "export": {"formats": []},
}  # fmt: skip
STORE = 80 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, kills, rows, number = random.Random(options.seed), Counter[str](), [], 0
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    expected = undisturbed(folder / "whole")
    with_head = Nodes()
    try:
        while sum(kills.values()) < options.kills:
            run = folder / f"run-{number}"
            mine, lost, seconds = one_run(run, with_head, rng, options.kills - sum(kills.values()))
            kills += mine
            rows.append({
                "run": number, **{k: mine[k] for k in ("worker", "node", "driver")}, "seconds": round(seconds),
                "finished trials lost": lost, "same front": front(run) == expected,
            })  # fmt: skip
            number += 1
    finally:
        with_head.close()
    shutil.rmtree(folder)
    lost, same = sum(r["finished trials lost"] for r in rows), sum(r["same front"] for r in rows)
    note = f"{sum(kills.values())} kills: {lost} finished trials lost, {same} of {len(rows)} fronts as undisturbed"
    report("chaos", "Random kills during searches over three Ray nodes on one machine", rows, note)
    sys.exit(lost > 0 or same < len(rows))


def undisturbed(folder: Path) -> list[Any]:
    config = parse_config(SETTINGS, "chaos", [f"run.folder={folder}", "run.runner=local"])
    file = folder.with_suffix(".yaml")
    file.write_text(to_yaml(config))
    subprocess.run([sys.executable, "-m", "niwaki", "search", str(file)], check=True, capture_output=True)
    return front(folder)


def front(folder: Path) -> list[Any]:
    content = json.loads((folder / "front.json").read_text())
    return [[m["candidate"], m["metrics"]] for m in content["members"]]


class Nodes:
    """A head without CPUs, at which the driver is, and two nodes with one CPU each."""

    def __init__(self) -> None:
        every = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1_000}
        quick = {**every, "health_check_failure_threshold": 5}
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": quick}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]
        self.cluster.wait_for_nodes()

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def replace_one(self, rng: random.Random) -> None:
        """Kill a node with all its processes; another one joins."""
        self.cluster.remove_node(self.nodes.pop(rng.randrange(2)), allow_graceful=False)
        self.nodes.append(self.add())

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


def one_run(run: Path, nodes: Nodes, rng: random.Random, most: int) -> tuple[Counter[str], int, float]:
    """A search until its end, killed at random moments; kills, finished trials that were lost on the way, seconds."""
    file = run.with_suffix(".yaml")
    file.write_text(to_yaml(parse_config(SETTINGS, "chaos", [f"run.folder={run}"])))
    command = [sys.executable, "-m", "niwaki", "search", str(file), "--resume", "--address", nodes.cluster.address]
    kills, seen, lost, start = Counter[str](), set[str](), 0, time.monotonic()
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    pause = time.monotonic() + rng.uniform(8, 20)
    while True:
        time.sleep(0.2)
        if (run / "journal.jsonl").is_file() and driver.poll() is None:
            done = {o.key for o in RunStore(run).outcomes() if o.complete}
            lost += len(seen - done)
            seen |= done
        if driver.poll() is not None:
            if driver.returncode == 0:
                return kills, lost, time.monotonic() - start
            if driver.returncode != -signal.SIGKILL:  # a machine that the driver counted as its own is gone
                kills["driver"] += 1
                print(driver.stderr.read()[-800:] if driver.stderr else "", file=sys.stderr)
            driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            pause = time.monotonic() + rng.uniform(8, 20)
        elif time.monotonic() > pause and sum(kills.values()) < most:
            kind = rng.choice(["worker", "worker", "node", "driver"])
            if kind == "driver":
                driver.kill()
                driver.wait()
            elif kind == "node":
                nodes.replace_one(rng)
            elif not kill_worker(run, rng):
                continue
            kills[kind] += 1
            pause = time.monotonic() + rng.uniform(4, 15)


def kill_worker(run: Path, rng: random.Random) -> bool:
    """The process of a trial that runs, as its log says; False where none does."""
    logs = [log for log in run.glob("trials/*/log.txt") if not (log.parent / "outcome.json").is_file()]
    rng.shuffle(logs)
    for log in logs:
        found = re.findall(r"process (\d+) on", log.read_text())
        if found and Path(f"/proc/{found[-1]}").exists():
            os.kill(int(found[-1]), signal.SIGKILL)
            return True
    return False


if __name__ == "__main__":
    main()
