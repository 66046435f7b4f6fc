"""What a run shows while it works: a live table with a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from functools import singledispatchmethod
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from niwaki.search import events
from niwaki.search.outcome import Job, Outcome
from niwaki.search.report import text
from niwaki.search.status import reason

_SHOWN = 10
_SHARES = 2  # of running trials that fit a line
_TITLES = {
    "data": "data", "space": "space", "latency": "latency model", "teacher": "teacher", "answers": "teacher's answers",
    "sensitivity": "sensitivity", "learn": "learning", "search": "search", "measure": "measuring",
    "finals": "final training", "test": "test split", "export": "export", "report": "report",
}


class _Clock(ProgressColumn):
    """Steps done, time taken, time left; only the time taken where nobody knows the steps."""

    def render(self, task: Task) -> Text:
        taken = text.seconds(round(task.elapsed or 0))
        if not task.total:
            return Text(taken, style="dim")
        left = "" if task.time_remaining is None else f", {text.seconds(round(task.time_remaining))} left"
        return Text(f"{task.completed:,.0f}/{task.total:,.0f} in {taken}{left}", style="dim")


class Watcher:
    """A listener for :mod:`niwaki.search.events`; use it as a context manager around the run.

    Args:
        console: where to write; the commands pass one on stderr, because stdout belongs to results.

    Example:
        >>> from io import StringIO
        >>> with Watcher(Console(file=StringIO(), width=80)) as watcher:
        ...     watcher(events.Notice("one of the figures is noisy"))
        >>> watcher.console.file.getvalue()
        'note: one of the figures is noisy\\n'
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.folder = ""
        self.finished = 0
        self._running: dict[str, str] = {}
        self._recent: deque[tuple[str, ...]] = deque(maxlen=_SHOWN)
        self._start = time.monotonic()
        self._phase = ""
        self._progress = Progress(TextColumn(" {task.description}"), BarColumn(22), _Clock(), console=console)
        self._task = self._progress.add_task("", total=None, visible=False)
        self._live: Live | None = None

    def __enter__(self) -> Watcher:
        if self.console.is_terminal:
            self._live = Live(self._view(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, event: events.Event) -> None:
        self._handle(event)
        if self._live is not None:
            self._live.update(self._view())

    def _say(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style=style), soft_wrap=True)

    # ---- one method an event --------------------------------------------------------------------------------------

    @singledispatchmethod
    def _handle(self, event: object) -> None:
        """Events that say nothing to a reader."""

    @_handle.register
    def _(self, event: events.RunStarted) -> None:
        self.folder = str(event.folder)
        kept = f", {event.kept} finished trials kept" if event.resumed else ""
        self._say(f"{'continuing' if event.resumed else 'starting'} {event.name} in {event.folder}{kept}", "bold")

    @_handle.register
    def _(self, event: events.PhaseStarted) -> None:
        self._phase = event.title or _TITLES.get(event.phase, event.phase)
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(self._phase, total=event.total)
        if self._live is None and event.total:
            self._say(f"{self._phase}: {event.total} to do")

    @_handle.register
    def _(self, event: events.PhaseProgress) -> None:
        self._progress.update(self._task, total=event.total, completed=event.done)

    @_handle.register
    def _(self, event: events.PhaseFinished) -> None:
        self._progress.update(self._task, visible=False)
        title = _TITLES.get(event.phase, event.phase)
        self._say(f"{title}: {event.detail or 'done'} ({text.seconds(event.seconds)})", "dim")

    @_handle.register
    def _(self, event: events.BudgetsResolved) -> None:
        show = {"latency": text.ms, "macs": text.count, "params": text.count, "size": text.size,
                "memory": text.size}
        own = {"latency": event.teacher.latency_ms, "macs": event.teacher.macs, "params": event.teacher.params,
               "size": event.teacher.bytes, "memory": event.teacher.memory_bytes}
        for name, limit in event.limits.items():
            self._say(f"budget: {name} at most {show[name](limit)} (teacher {show[name](own[name])})")

    @_handle.register
    def _(self, event: events.TrialStarted) -> None:
        self._running[event.job.key] = ""

    @_handle.register
    def _(self, event: events.TrialProgress) -> None:
        if event.job.key in self._running and event.total:
            self._running[event.job.key] = f"{what(event.job)} {event.done / event.total:.0%}"

    @_handle.register
    def _(self, event: events.TrialFinished) -> None:
        self.finished += 1
        self._running.pop(event.outcome.key, None)
        self._progress.update(self._task, total=event.total, completed=event.done)
        self._recent.append(row(event.outcome))
        if self._live is None:
            self._say(f"{self._phase} {event.done}/{event.total}: {line(event.outcome)}")
        elif not event.outcome.complete:
            self._say(f"failed: {event.outcome.key}: {reason(event.outcome)}", "red")

    @_handle.register
    def _(self, event: events.Notice) -> None:
        self._say(f"note: {event.message}", "yellow")

    @_handle.register
    def _(self, event: events.RunFinished) -> None:
        models = f"{event.members} model{'' if event.members == 1 else 's'}"
        self._say(f"done in {text.seconds(event.seconds)}: {models} on the front, in {event.folder}", "bold")

    # ---- the picture ----------------------------------------------------------------------------------------------

    def _view(self) -> Group:
        parts: list[Table | Text | Progress] = []
        if self._recent:
            table = Table(box=None, padding=(0, 1), header_style="dim")
            for name in ("trial", "images"):
                table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
            for name in ("accuracy", "MACs", "size", "latency", "took"):
                table.add_column(name, justify="right", no_wrap=True)
            for cells in self._recent:
                table.add_row(*cells, style="red" if cells[2] == "failed" else "")
            parts.append(table)
        if self._running:
            parts.append(Text(running(list(self._running.values())), style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts, self._progress)


def what(job: Job) -> str:
    """A trial in a few words."""
    return f"{job.kind} {job.candidate.key[:6]}" + (f" rung {job.rung + 1}" if job.kind == "search" else "")


def running(shares: Sequence[str]) -> str:
    """How many trials run, and how far the first of them are, where they have said so."""
    known = [share for share in shares if share]
    shown = f": {', '.join(known[:_SHARES])}" if known else ""
    return f" {len(shares)} running{shown}"


def row(outcome: Outcome) -> tuple[str, ...]:
    """Cells of one trial: what, images, accuracy, MACs, size, latency, seconds."""
    job, cost = outcome.job, outcome.cost
    accuracy = text.percent(outcome.metrics.get("accuracy")) if outcome.complete else "failed"
    return (
        what(job), text.count(outcome.images), accuracy, text.count(cost.macs), text.size(cost.bytes),
        text.ms(cost.latency_ms), text.seconds(outcome.seconds),
    )


def line(outcome: Outcome) -> str:
    """One trial as one line of text."""
    name, images, accuracy, macs, size, latency, seconds = row(outcome)
    if not outcome.complete:
        return f"{name} failed: {reason(outcome)}"
    timed = "" if outcome.cost.latency_ms is None else f", {latency}"
    return f"{name}: {accuracy} after {images} images; {macs} MACs, {size}{timed} ({seconds})"
