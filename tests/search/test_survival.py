"""Whatever dies or fills up: no finished trial is lost, and the run ends with the front of an undisturbed one.

A driver that is killed is in test_controller.py, a job that hangs in runners/test_tune.py; ``benchmarks/chaos.py``
kills at random.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from niwaki.search.config import to_yaml
from niwaki.search.controller import search
from niwaki.search.events import Event, TrialProgress, TrialStarted
from niwaki.search.result import Result
from tests.search.tiny import tiny


def figures(result: Result) -> list[tuple[Any, ...]]:
    """What must not depend on what happened to a run."""
    return [(m.name, m.candidate, m.metrics["accuracy"], m.metrics["test_mean"]) for m in result.front]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return search(tiny(tmp_path_factory.mktemp("whole") / "run", *LONGER))


LONGER = ("train.final_images=30000", "search.finish=fresh")


def test_a_worker_that_is_killed_in_mid_training_goes_on_from_its_checkpoint(
    undisturbed: Result, tmp_path: Path
) -> None:
    folder, killed = tmp_path / "run", list[str]()

    def kill(event: Event) -> None:
        """The process of the first final training, once it has a checkpoint."""
        if not isinstance(event, TrialProgress) or event.job.kind != "final" or killed:
            return
        trial = folder / "trials" / event.job.key
        if (trial / "training.safetensors").is_file():
            killed.append(event.job.key)
            (process,) = re.findall(r"process (\d+) on", (trial / "log.txt").read_text())
            os.kill(int(process), signal.SIGKILL)

    slow = ("run.runner=tune", "run.workers=1", "run.checkpoint_every=0")
    result = search(tiny(folder, *LONGER, *slow), kill)
    assert len(killed) == 1, "the training was over before anybody saw a checkpoint: it must take seconds"
    log = (folder / "trials" / killed[0] / "log.txt").read_text()
    assert "going on from the checkpoint of an earlier try" in log
    assert not (folder / "trials" / killed[0] / "training.safetensors").exists()
    assert figures(result) == figures(undisturbed)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that does no work and two machines with one CPU each, as processes of this one."""
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1_000, "health_check_failure_threshold": 3}
    store = 80 * 2**20
    made = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 0, "object_store_memory": store, "include_dashboard": False, "_system_config": quick,
    })  # fmt: skip
    made.machines = [made.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_machine_that_leaves_the_cluster_in_mid_search(
    undisturbed: Result, cluster: Cluster, tmp_path: Path
) -> None:
    """No machine sees the run folder: everything goes through the object store, checkpoints and parents included."""
    finals = 0

    def leave(event: Event) -> None:
        nonlocal finals
        finals += isinstance(event, TrialStarted) and event.job.kind == "final"
        if finals == 2 and len(cluster.machines) == 2:
            here = ray.get_runtime_context().get_node_id()  # the driver may count as a process of any of them
            other = next(m for m in cluster.machines if m.node_id != here)
            cluster.machines.remove(other)
            cluster.remove_node(other, allow_graceful=False)

    places = ("run.runner=tune", f"run.address={cluster.address}", "run.share=store", "run.checkpoint_every=0")
    result = search(tiny(tmp_path / "run", *LONGER, *places), leave)
    assert len(cluster.machines) == 1
    assert figures(result) == figures(undisturbed)
    assert all(o.complete for o in result.outcomes())
    for member in result.front:
        trial = result.folder.store.trial(member.entry.trials[0])
        assert {p.name for p in trial.iterdir()} == {
            "job.json", "kept.safetensors", "log.txt", "outcome.json", "student.safetensors"
        }  # fmt: skip


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0
    if sys.platform == "linux" else True,
    reason="no disk can be mounted here",
)  # fmt: skip
@pytest.mark.parametrize("kilobytes", [400, 1_900], ids=["teacher", "trials"])
def test_a_full_disk_stops_the_run_with_a_word_and_room_lets_it_go_on(tmp_path: Path, kilobytes: int) -> None:
    disk, config = tmp_path / "disk", tmp_path / "config.yaml"
    disk.mkdir()
    config.write_text(to_yaml(tiny(disk / "run", "data.limit=300")))
    python = f"{shlex.quote(sys.executable)} -m niwaki"
    script = f"""
        mount -t tmpfs -o size={kilobytes}k tmpfs {disk} || exit 99
        {python} search {config} > {tmp_path}/full.txt 2>&1; echo $? >> {tmp_path}/full.txt
        mount -o remount,size=500m {disk}
        {python} resume {disk}/run --json > {tmp_path}/again.txt 2> {tmp_path}/late.txt; echo $? >> {tmp_path}/late.txt
    """
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 99:
        pytest.skip(f"no disk can be mounted here: {done.stderr}")
    *_, last, code = (tmp_path / "full.txt").read_text().splitlines()
    assert code == "1"
    assert "No space left on device" in last
    assert "resume" in last
    assert "Traceback" not in (tmp_path / "full.txt").read_text()
    assert (tmp_path / "late.txt").read_text().splitlines()[-1] == "0"
    found = json.loads((tmp_path / "again.txt").read_text())
    whole = search(tiny(tmp_path / "whole", "data.limit=300"))
    assert [m["candidate"] for m in found["members"]] == [m.candidate.to_json() for m in whole.front]
    assert [m["metrics"]["test_mean"] for m in found["members"]] == [m.metrics["test_mean"] for m in whole.front]
