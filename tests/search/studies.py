"""Run folders with made-up outcomes, and their studies as other programs read them: for the tests of studies."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from niwaki.search.costing import Limits
from niwaki.search.outcome import Outcome
from niwaki.search.store import RunStore
from niwaki.search.study import StudySetup
from tests.search.made_up import SPACE

LIMITS = Limits({"macs": 4e6, "size": 120_000.0}, {})


def run_with(folder: Path, made: list[Outcome]) -> RunStore:
    """A run folder whose journal holds ``made``."""
    store = RunStore.create(folder, "trials: 8")
    add(store, made)
    return store


def add(store: RunStore, made: list[Outcome]) -> None:
    with store.lock():
        for outcome in made:
            assert store.append(outcome)


def setup(store: RunStore, url: str | None = None, name: str = "mine") -> StudySetup:
    return StudySetup(store, SPACE, LIMITS, name, url)


def storage_of(file: Path) -> BaseStorage:
    """The journal file as any other program opens it."""
    return JournalStorage(JournalFileBackend(str(file)))


def trials_of(storage: BaseStorage, name: str = "mine") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=storage).trials


def summary(made: list[Outcome]) -> set[tuple[str, str]]:
    return {(o.key, "COMPLETE" if o.complete else "FAIL") for o in made}


def told(trials: list[optuna.trial.FrozenTrial]) -> list[tuple[str, str]]:
    return [(t.user_attrs["key"], t.state.name) for t in trials]
