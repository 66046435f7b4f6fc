"""The run as an Optuna study: what it says, readers beside the writer, the dashboard, databases."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from niwaki.search.outcome import Job, Outcome
from niwaki.search.store import RunStore
from niwaki.search.study import RunStudy, distributions, parameters, study_name
from niwaki.spaces.types import Cost, Variable
from tests.search.made_up import SPACE, outcomes
from tests.search.studies import add, run_with, setup, storage_of, summary, told, trials_of

# ---- what it says ---------------------------------------------------------------------------------------------------


def test_every_trial_says_what_its_outcome_says(tmp_path: Path) -> None:
    made = outcomes(40)
    RunStudy(setup(run_with(tmp_path / "run", made)))
    study = optuna.load_study(study_name="mine", storage=storage_of(tmp_path / "run" / "study.journal"))
    assert study.metric_names == ["accuracy", "macs", "size (bytes)"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert study.user_attrs == {"folder": str(tmp_path / "run"), "budget": {"macs": 4e6, "size": 120_000.0}}
    assert len(study.trials) == len(made)
    for trial, o in zip(study.trials, made, strict=True):
        assert trial.state is (TrialState.COMPLETE if o.complete else TrialState.FAIL)
        candidate = o.job.candidate
        widths = {f"width {group}": width for group, width in candidate.widths.items()}
        depths = {f"depth s{s}": int(SPACE.removable(s) not in candidate.skipped) for s in range(SPACE.stages)}
        sparsity = {f"sparsity {layer}": candidate.sparsity.get(layer, "dense") for layer in SPACE.sparse}
        assert trial.params == widths | depths | sparsity
        facts = {"key": o.key, "kind": o.job.kind, "rung": o.job.rung, "level": o.job.level, "images": o.images,
                 "seconds": o.seconds, "macs": o.cost.macs, "params": o.cost.params, "bytes": o.cost.bytes}
        assert facts.items() <= trial.user_attrs.items()
        assert trial.duration is not None
        assert trial.duration.total_seconds() == pytest.approx(o.seconds, abs=1e-5)
        if o.complete:
            assert trial.values == [o.accuracy, o.cost.macs, o.cost.bytes]
            assert trial.constraints == {"macs": o.cost.macs / 4e6 - 1, "size": o.cost.bytes / 120_000 - 1}
            assert "error" not in trial.user_attrs
        else:
            assert trial.values is None
            assert trial.user_attrs["error"] == f"ValueError: no {o.job.seed}", "one line; the rest is in log.txt"
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_the_best_trials_of_the_study_are_the_front_within_the_budget(tmp_path: Path) -> None:
    made = outcomes(60, seed=3)
    RunStudy(setup(run_with(tmp_path / "run", made)))
    study = optuna.load_study(study_name="mine", storage=storage_of(tmp_path / "run" / "study.journal"))
    fitting = [o for o in made if o.complete and o.cost.macs <= 4e6 and o.cost.bytes <= 120_000]

    def beaten(o: Outcome) -> bool:
        mine = (-o.accuracy, o.cost.macs, o.cost.bytes)
        others = [(-p.accuracy, p.cost.macs, p.cost.bytes) for p in fitting]
        return any(all(a <= b for a, b in zip(p, mine, strict=True)) and p != mine for p in others)

    assert {t.user_attrs["key"] for t in study.best_trials} == {o.key for o in fitting if not beaten(o)}
    assert 0 < len(study.best_trials) < len(fitting) < len(made)


def test_a_retry_stands_beside_the_failure_and_nothing_comes_twice(tmp_path: Path) -> None:
    (first, second) = outcomes(2, failed=0)
    store = RunStore.create(tmp_path / "run", "trials: 8")
    failed = replace(first, metrics={}, status="failed", error="killed")
    study = RunStudy(setup(store))
    for outcome in (failed, failed, first, first, second):
        study.tell(outcome)
    add(store, [failed, first, second])
    again = RunStudy(setup(store))
    expected = [(first.key, "FAIL"), (first.key, "COMPLETE"), (second.key, "COMPLETE")]
    assert told(study.study.trials) == told(again.study.trials) == expected


def test_what_a_proposer_learned_is_no_trial(tmp_path: Path) -> None:
    lesson = Outcome(Job(SPACE.largest(), "learn", 0, 100, 0), Cost(1, 1, 4))
    study = RunStudy(setup(run_with(tmp_path / "run", [lesson])))
    study.tell(lesson)
    assert study.study.trials == []


def test_a_trial_ended_when_its_outcome_was_written(tmp_path: Path) -> None:
    (outcome,) = outcomes(1, failed=0)
    store = RunStore.create(tmp_path / "run", "trials: 8")
    with store.lock():
        store.append(outcome)
    file = store.save_outcome(outcome) / "outcome.json"
    os.utime(file, (1e9, 1e9))
    (trial,) = RunStudy(setup(store)).study.trials
    assert trial.datetime_complete == datetime.fromtimestamp(1e9)


def test_distributions_hold_every_choice_and_name_no_variable_twice() -> None:
    class Uneven:
        variables = (
            Variable("a", "width", (3, 5, 9, 15)), Variable("a", "sparsity", ("0.5", "2:4", "dense")),
            Variable("b", "width", (7,)), Variable("c", "depth", (0, 1)),
        )  # fmt: skip

    found = distributions(Uneven())  # type: ignore[arg-type]
    assert found == {
        "width a": IntDistribution(3, 15, step=2), "sparsity a": CategoricalDistribution(("0.5", "2:4", "dense")),
        "depth c": IntDistribution(0, 1),
    }
    everything = distributions(SPACE)
    for outcome in outcomes(50):
        for name, value in parameters(SPACE, outcome.job.candidate).items():
            assert everything[name]._contains(everything[name].to_internal_repr(value))


def test_a_study_keeps_its_name_and_another_run_gets_another(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    name = study_name(one, "mine")
    assert name.startswith("mine-")
    assert study_name(one, "renamed") == name
    assert study_name(two, "mine") != name
    (one / "study.json").write_text('{"name": 3}')
    assert study_name(one, "mine") not in (name, 3)


# ---- readers beside the writer --------------------------------------------------------------------------------------

READER = """
import json, sys, time, optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.load_study(study_name="mine", storage=JournalStorage(JournalFileBackend(sys.argv[1])))
print("ready", flush=True)
seen, end = [], time.monotonic() + 60
while len(seen) < int(sys.argv[2]) and time.monotonic() < end:
    keys = [t.user_attrs["key"] for t in study.get_trials() if t.state.is_finished() and t.params]
    assert keys[: len(seen)] == seen, "what was read once stays as it was"
    seen = keys
    fresh = optuna.load_study(study_name="mine", storage=JournalStorage(JournalFileBackend(sys.argv[1])))
    assert [t.user_attrs["key"] for t in fresh.get_trials()][: len(seen)] == seen
