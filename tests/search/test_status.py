"""Where a run stands: a real small search watched from inside, stopped, killed, resumed and finished."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import pytest

from niwaki.search import controller, events
from niwaki.search.config import to_yaml
from niwaki.search.files import write_json_atomic
from niwaki.search.outcome import Job, Outcome
from niwaki.search.progress import Progress, Running, read_progress
from niwaki.search.status import reason, status
from niwaki.search.store import RunStore
from niwaki.spaces import Candidate, Cost, InputError
from tests.search.tiny import tiny

JOBS = [Job(Candidate({"conv": n}), "search", 0, 256, 7, level=1.0 if n % 2 else 0.5) for n in range(1, 9)]


def outcome(job, accuracy=0.5, error=None):
    if error:
        return Outcome(job, Cost(1, 2, 3), status="failed", error=error)
    return Outcome(job, Cost(1, 2, 3), {"accuracy": accuracy}, images=job.images, seconds=10.0)


@pytest.fixture
def store(tmp_path):
    return RunStore.create(tmp_path / "run", to_yaml(tiny(tmp_path / "run")))


def write(store, **values):
    """A session that began at 1000 and wrote last at 1100."""
    defaults = {"session": 1000.0, "time": 1100.0, "changed": 1100.0}
    write_json_atomic(store.folder / "progress.json", asdict(Progress(**defaults | values)))


def driver_of(store):
    return (store.folder / "LOCK").read_text().strip()


class Watch:
    """Compares the status with a recount of the events, from within the driver; stops it at a trial if asked to."""

    def __init__(self, folder, stop_at=None):
        self.folder, self.stop_at = folder, stop_at
        self.ended, self.looks, self.planned = {}, 0, []

    def __call__(self, event):
        if isinstance(event, events.TrialFinished):
            self.ended[event.outcome.key] = event.outcome
            found = status(self.folder)
            assert found.state == "running"
            assert found.driver == driver_of(RunStore(self.folder))
            assert sum(t.done for t in found.trials) == sum(o.complete for o in self.ended.values())
            levels = {o.job.level for o in self.ended.values()}
            assert {b.level: b.accuracy for b in found.best} == {
                level: max(o.accuracy for o in self.ended.values() if o.job.level == level) for level in levels
            }
            self.planned = [(t.name, t.planned, t.images) for t in found.trials]
            self.looks += 1
            if self.looks == self.stop_at:
                raise KeyboardInterrupt


def test_a_search_from_its_first_trial_over_a_stop_to_its_end(tmp_path):
    folder = tmp_path / "run"
    watch = Watch(folder, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        controller.search(tiny(folder), watch)
    found = status(folder)
    assert (found.state, found.ended, found.driver, found.running) == ("stopped", "interrupted", None, ())
    assert found.trials[0].done == 2
    assert found.forecast.open == 2 + 2 + 2
    assert found.forecast.seconds > 0
    assert (found.phase.title, found.phase.total) == ("search, rung 1", 4)
    assert found.rate.trials == 2
    assert found.rate.images == 2 * 256
    first_plan = watch.planned
    watch.stop_at = None
    controller.resume(folder, watch)
    found = status(folder)
    assert (found.state, found.ended, found.phase, found.forecast) == ("finished", None, None, None)
    assert watch.looks >= 2 + 2 + 2 + 2
    assert [(t.name, t.planned, t.images) for t in found.trials] == first_plan  # it came as it had been foretold
    assert all(t.open == t.running == t.failed == 0 for t in found.trials)
    assert read_progress(folder).ended == "finished"


DRIVER = """
    import sys, time
    from pathlib import Path
    from niwaki.search import events
    from niwaki.search.outcome import Job
    from niwaki.search.progress import ProgressFile
    from niwaki.search.store import RunStore
    from niwaki.spaces import Candidate
    store = RunStore(Path(sys.argv[1]))
    with store.lock(), ProgressFile(store.folder, events.ignore, every=0.0) as told:
        told(events.PhaseStarted("search", 4, "search, rung 1"))
        told(events.TrialStarted(Job(Candidate({"conv": 1}), "search", 0, 256, 7)))
        told(events.TrialProgress(Job(Candidate({"conv": 1}), "search", 0, 256, 7), 64, 256))
        time.sleep(0.2)
        while (p := Path(sys.argv[1], "progress.json")) and '"done": 64' not in p.read_text():
            time.sleep(0.01)
        print("ready", flush=True)
        time.sleep(600)
