"""The files under configs/cluster, each against its own schema or parser, and against our command line."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import jsonschema
import pytest
import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

from niwaki.cli import app

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs" / "cluster"


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def parsed(command: list[str]) -> dict[str, Any]:
    """What our command line makes of a command; fails as it would, without running anything."""
    assert command[0].endswith("niwaki")
    group = typer.main.get_command(app)
    with click.Context(group) as context:  # type: ignore[arg-type]
        found = group.get_command(context, command[1])  # type: ignore[attr-defined]
        return dict(found.make_context(command[1], command[2:]).params)


def test_there_are_no_others() -> None:
    assert sorted(p.name for p in FOLDER.iterdir()) == ["ray-up.yaml", "rayjob.yaml", "slurm.sh"]


# ---- ray up --------------------------------------------------------------------------------------------------------


def test_ray_up_is_what_ray_takes() -> None:
    config = load("ray-up.yaml")
    prepared = prepare_config(copy.deepcopy(config))  # as `ray up` does before it looks at anything else
    validate_config(prepared)  # Ray's own schema and checks
    workers = len(config["provider"]["worker_ips"])
    assert prepared["max_workers"] == workers == config["max_workers"] == config["min_workers"]
    assert all(prepared[key] == config[key] for key in config if key.endswith("_commands"))


def test_ray_up_starts_one_head_and_workers_that_find_it() -> None:
    config = load("ray-up.yaml")
    head, worker = (shlex.split(config[f"{who}_start_ray_commands"][-1]) for who in ("head", "worker"))
    assert head[1:3] == ["start", "--head"]
    assert "--dashboard-host=127.0.0.1" in head
    port = next(a for a in head if a.startswith("--port")).partition("=")[2]
    assert f"--address=$RAY_HEAD_IP:{port}" in worker


def test_what_ray_refuses_is_refused_here() -> None:
    for change in ({"worker_nodes_typo": 1}, {"max_workers": "many"}, {"setup_commands": "pip install"}):
        with pytest.raises(jsonschema.ValidationError):
            validate_config(prepare_config(load("ray-up.yaml")) | change)


# ---- KubeRay: the part of the RayJob resource (ray.io/v1) and of pods that the file uses ---------------------------

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=47)]
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|[kKMGT]i?)?$")]
Natural = Annotated[int, Field(ge=0, strict=True)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Resources(Part):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Mount(Part):
    name: Name
    mountPath: Annotated[str, StringConstraints(pattern=r"^/")]


class Container(Part):
    name: Name
    image: Annotated[str, StringConstraints(pattern=r"^[\w./-]+(:[\w.-]+)?$")]
    resources: Resources
    volumeMounts: list[Mount]


class Claim(Part):
    claimName: Name


class Volume(Part):
    name: Name
    persistentVolumeClaim: Claim


class PodSpec(Part):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume]

    @model_validator(mode="after")
    def _mounts_exist(self) -> PodSpec:
        there = {volume.name for volume in self.volumes}
        if missing := {m.name for c in self.containers for m in c.volumeMounts} - there:
            raise ValueError(f"mounts without a volume: {missing}")
        return self


class Template(Part):
    spec: PodSpec


class HeadGroup(Part):
    rayStartParams: dict[str, Annotated[str, Field(strict=True)]]
    template: Template


class WorkerGroup(HeadGroup):
    groupName: Name
    replicas: Natural
    minReplicas: Natural
    maxReplicas: Natural

    @model_validator(mode="after")
    def _in_order(self) -> WorkerGroup:
        if not self.minReplicas <= self.replicas <= self.maxReplicas:
            raise ValueError("replicas outside of minReplicas..maxReplicas")
        return self


class ClusterSpec(Part):
    rayVersion: Annotated[str, Field(strict=True)]
    headGroupSpec: HeadGroup
    workerGroupSpecs: Annotated[list[WorkerGroup], Field(min_length=1)]


class JobSpec(Part):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode"]
    backoffLimit: Natural
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Natural
    rayClusterSpec: ClusterSpec

    @model_validator(mode="after")
    def _ends(self) -> JobSpec:
        if self.ttlSecondsAfterFinished and not self.shutdownAfterJobFinishes:
            raise ValueError("ttlSecondsAfterFinished only works with shutdownAfterJobFinishes")
        return self


class Metadata(Part):
    name: Name


class RayJob(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


def test_the_ray_job_is_one() -> None:
    spec = RayJob.model_validate(load("rayjob.yaml")).spec
    words = shlex.split(spec.entrypoint)
    given = parsed(words)
    assert (given["go_on"], given["address"]) == (True, "auto"), "a retry of the job must go on with the run"
    assert not set(spec.entrypoint) & set("$`\"';&|"), "two shells read it: nothing in it may mean something to one"
    shared = {m.mountPath for group in (spec.rayClusterSpec.headGroupSpec, *spec.rayClusterSpec.workerGroupSpecs)
              for c in group.template.spec.containers for m in c.volumeMounts}  # fmt: skip
    assert shared == {"/shared"}
    assert str(given["to"]).startswith("/shared/")
    assert spec.rayClusterSpec.headGroupSpec.rayStartParams["num-cpus"] == "0"
    assert spec.rayClusterSpec.rayVersion in (ROOT / "docs" / "cluster.md").read_text()


@pytest.mark.parametrize(("path", "value"), [
    ("apiVersion", "ray.io/v2"), ("metadata.name", "Niwaki_1"), ("spec.backoffLimit", -1), ("spec.entrypoints", "x"),
    ("spec.submissionMode", "Job"), ("spec.shutdownAfterJobFinishes", False),
    ("spec.rayClusterSpec.rayVersion", 2.6), ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
    ("spec.rayClusterSpec.workerGroupSpecs.0.replicas", 9),
    ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.volumes", []),
    ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.resources.limits.memory", "16 GB"),
])  # fmt: skip
def test_mistakes_in_a_ray_job_are_found(path: str, value: object) -> None:
    job = load("rayjob.yaml")
    *keys, last = path.split(".")
    place = job
    for key in keys:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    with pytest.raises(ValidationError):
        RayJob.model_validate(job)


# ---- Slurm ---------------------------------------------------------------------------------------------------------


def directives() -> dict[str, str]:
    lines = (FOLDER / "slurm.sh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")], "Slurm stops looking there"
    found = [re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line) for line in lines if line.startswith("#SBATCH")]
    assert all(found)
    return {m[1]: m[2] or "" for m in found if m}


def test_slurm_lines_say_what_slurm_knows() -> None:
    found = directives()
    assert set(found) <= {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "exclusive", "time", "requeue",
                          "open-mode", "output"}  # fmt: skip
    assert found["ntasks-per-node"] == "1", "one Ray a node"
    assert re.fullmatch(r"(\d+-)?\d\d:\d\d:\d\d", found["time"])
    assert found["open-mode"] == "append", "a requeued job must not overwrite its log"
    assert int(found["nodes"]) >= 1
    assert int(found["cpus-per-task"]) >= 1


def test_slurm_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(FOLDER / "slurm.sh")], check=True)
    assert os.access(FOLDER / "slurm.sh", os.X_OK)


def test_slurm_script_starts_ray_on_every_node_and_niwaki_on_the_first(tmp_path: Path) -> None:
    """The script as it is, with a stand-in for the two commands of Slurm that it calls."""
    tools = {"scontrol": "printf 'node7\\nnode8\\nnode9\\n'", "srun": 'printf "%s\\n" "$@"'}
    for name, does in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-9]", "SLURM_JOB_NUM_NODES": "3",
             "SLURM_CPUS_PER_TASK": "16", "CONFIG": "my config.yaml", "RUN": "/shared/runs/first"}  # fmt: skip
    script = ["bash", str(FOLDER / "slurm.sh"), "--set", "run.cpus_per_trial=4"]
    said = subprocess.run(script, env=slurm, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
    ray, split = said.index("ray"), said.index("--")
    assert said[:ray] == ["--nodes=3", "--ntasks=3"]
    assert said[ray + 1 : ray + 6] == ["symmetric-run", "--address", "node7:6379", "--min-nodes", "3"]
    assert curate_and_validate_ray_start_args(said[ray + 2 :])[:2] == ["--num-cpus", "16"]
    given = parsed(said[split + 1 :])
    assert (given["config"], given["to"], given["set_"]) == (
        "my config.yaml", Path("/shared/runs/first"), ["run.cpus_per_trial=4"])  # fmt: skip
    assert (given["go_on"], given["address"]) == (True, "auto")
    failed = subprocess.run(script, env={k: v for k, v in slurm.items() if k != "RUN"}, capture_output=True, text=True,
                            check=False)  # fmt: skip
    assert failed.returncode != 0
    assert "a run folder on storage" in failed.stderr


# ---- the page ------------------------------------------------------------------------------------------------------


def test_every_command_on_the_page_is_one() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    assert all((ROOT / "docs" / link).resolve().is_file() for link in re.findall(r"\]\((\.\./[^)]+)\)", page))
    commands = re.findall(r"((?:~/niwaki-env/bin/)?niwaki (?:search|status) [^`'\n#]+)", page)
    assert len(commands) >= 5
    for command in commands:
        given = parsed([w for w in shlex.split(command.split(",")[0].strip()) if w != "..."])
        assert given
