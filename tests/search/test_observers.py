"""Whole runs with observers: readable while they go, rebuilt on resume, and none the worse for observers that fail."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from niwaki.search.controller import resume, search
from niwaki.search.events import Event, Notice, TrialFinished
from niwaki.search.store import RunStore
from tests.search.tiny import tiny

SHORT = ("teacher.train.images=256", "search.trials=2", "search.members=1", "train.rungs=[128]", "export.formats=[]")


def keys_in(file: Path) -> list[str]:
    """Of the finished trials, as any other program reads them; none while there is no study."""
    storage = JournalStorage(JournalFileBackend(str(file)))
    (name,) = optuna.get_all_study_names(storage) or [None]
    return [t.user_attrs["key"] for t in optuna.load_study(study_name=name, storage=storage).trials] if name else []


def test_a_run_is_open_to_readers_while_it_goes_and_rebuilt_on_resume(tmp_path: Path) -> None:
    folder, first = tmp_path / "run", list[str]()
    file = folder / "study.journal"

    def watch(event: Event) -> None:
        end = time.monotonic() + 60
        while isinstance(event, TrialFinished) and not first and time.monotonic() < end:
            first.extend(keys_in(file))

    search(tiny(folder, *SHORT, "run.trackers=[tensorboard]"), watch)
    keys = [o.key for o in RunStore.open(folder).outcomes()]
    assert first == keys[:1], "the first trial is there for another reader before the second begins"
    assert keys_in(file) == keys
    (events,) = (folder / "tensorboard").iterdir()
    before = events.read_bytes()
    file.unlink()
    resume(folder)
    assert keys_in(file) == keys
    assert before == events.read_bytes(), "a tracker is not told twice"


def test_a_run_whose_observers_all_fail_ends_as_one_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    events: list[Event] = []
    monkeypatch.setattr("tensorboardX.SummaryWriter.add_scalar", offline)
    url = f"sqlite:///{tmp_path}/no/such/folder/team.db"
    config = tiny(tmp_path / "run", *SHORT, f"run.study={url}", "run.trackers=[tensorboard, tensorboard]")
    assert search(config, events.append).front
    assert sorted(e.message for e in events if isinstance(e, Notice)) == [
        "run.study: OperationalError: unable to open database file; the run goes on without",
        "tracker tensorboard: ConnectionError: offline; the run goes on without",
    ]