"""


def test_a_run_of_another_process_before_and_after_it_is_killed(store):
    code = [sys.executable, "-c", textwrap.dedent(DRIVER), str(store.folder)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            found = status(store.folder)
            assert found.state == "running"
            assert found.driver.startswith(f"process {process.pid} on ")
            assert [(r.key, r.done, r.total) for r in found.running] == [(JOBS[0].key, 64, 256)]
            assert found.forecast.open == 4 + 2 + 2
            with pytest.raises(InputError, match=f"process {process.pid} on"), store.lock():
                pass  # looking has not taken the lock away
        finally:
            process.send_signal(signal.SIGKILL)
    found = status(store.folder)
    assert (found.state, found.driver, found.running) == ("stopped", None, ())
    assert "without a word" in found.ended
    assert (found.trials[0].name, found.trials[0].running, found.trials[0].open) == ("search, rung 1", 0, 4)
    with store.lock():
        assert status(store.folder).running == ()  # what the killed one was doing is not what this one does


def test_looking_gives_the_lock_back(store):
    with store.lock():
        assert status(store.folder).driver == driver_of(store)
    assert status(store.folder).driver is None
    with store.lock():
        store.append(outcome(JOBS[0]))


def test_looking_changes_nothing(store):
    with store.lock():
        store.append(outcome(JOBS[0], error="boom"))
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in store.folder.rglob("*") if p.is_file()}
    status(store.folder)
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in store.folder.rglob("*") if p.is_file()} == before


def test_running_trials_rate_and_best_by_hand(store):
    with store.lock():
        for job, accuracy in zip(JOBS[:4], (0.4, 0.3, 0.6, 0.2), strict=True):
            store.append(outcome(job, accuracy))
        write(
            store, phase="search", title="search, rung 1", done=4, total=8, started=1000.0, at_once=2,
            running={JOBS[3].key: Running(256, 256, 1050.0), JOBS[4].key: Running(64, 256, 1080.0)},
            recent=((1000.0, 0), (1020.0, 256), (1040.0, 256), (1060.0, 256), (1080.0, 256)), driver=driver_of(store),
        )  # fmt: skip
        found = status(store.folder, now=1100.0)
    assert [r.key for r in found.running] == [JOBS[4].key]  # the other one is in the journal already
    assert found.running[0].seconds == 20.0
    assert {b.level: (b.accuracy, b.trial) for b in found.best} == {1.0: (0.6, JOBS[2].key), 0.5: (0.3, JOBS[1].key)}
    assert (found.rate.trials, found.rate.images, found.rate.seconds) == (4, 1024, 100.0)
    assert found.rate.trials_per_hour == pytest.approx(144)
    assert found.rate.images_per_hour == pytest.approx(144 * 256)
    assert found.seconds == 100.0
    assert found.notes == ()


def test_the_pace_of_a_phase_that_is_not_made_of_trials(store):
    with store.lock():
        write(store, phase="teacher", done=1000, total=4000, started=1050.0, driver=driver_of(store))
        found = status(store.folder, now=1110.0)
    assert (found.phase.seconds, found.phase.left) == (60.0, 180.0)
    assert found.forecast is None
    assert status(store.folder, now=9999.0).phase.left is None  # stopped: it will begin anew
    assert status(store.folder, now=9999.0).phase.seconds == 50.0


def test_a_driver_that_has_gone_silent_is_told(store):
    with store.lock():
        write(store, driver=driver_of(store))
        assert status(store.folder, now=1150.0).notes == ()
        assert "has not written for 900 s" in status(store.folder, now=2000.0).notes[0]


def test_clocks_that_differ_make_no_negative_times(store):
    with store.lock():
        write(
            store, phase="search", total=8, started=1099.0, running={JOBS[0].key: Running(0, 256, 1099.0)},
            recent=((1000.0, 0), (1090.0, 256)), driver=driver_of(store),
        )  # fmt: skip
        found = status(store.folder, now=5.0)
    assert found.phase.seconds >= 0
    assert found.running[0].seconds >= 0
    assert found.rate.seconds > 0


def test_failures_have_one_line_and_their_log(store):
    log = store.trial(JOBS[0].key) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("long story")
    with store.lock():
        store.append(outcome(JOBS[0], error="Traceback:\n  ...\nValueError: \x1b[31mtoo\tsmall"))
        store.append(outcome(JOBS[1], error="the worker process died"))
        store.append(outcome(JOBS[2], error="first try"))
        store.append(outcome(JOBS[2]))
    found = status(store.folder)
    assert [(f.trial, f.reason, f.log) for f in found.failures] == [
        (JOBS[0].key, "ValueError:  [31mtoo small", str(log)), (JOBS[1].key, "the worker process died", None),
    ]
    assert (found.trials[0].done, found.trials[0].failed) == (1, 2)


def test_a_trial_that_is_tried_again_has_not_failed(store):
    with store.lock():
        store.append(outcome(JOBS[0], error="boom"))
        write(store, running={JOBS[0].key: Running(0, 256, 1099.0)}, driver=driver_of(store))
        found = status(store.folder)
    assert (found.failures, found.trials[0].running, found.trials[0].failed) == ((), 1, 0)


def test_a_broken_progress_file_hides_nothing_else(store):
    with store.lock():
        store.append(outcome(JOBS[0]))
    (store.folder / "progress.json").write_bytes(b"\xff{")
    found = status(store.folder)
    assert found.trials[0].done == 1
    assert "progress.json" in found.notes[0]
    assert found.ended == "nothing is known of how it ended"


def test_a_torn_last_line_is_what_a_kill_leaves(store):
    with store.lock():
        store.append(outcome(JOBS[0]))
    with store.journal.open("ab") as file:
        file.write(b'{"job": {"kind"')
    assert status(store.folder).trials[0].done == 1


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.yaml is missing"):
        status(tmp_path / "nothing")
    assert not (Path(tmp_path) / "nothing").exists()


def test_a_reason_is_one_line():
    assert reason(outcome(JOBS[0], error="a\nb\n")) == "b"
    assert reason(outcome(JOBS[0], error=" \n ")) == "no reason given"
