"""Observers beside a run: whatever they do, the run hears of it and goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from niwaki.search.aside import Aside, Told
from niwaki.search.events import Event, Notice, PhaseProgress, RunFinished, TrialFinished
from niwaki.search.outcome import Outcome
from tests.search.made_up import outcomes

MADE = outcomes(6)


class Recorder:
    """Remembers what it was told; raises at the keys and steps it is given."""

    def __init__(self, at_key: str = "", at_close: bool = False) -> None:
        self.heard: list[str] = []
        self.at_key, self.at_close, self.closed = at_key, at_close, False
        self.thread = threading.current_thread()

    def tell(self, outcome: Outcome) -> None:
        if outcome.key == self.at_key:
            raise ValueError(f"cannot take {outcome.key}\nand more")
        self.heard.append(outcome.key)

    def close(self) -> None:
        self.closed = True
        if self.at_close:
            raise OSError("no space left")


def finished(outcome: Outcome) -> TrialFinished:
    return TrialFinished("search", outcome, 1, 1)


def drive(aside: Aside, known: list[Outcome] | None = None, made: list[Outcome] | None = None) -> list[Event]:
    """A run of made-up outcomes to its end; returns the events that its listener saw."""
    events: list[Event] = []
    threads = set[threading.Thread]()

    def listener(event: Event) -> None:
        events.append(event)
        threads.add(threading.current_thread())

    with Told(listener, (aside,), known or []) as told:
        for outcome in MADE if made is None else made:
            told(finished(outcome))
        told(RunFinished(Path("run"), 1, 1.0))
    assert threads == {threading.current_thread()}, "listeners are called from the run's own thread"
    return events


def notices(events: list[Event]) -> list[str]:
    return [e.message for e in events if isinstance(e, Notice)]


def test_an_observer_hears_every_outcome_once_in_order_in_a_thread_of_its_own() -> None:
    made: list[Recorder] = []
    events = drive(Aside("it", lambda: made.append(Recorder()) or made[0]))  # type: ignore[func-returns-value]
    (observer,) = made
    assert observer.heard == [o.key for o in MADE]
    assert observer.closed
    assert observer.thread is not threading.current_thread()
    assert events == [*map(finished, MADE), RunFinished(Path("run"), 1, 1.0)], "the listener sees what it always saw"


def test_outcomes_that_were_told_before_are_not_told_again_but_a_retry_is() -> None:
    observer = Recorder()
    failed = replace(MADE[1], metrics={}, status="failed", error="killed")
    retried = replace(MADE[1], metrics={"accuracy": 0.5}, status="complete", error=None)
    drive(Aside("it", lambda: observer), [MADE[0], failed], [MADE[0], failed, retried, MADE[2]])
    assert observer.heard == [MADE[1].key, MADE[2].key]


def test_one_that_cannot_be_made_is_one_notice_at_once() -> None:
    def refuse() -> Recorder:
        raise RuntimeError("wrapped") from ConnectionError("nobody there\nline two")

    events = drive(Aside("run.study", refuse))
    assert isinstance(events[0], Notice), "before the first trial ends"
    assert notices(events) == ["run.study: ConnectionError: nobody there; the run goes on without"]
    assert isinstance(events[-1], RunFinished)
    assert [e for e in events if isinstance(e, TrialFinished)] == [*map(finished, MADE)]


def test_one_that_fails_is_made_again_after_a_pause_and_at_the_end() -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder(at_key=MADE[2].key))
        return made[-1]

    events = drive(Aside("it", make, pause=1e6))
    assert [r.heard for r in made] == [[MADE[0].key, MADE[1].key], []], "the second is made at the end, to catch up"
    assert [r.closed for r in made] == [False, True]
    assert notices(events) == [f"it: ValueError: cannot take {MADE[2].key}; the run goes on without"]
    made.clear()
    drive(Aside("it", make, pause=0))
    assert [r.heard for r in made] == [[MADE[0].key, MADE[1].key], [o.key for o in MADE[3:]]]


def test_a_failure_to_close_is_a_notice_before_the_last_event() -> None:
    events = drive(Aside("it", lambda: Recorder(at_close=True)))
    assert isinstance(events[-2], Notice)
    assert notices(events) == ["it: OSError: no space left; the run goes on without"]


@pytest.mark.parametrize("where", ["make", "tell"])
def test_one_that_hangs_holds_up_nothing(where: str) -> None:
    release = threading.Event()

    class Hangs(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self._wait("make")

        def tell(self, outcome: Outcome) -> None:
            self._wait("tell")

        def _wait(self, here: str) -> None:
            if here == where:
                release.wait(60)

    aside = Aside("it", Hangs)
    original: Callable[..., None] = aside.close
    aside.start = lambda patience=0.0: Aside.start(aside, 0.01)  # type: ignore[method-assign]
    aside.close = lambda patience=0.0: original(0.01)  # type: ignore[method-assign]
    events = drive(aside)
    assert not release.is_set(), "it hangs still"
    assert notices(events) == ["it: still busy after 0 s, and left behind; the run goes on without"]
    release.set()


def test_an_interrupted_run_still_says_what_went_wrong_and_lets_go() -> None:
    observer, heard = Recorder(at_key=MADE[1].key), list[Event]()

    def interrupted() -> None:
        with Told(heard.append, (Aside("it", lambda: observer),), []) as told:
            told(finished(MADE[0]))
            told(finished(MADE[1]))
            told(PhaseProgress("test", 1, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert notices(heard) == [f"it: ValueError: cannot take {MADE[1].key}; the run goes on without"]
    assert observer.heard == [MADE[0].key]
    assert observer.closed, "the second one made is the same object here, and is closed"
