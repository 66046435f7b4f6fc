"""``niwaki status``: where a run stands, from any terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from niwaki.outputs import Json, stdout

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from niwaki.search.forecast import Forecast
    from niwaki.search.look import PhaseNow
    from niwaki.search.status import Status

_LINES = 10


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")],
    as_json: Json = False,
) -> None:
    """Show where a run stands: running, stopped, crashed or finished. Reads only; ask as often as you like."""
    from niwaki.search.status import status as look

    found = look(run)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
        return
    console = stdout()
    for part in picture(found, time.time()):
        console.print(part)


def picture(found: Status, now: float) -> list[RenderableType]:
    """What the command prints; ``now``, in seconds since 1970, is only for the time of day at which trials will end."""
    from rich.text import Text

    parts: list[RenderableType] = [Text(_head(found), style="bold")]
    if found.phase is not None:
        parts.append(Text(_phase(found.phase)))
    parts += [_trials(found)] if found.trials else []
    parts += [_running(found)] if found.running else []
    parts += [_best(found)] if found.best else []
    parts += [Text(line) for line in (_rate(found), _left(found, now)) if line]
    parts += _failures(found)
    parts += [Text(f"note: {note}", style="yellow") for note in found.notes]
    if found.state == "stopped":
        parts.append(Text(f"Continue with: niwaki resume {found.folder}", style="bold"))
    elif found.state == "finished":
        parts.append(Text(f"See: niwaki front {found.folder}", style="bold"))
    return parts


def _head(found: Status) -> str:
    from niwaki.search.report import text

    if found.state == "running":
        since = "" if found.seconds is None else f" for {text.seconds(found.seconds)}"
        return f"{found.name}: running{since} ({found.driver})"
    return f"{found.name}: {found.state}" + (f" ({found.ended})" if found.ended else "")


def _phase(phase: PhaseNow) -> str:
    from niwaki.search.report import text

    steps = "" if phase.total is None else f", {phase.done:,} of {phase.total:,}"
    left = "" if phase.left is None else f", about {text.seconds(phase.left)} left at this pace"
    return f"phase: {phase.title or phase.phase}{steps}, {text.seconds(phase.seconds)} so far{left}"


def _trials(found: Status) -> Table:
    table = _table("trials", "images each", "planned", "done", "running", "failed", "open")
    for t in found.trials:
        table.add_row(t.name, *(f"{n:,}" for n in (t.images, t.planned, t.done, t.running, t.failed, t.open)))
    return table


def _running(found: Status) -> Table:
    from niwaki.search.report import text

    table = _table("running", "images", "done", "for")
    for trial in found.running[:_LINES]:
        share = f"{trial.done / trial.total:.0%}" if trial.total else "–"
        table.add_row(trial.key, f"{trial.total:,}", share, text.seconds(trial.seconds))
    if (more := len(found.running) - _LINES) > 0:
        table.add_row(f"and {more} more")
    return table


def _best(found: Status) -> Table:
    from niwaki.search.report import text

    table = _table("best so far", "level", "accuracy", "images", "MACs", "size", "latency")
    for best in found.best:
        cost = best.cost
        table.add_row(
            best.trial, f"{best.level:g}", text.percent(best.accuracy), text.count(best.images), text.count(cost.macs),
            text.size(cost.bytes), text.ms(cost.latency_ms),
        )  # fmt: skip
    return table


def _rate(found: Status) -> str:
    from niwaki.search.report import text

    rate = found.rate
    if rate is None:
        return ""
    images = f" and {text.count(rate.images_per_hour)} training images" if rate.images else ""
    basis = f"the latest {rate.trials} trials, {text.seconds(rate.seconds)}"
    return f"rate: {text.count(rate.trials_per_hour)} trials{images} an hour ({basis})"


def _left(found: Status, now: float) -> str:
    from niwaki.search.report import text

    left: Forecast | None = found.forecast
    if found.state == "finished":
        return ""
    if left is None:
        return "left: unknown until a trial has trained"
    basis = f"{left.open} trials, {left.at_once} at a time, as long as {left.ended} before them took"
    basis = basis if left.ended else f"{left.open} trials, {left.at_once} at a time, from the progress of the first"
    clock = time.strftime(", until %H:%M", time.localtime(now + left.seconds)) if found.state == "running" else ""
    return f"left: about {text.seconds(left.seconds)}{clock} ({basis}; measuring, test and export come on top)"


def _failures(found: Status) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    for failure in found.failures[-_LINES:]:
        lines.append(Text(f"failed: {failure.trial}: {failure.reason}", style="red"))
        lines += [Text(f"        {failure.log}", style="dim")] if failure.log else []
    if (more := len(found.failures) - _LINES) > 0:
        lines.insert(0, Text(f"failed: {more} earlier ones, all with --json", style="red"))
    return lines


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table
