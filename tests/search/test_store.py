"""The run folder survives kills, refuses second drivers and other people's folders."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from niwaki.search.files import atomic, read_tensors, write_json_atomic, write_tensors_atomic
from niwaki.search.outcome import Job, Outcome
from niwaki.search.store import RunStore
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Candidate, Cost


def outcome(width: int, *, failed: bool = False) -> Outcome:
    job = Job(Candidate({"g": width}), "search", 0, 10, 1)
    if failed:
        return Outcome(job, Cost(1, 2, 3), status="failed", error="boom")
    return Outcome(job, Cost(1, 2, 3, 0.5), {"accuracy": 0.25}, images=10, seconds=1.0)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "run", "seed: 1\n")


def test_what_is_appended_is_read_back_in_order(store: RunStore) -> None:
    done = [outcome(3), outcome(1, failed=True), outcome(2)]
    with store.lock():
        assert all(store.append(o) for o in done)
    again = RunStore.open(store.folder)
    assert again.outcomes() == done
    assert again.config.read_text() == "seed: 1\n"


def test_create_refuses_what_is_there_and_changes_nothing(store: RunStore, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match="niwaki resume"):
        RunStore.create(store.folder, "seed: 2\n")
    assert {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()} == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file in the way"):
        RunStore.create(tmp_path / "file", "")
    (tmp_path / "empty").mkdir()
    RunStore.create(tmp_path / "empty", "")


def test_open_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml is missing"):
        RunStore.open(tmp_path / "nothing")


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_ignored_and_not_glued_to_the_next(store: RunStore, cut: int) -> None:
    with store.lock():
        store.append(outcome(1))
        store.append(outcome(2))
    os.truncate(store.journal, store.journal.stat().st_size - cut)
    assert store.outcomes() == [outcome(1)]
    with store.lock():
        store.append(outcome(3))
    assert store.outcomes() == [outcome(1), outcome(3)]


def test_a_broken_line_in_the_middle_names_file_and_line(store: RunStore) -> None:
    with store.lock():
        for width in (1, 2, 3):
            store.append(outcome(width))
    lines = store.journal.read_text().splitlines(keepends=True)
    store.journal.write_text(lines[0] + lines[1][:50] + "\n" + lines[2])
    with pytest.raises(InputError, match=r"journal\.jsonl, line 2"):
        store.outcomes()
    data = json.loads(lines[1])
    del data["cost"]["macs"]
    store.journal.write_text(lines[0] + json.dumps(data) + "\n" + lines[2])
    with pytest.raises(InputError, match="line 2: cost: 'macs' is missing"):
        store.outcomes()


def test_a_job_counts_once_and_a_retry_supersedes_a_failure(store: RunStore) -> None:
    with store.lock():
        assert store.append(outcome(1, failed=True))
        assert store.append(outcome(1))
        assert not store.append(outcome(1))
        assert not store.append(outcome(1, failed=True))
    assert store.outcomes() == [outcome(1)]


def test_adopt_brings_in_what_a_stopped_driver_did_not_record(store: RunStore) -> None:
    with store.lock():
        store.append(outcome(1))
        store.append(outcome(4, failed=True))
    for width in (3, 1, 2, 4):
        store.save_outcome(outcome(width))
    (store.folder / "trials" / "search-0-begun-1").mkdir()
    with store.lock():
        assert store.adopt() == [outcome(3), outcome(2), outcome(4)]
        assert store.adopt() == []
    assert store.outcomes() == [outcome(1), outcome(4), outcome(3), outcome(2)]


def test_adopt_names_the_file_it_cannot_read(store: RunStore) -> None:
    folder = store.save_outcome(outcome(1))
    folder.rename(folder.with_name("search-0-other-1"))
    with store.lock(), pytest.raises(InputError, match=r"search-0-other-1.*belongs to job"):
        store.adopt()
    (store.folder / "trials" / "search-0-other-1" / "outcome.json").write_text("{")
    with store.lock(), pytest.raises(InputError, match=r"search-0-other-1.*not readable as JSON"):
        store.adopt()


def test_writing_needs_the_lock(store: RunStore) -> None:
    with pytest.raises(RuntimeError, match="lock"):
        store.append(outcome(1))


def test_a_second_driver_is_refused(store: RunStore) -> None:
    with store.lock(), pytest.raises(InputError, match=f"process {os.getpid()} on"), RunStore(store.folder).lock():
        pass
    with RunStore(store.folder).lock():
        pass


def test_kill_9_frees_the_lock_and_keeps_what_was_written(store: RunStore) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from niwaki.search.store import RunStore
        from tests.search.test_store import outcome
        store = RunStore.open(sys.argv[1])
        with store.lock():
            store.append(outcome(1))
            store.save_outcome(outcome(2))
            print("ready", flush=True)
            time.sleep(60)
        """
    )
    root = Path(__file__).parents[2]
    driver = subprocess.Popen([sys.executable, "-c", script, str(store.folder)], stdout=subprocess.PIPE, cwd=root)
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline() == b"ready\n"
        with pytest.raises(InputError, match=f"process {driver.pid} on"), store.lock():
            pass
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stdout.close()
    with store.lock():
        assert store.adopt() == [outcome(2)]
    assert store.outcomes() == [outcome(1), outcome(2)]


@pytest.mark.parametrize("key", ["", "..", "../up", "a/b", "/etc", "A", "a b", ".hidden", "a\n", "x" * 101, "-rf"])
def test_keys_cannot_lead_out_of_the_folder(store: RunStore, key: str) -> None:
    with pytest.raises(ValueError, match="trial key"):
        store.trial(key)


def test_atomic_files_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(TypeError):
        write_tensors_atomic(tmp_path / "t.safetensors", {"a": torch.ones(1)}, {"key": 5})  # type: ignore[dict-item]
    with contextlib.suppress(KeyboardInterrupt), atomic(path) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["data.json"]


def test_tensors_come_back_as_they_were_also_views_and_tied_ones(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "tied": base, "column": base[:, 1], "row": base[1], "t": base.T, "n": torch.tensor(5)}
    write_tensors_atomic(tmp_path / "t.safetensors", tensors)
    back = read_tensors(tmp_path / "t.safetensors")
    assert set(back) == set(tensors)
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items())


def test_broken_tensor_files_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(InputError, match=r"bad\.safetensors: not readable"):
        read_tensors(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="no such file"):
        read_tensors(tmp_path / "none.safetensors")
