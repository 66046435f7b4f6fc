"""One look into a run folder: who drives it, what goes on, what has ended."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from pathlib import Path

from niwaki.search.outcome import Outcome
from niwaki.search.progress import LOCK, Progress, Running, read_progress
from niwaki.search.store import RunStore
from niwaki.spaces.errors import InputError

_SILENT = 90.0  # seconds: six heartbeats
_KILLED = "its process ended without a word: killed, out of memory, or the machine went down"


@dataclass(frozen=True)
class PhaseNow:
    """What goes on: ``done`` of ``total`` steps, for ``seconds``; ``left``: seconds at the pace so far."""

    phase: str
    title: str
    done: int
    total: int | None
    seconds: float
    left: float | None


@dataclass(frozen=True)
class Rate:
    """The last ``seconds`` saw ``trials`` end, complete or failed, with ``images`` training images."""

    trials: int
    images: int
    seconds: float

    @property
    def trials_per_hour(self) -> float:
        return 3600 * self.trials / self.seconds

    @property
    def images_per_hour(self) -> float:
        return 3600 * self.images / self.seconds


@dataclass(frozen=True, eq=False)
class Look:
    """What one look into a run folder found: ``progress`` is of the session of ``driver``, or of the last one."""

    folder: Path
    driver: str | None
    progress: Progress | None
    outcomes: list[Outcome]
    now: float
    trouble: str | None

    @property
    def finished(self) -> bool:
        """The report is the last thing that a run writes."""
        return self.driver is None and all((self.folder / name).is_file() for name in ("front.json", "report.html"))

    @property
    def running(self) -> dict[str, Running]:
        if self.driver is None or self.progress is None:
            return {}
        complete = {o.key for o in self.outcomes if o.complete}
        return {key: r for key, r in self.progress.running.items() if key not in complete}

    @property
    def ended(self) -> str | None:
        if self.driver is not None or self.finished:
            return None
        if self.progress is None:
            return "nothing is known of how it ended"
        return _KILLED if self.progress.ended is None else self.progress.ended

    @property
    def seconds(self) -> float | None:
        return None if self.progress is None else self._since(self.progress.session, self.progress)

    @property
    def phase(self) -> PhaseNow | None:
        at = self.progress
        if at is None or not at.phase:
            return None
        seconds, left = self._since(at.started, at), None
        if self.driver and not at.running and at.total and at.done:
            left = seconds * max(0, at.total - at.done) / at.done
        return PhaseNow(at.phase, at.title, at.done, at.total, seconds, left)

    @property
    def rate(self) -> Rate | None:
        if self.progress is None or len(self.progress.recent) < 2:
            return None
        (start, _), *ends = self.progress.recent
        seconds = self._since(start, self.progress)
        return Rate(len(ends), sum(images for _, images in ends), seconds) if seconds > 0 else None

    @property
    def notes(self) -> tuple[str, ...]:
        found = [] if self.trouble is None else [f"what the run was doing is unknown: {self.trouble}"]
        silent = 0.0 if self.driver is None or self.progress is None else self.now - self.progress.time
        if silent >= _SILENT:
            found.append(
                f"its driver has not written for {silent:.0f} s: it hangs, cannot write, or two hosts' clocks differ"
            )
        return tuple(found)

    def _since(self, start: float, progress: Progress) -> float:
        """Seconds until now; until the last word of a run that nobody drives."""
        return max(0.0, (self.now if self.driver else progress.time) - start)


def look(store: RunStore, now: float) -> Look:
    """Look into a run folder at the moment ``now`` (seconds since 1970); InputError where its journal is damaged."""
    driver, progress, trouble = holder(store), None, None
    try:
        progress = read_progress(store.folder)
    except InputError as error:
        trouble = str(error)
    if driver is not None and progress is not None and (progress.ended is not None or progress.driver != driver):
        progress = None  # of the session before this one, which has not said anything yet
    now = now if progress is None else max(now, progress.time)
    outcomes = store.outcomes()  # after progress: a trial that ends in between is then in both, never in neither
    return Look(store.folder, driver, progress, outcomes, now, trouble)


def holder(store: RunStore) -> str | None:
    """Who drives the run; None where nobody does.

    A shared lock is tried and given back at once: it is refused exactly while a driver holds its own.
    """
    try:
        with (store.folder / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read(200).decode(errors="replace").strip() or "another process"
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{store.folder / LOCK}: cannot be read: {error}") from error
