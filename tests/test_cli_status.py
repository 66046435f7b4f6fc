"""``niwaki status`` as it is typed: what it prints of a running, a stopped and a finished run, and what it refuses."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from niwaki import cli
from niwaki.cli_status import picture
from niwaki.search.config import to_yaml
from niwaki.search.files import write_json_atomic
from niwaki.search.outcome import Job, Outcome
from niwaki.search.progress import Progress, Running
from niwaki.search.status import status
from niwaki.search.store import RunStore
from niwaki.spaces import Candidate, Cost
from tests.search.tiny import tiny

JOBS = [Job(Candidate({"conv": n}), "search", 0, 256, 7, level=1.0 if n % 2 else 0.5) for n in range(1, 30)]
COST = Cost(123_456_789, 12_345_678, 98_765_432, 123.456)


def call(*arguments):
    """Exit code, stdout and stderr of one command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit_:
        cli.main([str(a) for a in arguments])
    return exit_.value.code, out.getvalue(), err.getvalue()


def failed(job, error):
    return Outcome(job, COST, status="failed", error=error)


@pytest.fixture
def store(tmp_path):
    """One trial done, one failed; when it was last heard of, a third was running."""
    store = RunStore.create(tmp_path / "run", to_yaml(tiny(tmp_path / "run")))
    with store.lock():
        store.append(Outcome(JOBS[0], COST, {"accuracy": 0.9173}, images=256, seconds=30.0))
        store.append(failed(JOBS[1], "Traceback:\n  ...\nValueError: [red]too small[/red] \x1b[31m<b>"))
        log = store.trial(JOBS[1].key) / "log.txt"
        log.parent.mkdir(parents=True)
        log.write_text("long story\n")
        driver = (store.folder / "LOCK").read_text().strip()
        at = Progress(
            1000.0, 1100.0, 1100.0, "search", "search, rung 1", 2, 4, 1000.0,
            {JOBS[2].key: Running(64, 256, 1090.0)}, ((1000.0, 0), (1050.0, 256), (1100.0, 256)), 2, None, driver,
        )  # fmt: skip
        write_json_atomic(store.folder / "progress.json", asdict(at))
    return store


def shown(found, width=100):
    out = Console(file=io.StringIO(), width=width, highlight=False)
    for part in picture(found, 1100.0):
        out.print(part)
    return out.file.getvalue()


def test_a_running_run(store):
    with store.lock():
        found = status(store.folder, now=1100.0)
        code, out, err = call("status", store.folder)
    assert code == 0, err
    assert out.splitlines()[0].startswith("tiny: running for ") or out.splitlines()[0].startswith("run: running for ")
    text = shown(found)
    lines = text.splitlines()
    assert "running for 1 min 40 s (process" in lines[0]
    assert lines[1] == "phase: search, rung 1, 2 of 4, 1 min 40 s so far"
    assert ["search,", "rung", "1", "256", "4", "1", "1", "1", "1"] in [line.split() for line in lines]
    assert [JOBS[2].key, "256", "25%", "10", "s"] in [line.split() for line in lines]
    assert "91.73 %" in text
    assert "rate: 72 trials and 18.4 k training images an hour (the latest 2 trials, 1 min 40 s)" in lines
    assert f"failed: {JOBS[1].key}: ValueError: [red]too small[/red]  [31m<b>" in lines
    assert "left: about" in text
    assert "until" in text
    assert "\x1b" not in text
    assert "resume" not in text


def test_a_stopped_run_says_how_to_go_on(store):
    code, out, err = call("status", store.folder)
    assert (code, err) == (0, "")
    joined = " ".join(out.split())
    assert "stopped (its process ended without a word" in joined
    assert f"niwaki resume {store.folder}" in out.replace("\n", "")
    assert str(store.trial(JOBS[1].key) / "log.txt") in out.replace("\n", "")
    assert "until" not in out


def test_json_is_alone_on_stdout_and_says_the_same(store):
    code, out, err = call("status", store.folder, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data == json.loads(json.dumps(status(store.folder).to_json()))
    assert data["schema"] == 1
    assert set(data) == {
        "schema", "folder", "name", "state", "driver", "ended", "seconds", "phase", "trials", "running", "best", "rate",
        "forecast", "failures", "notes",
    }
    assert data["trials"][0] == {
        "name": "search, rung 1", "images": 256, "planned": 4, "done": 1, "running": 0, "failed": 1, "open": 2,
    }
    assert data["rate"] == {
        "trials": 2, "images": 512, "seconds": 100.0, "trials_per_hour": 72.0, "images_per_hour": 18432.0,
    }
    assert data["best"][0]["cost"]["bytes"] == COST.bytes
    assert data["failures"][0]["log"] == str(store.trial(JOBS[1].key) / "log.txt")


def test_a_finished_run_points_to_its_front(store):
    (store.folder / "front.json").write_text("{}")
    (store.folder / "report.html").write_text("")
    _, out, _ = call("status", store.folder)
    assert "finished" in out.splitlines()[0]
    assert "resume" not in out
    assert f"niwaki front {store.folder}" in out.replace("\n", "")


def test_many_failures_and_running_trials_are_cut_short(store):
    found = status(store.folder, now=1100.0)
    many = replace(found, failures=found.failures * 25, state="running")
    lines = shown(many).splitlines()
    assert "failed: 15 earlier ones, all with --json" in lines
    assert sum(line.startswith(f"failed: {JOBS[1].key}") for line in lines) == 10
    with store.lock():
        running = status(store.folder, now=1100.0).running * 13
    assert "and 3 more" in shown(replace(found, running=running))


def test_the_tables_fit_100_columns(store):
    with store.lock():
        text = shown(status(store.folder, now=1100.0))
    tables = [line for line in text.splitlines() if line.startswith(" ") and "/" not in line]
    assert tables
    assert "…" not in text
    assert max(map(len, tables)) <= 100


@pytest.mark.parametrize("make", ["nothing", "file", "empty"])
def test_what_is_no_run_is_exit_2_and_stays_as_it_was(tmp_path, make):
    place = tmp_path / make
    if make == "file":
        place.write_text("mine")
    elif make == "empty":
        place.mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call("status", place)
    assert (code, out) == (2, "")
    assert str(place) in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_journal_is_exit_2_and_named_with_its_line(store):
    with store.journal.open("ab") as file:
        file.write(b"{}\n")
    code, out, err = call("status", store.folder)
    assert (code, out) == (2, "")
    assert "journal.jsonl, line 3" in err
