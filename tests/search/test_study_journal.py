"""Optuna's journal file after a crash: cut, garbled, left locked, or written to a full disk."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from niwaki.search.aside import Aside, Told
from niwaki.search.events import Event, Notice, TrialFinished
from niwaki.search.outcome import Outcome
from niwaki.search.store import RunStore
from niwaki.search.study import RunStudy
from niwaki.search.study_journal import cut_torn_line
from tests.search.made_up import outcomes
from tests.search.studies import add, run_with, setup, storage_of, summary, told, trials_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunStore, list[Outcome], bytes]:
    made = outcomes(6)
    store = run_with(tmp_path_factory.mktemp("whole") / "run", made)
    RunStudy(setup(store))
    return store, made, (store.folder / "study.journal").read_bytes()


@pytest.mark.parametrize("share", [i / 24 for i in range(24)])
def test_a_file_cut_anywhere_is_completed_from_the_journal(
    whole: tuple[RunStore, list[Outcome], bytes], share: float
) -> None:
    store, made, content = whole
    file = store.folder / "study.journal"
    file.write_bytes(content[: int(share * len(content))])
    RunStudy(setup(store))
    trials = trials_of(storage_of(file))
    assert len(trials) == len(made)
    assert set(told(trials)) == summary(made)
    assert optuna.load_study(study_name="mine", storage=storage_of(file)).metric_names
    assert not (store.folder / "study.journal.unreadable").exists()


@pytest.mark.parametrize("damage", [b"\0" * 40, b'{"op_code": 4}\n', b'[1]\n{"x"', b"\xff\n\n"])
def test_a_file_with_garbage_inside_is_set_aside_and_written_anew(
    whole: tuple[RunStore, list[Outcome], bytes], damage: bytes
) -> None:
    store, made, content = whole
    file, aside = store.folder / "study.journal", store.folder / "study.journal.unreadable"
    middle = content.index(b"\n", len(content) // 2) + 1
    broken = content[:middle] + damage + content[middle:]
    file.write_bytes(broken)
    with pytest.raises(Exception):  # noqa: B017, PT011 - the damage is one that Optuna does not read over
        storage_of(file)
    RunStudy(setup(store))
    assert set(told(trials_of(storage_of(file)))) == summary(made)
    assert aside.read_bytes() == broken
    aside.unlink()


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("lines", [0, 1, 2])
def test_only_what_follows_the_last_newline_is_cut(tmp_path: Path, size: int, lines: int) -> None:
    kept = b"x" * 70_000 + b"\n" if lines == 1 else b"\n" * lines
    (tmp_path / "file").write_bytes(kept + b"y" * size)
    cut_torn_line(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == kept


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = outcomes(2)
    store = run_with(Path("run"), made)
    RunStudy(setup(store))
    lock = tmp_path / "run" / "study.journal.lock"
    os.symlink(tmp_path / "run" / "study.journal", lock)
    RunStudy(setup(store)).tell(outcomes(1, seed=5)[0])
    assert len(trials_of(storage_of(tmp_path / "run" / "study.journal"))) == 3
    assert not lock.is_symlink()


def test_a_disk_that_was_full_for_a_while_costs_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, events, calls = outcomes(4), list[Event](), list[int]()
    store = run_with(tmp_path / "run", [])
    real = JournalFileBackend.append_logs

    def full_at_the_third_trial(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        calls.append("user_attrs" in logs[0])
        if sum(calls) != 3:
            return real(self, logs)
        calls.append(1)
        with (store.folder / "study.journal").open("a") as file:
            file.write('{"op_code": 4, "wor')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JournalFileBackend, "append_logs", full_at_the_third_trial)
    with Told(events.append, (Aside("run.study", partial(RunStudy, setup(store)), pause=0),), []) as tell:
        for outcome in made:
            add(store, [outcome])
            tell(TrialFinished("search", outcome, 1, 4))
    assert [e.message for e in events if isinstance(e, Notice)] == [
        "run.study: OSError: [Errno 28] No space left on device; the run goes on without"
    ]
    assert set(told(trials_of(storage_of(store.folder / "study.journal")))) == summary(made)
