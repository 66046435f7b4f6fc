"""What a run shows while it works: plain lines in a log, a picture of at most 80 columns on a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from niwaki.console import Watcher, running
from niwaki.search import events
from niwaki.search.outcome import Job, Outcome
from niwaki.search.status import reason
from niwaki.spaces import Candidate, Cost


def _outcome(number, error=None):
    job = Job(Candidate({"conv": number}), "search", 0, 4000, 7)
    cost = Cost(123_456_789, 12_345_678, 98_765_432, 123.456)
    if error:
        return Outcome(job, cost, {}, "failed", error, 0, 3.2)
    return Outcome(job, cost, {"accuracy": 0.9173}, images=90_000, seconds=754.0)


def _story():
    """Events of a run that has every kind of them."""
    yield events.RunStarted(Path("runs/x"), "x", resumed=True, kept=3)
    yield events.PhaseStarted("teacher", 6000)
    yield events.PhaseProgress("teacher", 3000, 6000)
    yield events.PhaseFinished("teacher", 12.0, "98.1 % on validation")
    yield events.BudgetsResolved(Cost(40_000_000, 1000, 4000, 2.0), {"latency": 1.0, "macs": 20e6})
    yield events.PhaseStarted("search", 14, "search, rung 1")
    for done in range(1, 13):
        yield events.TrialStarted(_outcome(done).job)
        yield events.TrialFinished("search", _outcome(done), done, 14)
    yield events.TrialFinished("search", _outcome(13, "Traceback:\n  ...\nValueError: too small"), 13, 14)
    yield events.TrialStarted(_outcome(14).job)
    yield events.Notice("two latencies are noisy")


def _tell(terminal):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, highlight=False, legacy_windows=False)
    with Watcher(console) as watcher:
        for event in _story():
            watcher(event)
        picture = Console(file=io.StringIO(), width=80, highlight=False)
        picture.print(watcher._view())
        watcher(events.RunFinished(Path("runs/x"), 1, 75.0))
    return watcher, out.getvalue(), picture.file.getvalue()


def test_a_log_gets_one_plain_line_an_event():
    watcher, log, _ = _tell(terminal=False)
    lines = log.splitlines()
    assert "\x1b" not in log
    assert lines[0] == "continuing x in runs/x, 3 finished trials kept"
    assert "teacher: 98.1 % on validation (12 s)" in lines
    assert "budget: latency at most 1.00 ms (teacher 2.00 ms)" in lines
    assert "budget: macs at most 20.0 M (teacher 40.0 M)" in lines
    key = _outcome(12).job.candidate.key[:6]
    assert (
        f"search, rung 1 12/14: search {key} rung 1: 91.73 % after 90.0 k images; 123 M MACs, 98.8 MB, 123 ms "
        "(12 min 34 s)"
    ) in lines
    assert any(line.endswith("failed: ValueError: too small") for line in lines)
    assert lines[-1] == "done in 1 min 15 s: 1 model on the front, in runs/x"
    assert (watcher.finished, watcher.folder) == (13, "runs/x")


def test_the_picture_shows_the_latest_trials_within_80_columns():
    _, _, picture = _tell(terminal=True)
    lines = picture.splitlines()
    assert max(map(len, lines)) <= 80
    shown = [line for line in lines if line.startswith(" search ")]
    assert len(shown) == 10
    assert "failed" in shown[-1]
    assert "…" not in picture
    assert lines[-2] == " 1 running"
    assert "search, rung 1" in lines[-1]
    assert "13/14" in lines[-1]


def test_failures_are_told_on_a_terminal_too():
    _, screen, _ = _tell(terminal=True)
    assert "ValueError: too small" in screen
    assert "note: two latencies are noisy" in screen


@pytest.mark.parametrize(("error", "expected"), [("a\nb\n", "b"), ("only", "only")])
def test_the_reason_is_the_last_line(error, expected):
    assert reason(_outcome(1, error)) == expected


def test_the_picture_shows_how_far_running_trials_are_and_only_those():
    out = Console(file=io.StringIO(), width=80, force_terminal=True)
    one, two, three = (_outcome(n) for n in (1, 2, 3))
    with Watcher(out) as watcher:
        for event in (
            events.PhaseStarted("search", 3, "search, rung 1"),
            events.TrialStarted(one.job), events.TrialStarted(two.job),
            events.TrialProgress(one.job, 1000, 4000), events.TrialProgress(three.job, 9, 10),
            events.TrialFinished("search", three, 1, 3),  # one that an earlier session had finished
        ):
            watcher(event)
        picture = Console(file=io.StringIO(), width=80, highlight=False)
        picture.print(watcher._view())
        assert f" 2 running: search {one.job.candidate.key[:6]} rung 1 25%\n" in picture.file.getvalue()
        watcher(events.TrialFinished("search", one, 2, 3))
        picture.print(watcher._view())
        assert " 1 running\n" in picture.file.getvalue()


def test_the_line_of_running_trials_fits_80_columns():
    shares = [f"uniform {n:06d} 100%" for n in range(50)]
    assert len(running(shares)) <= 80
    assert running(["", "", ""]) == " 3 running"


def test_a_log_gets_no_line_for_every_step_of_a_trial():
    out = io.StringIO()
    with Watcher(Console(file=out, width=80)) as watcher:
        watcher(events.TrialStarted(_outcome(1).job))
        watcher(events.TrialProgress(_outcome(1).job, 1000, 4000))
    assert out.getvalue() == ""
