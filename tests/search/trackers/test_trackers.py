"""Trackers: what reaches TensorBoard's files, MLflow and W&B; names and missing packages; trouble is a notice."""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event as Record

from niwaki.search.checks import check_choices
from niwaki.search.outcome import Outcome
from niwaki.search.trackers import TrackerSetup, figures, settings, tracker_class
from niwaki.spaces import InputError, registry
from tests.search.made_up import outcomes
from tests.search.tiny import tiny

MADE = outcomes(12)


def track(name: str, folder: Path, made: list[Outcome], begun: int = 0) -> None:
    tracker = tracker_class(name)(TrackerSetup(folder, "mine-0123abcd", begun))
    for outcome in made:
        tracker.tell(outcome)
    tracker.close()


def records(folder: Path) -> list[Record]:
    """Every record of the event files in ``folder``, read by hand: length, checksum, bytes, checksum."""
    found = []
    for file in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(Record.FromString(content[at + 12 : at + 12 + length]))
            at += length + 16
    return found


def test_tensorboard_files_hold_every_figure_apart_for_each_kind_of_job(tmp_path: Path) -> None:
    track("tensorboard", tmp_path, MADE[:8])
    track("tensorboard", tmp_path, MADE[8:], begun=8)  # the session after a resume
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    texts = {}
    for record in records(tmp_path):
        for value in record.summary.value:
            if value.HasField("simple_value"):
                curves[value.tag][record.step] = value.simple_value
            else:
                texts[record.step] = value.tensor.string_val[0].decode()
    expected: dict[str, dict[int, float]] = defaultdict(dict)
    for step, o in enumerate(MADE, start=1):
        kind = {"search": f"search_{o.job.rung + 1}"}.get(o.job.kind, o.job.kind)
        facts = {"accuracy": o.metrics.get("accuracy"), "loss": o.metrics.get("loss"), "macs": o.cost.macs,
                 "params": o.cost.params, "bytes": o.cost.bytes, "images": o.images, "seconds": o.seconds}
        for name, figure in facts.items() if o.complete else ():
            expected[f"{name}/{kind}"][step] = pytest.approx(figure)
    assert curves == expected
    assert texts.keys() == {step for step, o in enumerate(MADE, start=1) if not o.complete}
    assert all(MADE[step - 1].key in text and f"no {step - 1}" in text for step, text in texts.items())
    assert 0 < len(texts) < len(MADE)


class FakeCallback:
    """Takes the calls that Tune makes to a logger callback, in the order it makes them."""

    runs: dict[str, dict[str, Any]]

    def __init__(self, **options: Any) -> None:
        type(self).runs = {}
        self.options = options

    def setup(self) -> None:
        self.runs["options"] = self.options

    def log_trial_start(self, trial: Any) -> None:
        self.runs[str(trial)] = {"config": trial.config}

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        assert "failed" not in self.runs[str(trial)]
        self.runs[str(trial)]["result"] = result

    def log_trial_end(self, trial: Any, failed: bool) -> None:
        self.runs[str(trial)]["failed"] = failed


def _pretend_installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: n == name or real(n, *a))


def test_mlflow_gets_a_run_a_job_through_rays_callback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _pretend_installed(monkeypatch, "mlflow")
    monkeypatch.setattr("ray.air.integrations.mlflow.MLflowLoggerCallback", FakeCallback)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    track("mlflow", tmp_path, MADE, begun=5)
    runs = FakeCallback.runs
    assert runs.pop("options") == {"experiment_name": "mine-0123abcd", "tags": {"niwaki": "mine-0123abcd"}}
    assert list(runs) == [o.key for o in MADE]
    for step, outcome in enumerate(MADE, start=6):
        assert runs[outcome.key] == {
            "config": settings(outcome), "failed": not outcome.complete,
            "result": {**figures(outcome), "training_iteration": step},
        }  # fmt: skip


def test_wandb_gets_a_run_a_job_through_rays_integration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs: list[Any] = []

    class Run(SimpleNamespace):
        def log(self, facts: dict[str, Any]) -> None:
            self.logged.append(facts)

        def finish(self, exit_code: int) -> None:
            self.codes.append(exit_code)

    def begin(config: dict[str, Any], **options: Any) -> Run:
        runs.append(Run(config=config, options=options, logged=[], codes=[]))
        return runs[-1]

    _pretend_installed(monkeypatch, "wandb")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Settings=lambda silent: None))
    monkeypatch.setattr("ray.air.integrations.wandb.setup_wandb", begin)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    track("wandb", tmp_path, MADE, begun=5)
    for step, (run, outcome) in enumerate(zip(runs, MADE, strict=True), start=6):
        assert run.config == settings(outcome)
        assert run.logged == [{**figures(outcome), "outcome": step}]
        assert run.codes == [0 if outcome.complete else 1]
        assert run.options["trial_id"] == f"0123abcd-{outcome.key}"
        assert (run.options["group"], run.options["project"]) == ("mine-0123abcd", "theirs")
        assert run.options["dir"] == str(tmp_path)


def test_mlflow_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    track("mlflow", tmp_path, MADE[:3])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mine-0123abcd")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {o.key for o in MADE[:3]}
    for outcome in MADE[:3]:
        run = runs[outcome.key]
        assert run.info.status == ("FINISHED" if outcome.complete else "FAILED")
        assert figures(outcome).items() <= run.data.metrics.items()
        assert run.data.params["kind"] == outcome.job.kind


def test_wandb_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    track("wandb", tmp_path, MADE[:2])
    written = {file.stem.removeprefix("run-0123abcd-") for file in tmp_path.glob("wandb/offline-run-*/*.wandb")}
    assert written == {o.key for o in MADE[:2]}


def test_settings_hold_all_choices_of_a_candidate() -> None:
    for outcome in MADE:
        asked, job, candidate = settings(outcome), outcome.job, outcome.job.candidate
        assert set(asked.pop("skipped", "").split()) == candidate.skipped
        chosen = {f"width/{k}": v for k, v in candidate.widths.items()}
        chosen |= {f"sparsity/{k}": v for k, v in candidate.sparsity.items()}
        assert asked == {"kind": job.kind, "rung": job.rung, "level": job.level, "seed": job.seed} | chosen


def test_names_and_missing_packages_are_checked_before_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert registry.names("niwaki.search.trackers") == ["mlflow", "tensorboard", "wandb"]
    with pytest.raises(InputError, match=r"run\.trackers: .*'tensorbord'; did you mean 'tensorboard'"):
        check_choices(tiny(tmp_path, "run.trackers=[tensorbord]"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None)
    for name in registry.names("niwaki.search.trackers"):
        needed = tracker_needs(name)
        with pytest.raises(InputError, match=f"run.trackers: '{name}' needs {needed}.*pip install {needed}"):
            check_choices(tiny(tmp_path, f"run.trackers=[{name}]"))


def tracker_needs(name: str) -> str:
    return {"tensorboard": "tensorboardX"}.get(name, name)
