"""``progress.json``: equal to a slow recount of the events, whole, written rarely, and never in the way."""

import json
import threading
import time
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.search import events, progress
from niwaki.search.outcome import Job, Outcome
from niwaki.search.progress import Progress, ProgressFile, Running, State, read_progress
from niwaki.spaces import Candidate, Cost, InputError

JOBS = [Job(Candidate({"conv": n}), "search", 0, 100 * n, 7) for n in range(1, 6)]


def finished(job):
    return events.TrialFinished("search", Outcome(job, Cost(1, 2, 3), {"accuracy": 0.5}), 1, 9)


def wait_for(condition):
    """A generous limit: only a broken writer reaches it."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("nothing was written for a minute")


STEPS = st.lists(st.tuples(st.sampled_from("spf"), st.sampled_from(JOBS), st.integers(0, 100)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_state_equals_a_recount_of_all_events(steps):
    now = [0.0]
    state = State(lambda: now[0])
    story = []
    for kind, job, done in steps:
        now[0] += 1.0
        event = {"s": events.TrialStarted(job), "p": events.TrialProgress(job, done, 100), "f": finished(job)}[kind]
        state.add(event)
        story.append((now[0], kind, job, done))

    def running(upto):
        """Jobs whose last start lies after their last end, with what they said since."""
        found = {}
        for job in JOBS:
            mine = [s for s in story[:upto] if s[2] == job]
            starts = [i for i, s in enumerate(mine) if s[1] == "s"]
            ends = [i for i, s in enumerate(mine) if s[1] == "f"]
            if starts and starts[-1] > max(ends, default=-1):
                said = [s[3] for s in mine[starts[-1] :] if s[1] == "p"]
                found[job.key] = Running(*((said[-1], 100) if said else (0, job.images)), mine[starts[-1]][0])
        return found

    seen = state.progress()
    assert dict(seen.running) == running(len(story))
    assert seen.at_once == max((len(running(i)) for i in range(len(story) + 1)), default=0)
    ends = [(t, job.images) for i, (t, kind, job, _) in enumerate(story) if kind == "f" and job.key in running(i)]
    first = [(t, 0) for t, kind, _, _ in story if kind == "s"][:1]
    assert list(seen.recent) == [*first, *ends]
    assert seen.changed == (story[-1][0] if story else 0.0)


def test_a_worker_that_knows_no_total_yet_does_not_hide_the_jobs():
    state = State(lambda: 5.0)
    state.add(events.TrialStarted(JOBS[2]))
    state.add(events.TrialProgress(JOBS[2], 0, 0))
    assert dict(state.progress().running) == {JOBS[2].key: Running(0, 300, 5.0)}


def test_only_the_latest_ends_are_kept():
    state = State(lambda: 5.0)
    for _ in range(200):
        state.add(events.TrialStarted(JOBS[0]))
        state.add(finished(JOBS[0]))
    assert len(state.progress().recent) == 65


def test_phases_and_their_steps_are_kept():
    now = [10.0]
    state = State(lambda: now[0])
    state.add(events.PhaseStarted("teacher", 4000))
    now[0] = 12.0
    state.add(events.PhaseProgress("teacher", 1000, 4000))
    seen = state.progress()
    assert (seen.phase, seen.done, seen.total, seen.started, seen.changed) == ("teacher", 1000, 4000, 10.0, 12.0)
    state.add(events.PhaseStarted("search", 8, "search, rung 1"))
    seen = state.progress()
    assert (seen.phase, seen.title, seen.done, seen.total, seen.started) == ("search", "search, rung 1", 0, 8, 12.0)


def test_the_file_holds_the_trailing_state_while_the_run_goes_on(tmp_path):
    heard = []
    with ProgressFile(tmp_path, heard.append, every=0.0) as told:
        story = [
            events.PhaseStarted("search", 8, "search, rung 1"), events.TrialStarted(JOBS[3]),
            events.TrialProgress(JOBS[3], 50, 400),
        ]
        for event in story:
            told(event)
        wait_for(lambda: (p := read_progress(tmp_path)) is not None and p.running)
        wait_for(lambda: read_progress(tmp_path).running[JOBS[3].key].done == 50)
        seen = read_progress(tmp_path)
        assert (seen.phase, seen.total, seen.at_once, seen.ended) == ("search", 8, 1, None)
    assert heard == story
    assert read_progress(tmp_path).ended == "finished"
    assert [p.name for p in tmp_path.iterdir()] == ["progress.json"]


def test_a_storm_of_events_is_written_once_and_at_the_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(progress, "write_json_atomic", lambda path, data: written.append(data))
    with ProgressFile(tmp_path, events.ignore, every=3600.0) as told:
        for done in range(500):
            told(events.PhaseProgress("teacher", done, 500))
    assert len(written) <= 2
    assert (written[-1]["done"], written[-1]["ended"]) == (499, "finished")


def test_a_full_disk_is_one_notice_and_not_the_end(tmp_path, monkeypatch):
    tried = threading.Event()

    def refuse(path, data):
        tried.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "write_json_atomic", refuse)
    heard = []
    with ProgressFile(tmp_path, heard.append, every=0.0) as told:
        assert tried.wait(60)
        wait_for(lambda: told(events.PhaseStarted("search", 8)) or any(isinstance(e, events.Notice) for e in heard))
        told(events.PhaseStarted("finals", 2))
    notices = [e for e in heard if isinstance(e, events.Notice)]
    assert len(notices) == 1
    assert "No space left" in notices[0].message
    assert heard[-1] == events.PhaseStarted("finals", 2)
    assert read_progress(tmp_path) is None


@pytest.mark.parametrize(("error", "says"), [
    (KeyboardInterrupt(), "interrupted"), (RuntimeError("no finished model\nmore"), "RuntimeError: no finished model"),
    (OSError(), "OSError"),
])  # fmt: skip
def test_how_a_run_ended_is_kept(tmp_path, error, says):
    with pytest.raises(type(error)), ProgressFile(tmp_path, events.ignore):
        raise error
    assert read_progress(tmp_path).ended == says


def test_readers_never_see_half_a_file_or_none(tmp_path):
    with ProgressFile(tmp_path, events.ignore, every=0.0) as told:
        wait_for(lambda: read_progress(tmp_path) is not None)
        read = []
        for done in range(300):
            told(events.PhaseProgress("teacher", done, 500))
            read.append(read_progress(tmp_path))
        wait_for(lambda: read_progress(tmp_path).done == 299)
    assert None not in read
    assert [p.done for p in read] == sorted(p.done for p in read)


GOOD = asdict(Progress(1.0, 3.0, 2.0, "search", "search, rung 1", 1, 8, 1.5, {JOBS[0].key: Running(1, 2, 1.0)},
                       ((1.0, 0), (2.0, 100)), 2, None, "process 1 on x"))  # fmt: skip


def test_what_was_written_is_read_back(tmp_path):
    (tmp_path / "progress.json").write_text(json.dumps(GOOD))
    assert json.loads(json.dumps(asdict(read_progress(tmp_path)))) == json.loads(json.dumps(GOOD))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOOD)), JSON)
def test_a_damaged_value_is_refused_by_name_or_read_well(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("p")
    (folder / "progress.json").write_text(json.dumps(GOOD | {key: value}))
    message = ""
    try:
        found = read_progress(folder)
    except InputError as error:
        message = str(error)
    if message:
        assert f"progress.json: {key}: " in message
    else:
        assert all(0 <= t <= 1e11 for t in (found.session, found.time, found.changed, found.started))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"session": 1}', b"\x00" * 64])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "progress.json").write_bytes(content)
    with pytest.raises(InputError, match=r"progress\.json: "):
        read_progress(tmp_path)


@pytest.mark.parametrize("key", ["../up", "a/b", "", "A", "a\n"])
def test_a_key_cannot_lead_out_of_the_folder(tmp_path, key):
    (tmp_path / "progress.json").write_text(json.dumps(GOOD | {"running": {key: asdict(Running(1, 2, 1.0))}}))
    with pytest.raises(InputError, match="running"):
        read_progress(tmp_path)
