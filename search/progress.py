"""``progress.json``: what a run is doing right now, kept for whoever looks into its folder from elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from niwaki.search import events
from niwaki.search.files import write_json_atomic
from niwaki.search.outcome import KEY
from niwaki.spaces.errors import InputError

FILE, LOCK = "progress.json", "LOCK"
_HEARTBEAT = 15.0  # seconds: a driver that says nothing for much longer hangs
_RECENT = 64

Time = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=0, le=2**53)]
Key = Annotated[str, Field(pattern=f"^{KEY.pattern}$")]


@dataclass(frozen=True)
class Running:
    """A job on a worker: ``done`` of ``total`` training images, ``started`` in seconds since 1970."""

    done: Whole
    total: Whole
    started: Time


@dataclass(frozen=True)
class Progress:
    """What ``progress.json`` holds. Times are in seconds since 1970, UTC.

    Attributes:
        schema: of this file.
        session: when the process that drives the run began to; ``driver``: which one, as ``LOCK`` names it.
        time: when this was written; at least every 15 seconds while the process lives.
        changed: when anything was last heard of the run.
        phase, title: of the current phase; ``done`` of ``total`` steps (None: one step) since ``started``.
        running: jobs on workers, by key.
        recent: when each of the latest jobs of this session ended, and its training images; the first entry of a
            session is the start of its first job, with 0 images.
        at_once: most jobs that were running together in this session.
        ended: how the session ended: ``finished``, or why not; None while it lasts, and after a kill.
    """

    session: Time
    time: Time
    changed: Time
    phase: str = ""
    title: str = ""
    done: Whole = 0
    total: Whole | None = None
    started: Time = 0.0
    running: dict[Key, Running] = field(default_factory=dict)
    recent: tuple[tuple[Time, Whole], ...] = ()
    at_once: Whole = 0
    ended: str | None = None
    driver: str = ""
    schema: Literal[1] = 1


_ADAPTER = TypeAdapter(Progress)


def read_progress(folder: Path) -> Progress | None:
    """What the run in ``folder`` was doing when it last said so.

    Returns:
        None where the run has not begun to, or is older than this file.

    Raises:
        InputError: the file cannot be read, naming what is wrong in it.

    Example:
        >>> read_progress(Path("no-such-folder")) is None
        True
    """
    path = folder / FILE
    try:
        return _ADAPTER.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        wrong = error.errors()[0]
        where = "".join(f"{part}: " for part in wrong["loc"] if str(part).isprintable())
        raise InputError(f"{path}: {where}{wrong['msg']}, got {wrong['input']!r:.60}") from None


class State:
    """Events folded into a :class:`Progress`; ``clock`` gives seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time, driver: str = "") -> None:
        self._clock, self._driver = clock, driver
        self._session = self._changed = self._started = clock()
        self._phase, self._title, self._done = "", "", 0
        self._total: int | None = None
        self._running: dict[str, Running] = {}
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT + 1)
        self._at_once = 0

    def add(self, event: events.Event) -> None:
        """Take one event in, in the order in which they come."""
        self._changed = self._clock()
        match event:
            case events.PhaseStarted():
                self._phase, self._title = event.phase, event.title
                self._done, self._total, self._started = 0, event.total, self._changed
            case events.PhaseProgress():
                self._done, self._total = event.done, event.total
            case events.TrialStarted():
                self._begin(event)
            case events.TrialProgress() if event.job.key in self._running:
                before = self._running[event.job.key]  # a worker that has just begun may not know its total yet
                self._running[event.job.key] = Running(event.done, event.total or before.total, before.started)
            case events.TrialFinished():
                self._done, self._total = event.done, event.total
                if self._running.pop(event.outcome.key, None) is not None:  # not one that an earlier session finished
                    self._recent.append((self._changed, event.outcome.job.images))

    def _begin(self, event: events.TrialStarted) -> None:
        if not self._recent:
            self._recent.append((self._changed, 0))
        self._running[event.job.key] = Running(0, event.job.images, self._changed)
        self._at_once = max(self._at_once, len(self._running))

    def progress(self, ended: str | None = None) -> Progress:
        """As of now."""
        return Progress(
            self._session, self._clock(), self._changed, self._phase, self._title, self._done, self._total,
            self._started, dict(self._running), tuple(self._recent), self._at_once, ended, self._driver,
        )  # fmt: skip


class ProgressFile:
    """A listener that keeps ``progress.json`` in a run folder, and passes every event on.

    Use it as a context manager around a run, by the process that holds the run's lock. A thread of its own writes the
    file, at most every ``every`` seconds: events come in bursts with hours of silence between them, and a slow disk
    must not hold the driver up. A file that cannot be written is a notice, never the end of a run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with ProgressFile(folder, events.ignore) as told:
        ...     told(events.PhaseStarted("teacher", 4000))
        ...     told(events.PhaseProgress("teacher", 1000, 4000))
        >>> found = read_progress(folder)
        >>> found.phase, found.done, found.total, found.ended
        ('teacher', 1000, 4000, 'finished')
    """

    def __init__(self, folder: Path, listener: events.Listener, every: float = 2.0) -> None:
        self._path, self._listener, self._every = folder / FILE, listener, every
        lock = folder / LOCK
        self._state = State(driver=lock.read_text(encoding="utf-8").strip() if lock.is_file() else "")
        self._changed = threading.Condition()
        self._dirty = True
        self._closing = threading.Event()
        self._trouble: str | None = None
        self._told = False
        self._thread = threading.Thread(target=self._keep, name="niwaki-progress", daemon=True)

    def __enter__(self) -> events.Listener:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join()
        self._write(self._state.progress(_ending(error)))

    def __call__(self, event: events.Event) -> None:
        with self._changed:
            self._state.add(event)
            self._dirty = True
            self._changed.notify()
        if self._trouble is not None and not self._told:  # the listener is called from the driver's thread alone
            self._told = True
            self._listener(events.Notice(f"`niwaki status` will know less: {self._trouble}"))
        self._listener(event)

    def _keep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._closing.is_set(), _HEARTBEAT)
                if self._closing.is_set():
                    return
                self._dirty = False
                progress = self._state.progress()
            self._write(progress)
            self._closing.wait(self._every)

    def _write(self, progress: Progress) -> None:
        try:
            write_json_atomic(self._path, asdict(progress))
        except OSError as error:
            self._trouble = f"{self._path}: {error}"


def _ending(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
