"""Who only looks on gets outcomes in a thread of its own: no database or tracker ever holds up or ends a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from niwaki.search.events import Event, Listener, Notice, RunFinished, TrialFinished
from niwaki.search.outcome import Outcome

_REASON = 300  # characters of an error


class Observer(Protocol):
    """The Optuna study, a tracker: told every outcome once, in order. What it raises ends it, not the run."""

    def tell(self, outcome: Outcome) -> None: ...
    def close(self) -> None: ...


class Aside:
    """One observer in a thread.

    What ``make`` or the observer raises becomes a problem to be told; a new observer is made at the first outcome that
    comes ``pause`` or more after it, and once more at the end.

    Args:
        name: of the observer, in messages.
        make: called in the thread.
        pause: seconds.
    """

    def __init__(self, name: str, make: Callable[[], Observer], pause: float = 30.0) -> None:
        self.name, self._make, self._pause = name, make, pause
        self._observer: Observer | None = None
        self._again = 0.0  # no new observer before this time
        self._lost = False
        self._queue: SimpleQueue[Outcome | None] = SimpleQueue()
        self._problems: SimpleQueue[str] = SimpleQueue()
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"niwaki {name}", daemon=True)

    def start(self, patience: float = 2.0) -> None:
        """Begin; wait so many seconds for the observer to be there, so that a problem shows at once."""
        self._thread.start()
        self._opened.wait(patience)

    def tell(self, outcome: Outcome) -> None:
        self._queue.put(outcome)

    def close(self, patience: float = 30.0) -> None:
        """Wait at most so many seconds for what is under way."""
        self._queue.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._problems.put(f"still busy after {patience:.0f} s, and left behind")

    def problems(self) -> list[str]:
        """What went wrong since the last call."""
        found: list[str] = []
        while True:
            try:
                found.append(self._problems.get_nowait())
            except Empty:
                return found

    def _run(self) -> None:
        self._guarded(self._open)
        self._opened.set()
        while (outcome := self._queue.get()) is not None:
            if self._observer is None and time.monotonic() >= self._again:
                self._guarded(self._open)
            self._guarded(self._tell, outcome)
        if self._observer is None:
            self._guarded(self._open)
        self._guarded(self._close)

    def _open(self) -> None:
        self._observer = self._make()

    def _tell(self, outcome: Outcome) -> None:
        if self._observer is not None:
            self._observer.tell(outcome)

    def _close(self) -> None:
        if self._observer is not None:
            self._observer.close()

    def _guarded(self, step: Callable[..., None], *args: Outcome) -> None:
        try:
            step(*args)
        except Exception as error:
            self._observer, self._again = None, time.monotonic() + self._pause
            if not self._lost:  # a database that is down for an hour is one problem, not a hundred
                self._problems.put(_short(error))
            self._lost = True


def _short(error: BaseException) -> str:
    """One line on what is at the bottom of it: what storages raise themselves says little."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}"[:_REASON] if lines else type(error).__name__


class Told:
    """A listener that also tells every new outcome to observers; use it as a context manager around the run.

    Args:
        listener: of the run; hears of problems as notices, from the calling thread.
        asides: the observers.
        known: outcomes that the observers have heard of before.
    """

    def __init__(self, listener: Listener, asides: tuple[Aside, ...], known: list[Outcome]) -> None:
        self._listener, self._asides = listener, asides
        self._known = {outcome.key: outcome for outcome in known}

    def __enter__(self) -> Told:
        for aside in self._asides:
            aside.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, TrialFinished) and self._known.get(event.outcome.key) != event.outcome:
            for aside in self._asides:
                aside.tell(event.outcome)
        if isinstance(event, RunFinished):
            self._close()
        self._notify()
        self._listener(event)

    def _close(self) -> None:
        for aside in self._asides:
            aside.close()
        self._notify()
        self._asides = ()

    def _notify(self) -> None:
        for aside in self._asides:
            for problem in aside.problems():
                self._listener(Notice(f"{aside.name}: {problem}; the run goes on without"))