print(json.dumps(seen))
"""


def test_two_processes_read_while_one_writes(tmp_path: Path) -> None:
    made = outcomes(60)
    store = RunStore.create(tmp_path / "run", "trials: 8")
    study = RunStudy(setup(store))
    command = [sys.executable, "-c", READER, str(store.folder / "study.journal"), str(len(made))]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    for outcome in made:
        study.tell(outcome)
    for reader in readers:
        out, _ = reader.communicate(timeout=90)
        assert reader.returncode == 0
        assert json.loads(out) == [o.key for o in made]


def test_the_dashboard_opens_the_file_while_it_is_written(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    made = outcomes(8)
    states = ["Complete" if o.complete else "Fail" for o in made]
    store = run_with(tmp_path / "run", made[:3])
    study = RunStudy(setup(store))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "optuna-dashboard"), "--host", "127.0.0.1", "--port", str(port),
               str(store.folder / "study.journal")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        (listed,) = asked(port, "/api/studies")["study_summaries"]
        assert listed["study_name"] == "mine"
        assert listed["directions"] == ["maximize", "minimize", "minimize"]
        path = f"/api/studies/{listed['study_id']}?after=0"
        assert [t["state"] for t in asked(port, path)["trials"]] == states[:3]
        for outcome in made[3:]:
            study.tell(outcome)
        while len(shown := asked(port, path)["trials"]) < len(made):  # it looks anew every few seconds
            time.sleep(0.2)
        assert [t["state"] for t in shown] == states
        assert [a["value"] for t in shown for a in t["user_attrs"] if a["key"] == "key"] == [o.key for o in made]
    finally:
        server.terminate()
        server.wait(30)


def asked(port: int, path: str) -> Any:
    """What the server answers, once it does."""
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


# ---- databases: sqlite here, PostgreSQL in test_study_postgres.py ---------------------------------------------------


def test_two_runs_share_a_database_and_each_is_completed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/team.db"
    one, two = outcomes(5), outcomes(4, seed=9)
    first, second = run_with(tmp_path / "one", one[:2]), run_with(tmp_path / "two", two)
    RunStudy(setup(first, url, "first")).close()
    RunStudy(setup(second, url, "second")).close()
    add(first, one[2:])
    study = RunStudy(setup(first, url, "first"))
    study.tell(one[-1])
    study.close()
    storage = RDBStorage(url)
    assert told(trials_of(storage, "first")) == [(o.key, "COMPLETE" if o.complete else "FAIL") for o in one]
    assert set(told(trials_of(storage, "second"))) == summary(two)
    assert trials_of(storage, "first")[0].constraints.keys() == ({"macs", "size"} if one[0].complete else set())
    assert not (first.folder / "study.journal").exists()
