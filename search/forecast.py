"""How much of a run is done, kind of trial by kind of trial, and how long the rest of its trials will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from niwaki.search.config import Config
from niwaki.search.outcome import Job, Outcome
from niwaki.search.progress import Progress, Running

_LATEST = 20
_AFTER_SEARCH = ("measure", "finals", "test", "export", "report")
_AFTER_FINALS = ("test", "export", "report")


@dataclass(frozen=True)
class Tally:
    """Trials of one kind: ``planned`` in all, of which some are done, running or failed, and the others open.

    ``images``: training images of one of them.
    """

    name: str
    images: int
    planned: int
    done: int
    running: int
    failed: int

    @property
    def open(self) -> int:
        return max(0, self.planned - self.done - self.running - self.failed)


@dataclass(frozen=True)
class Forecast:
    """Seconds until the last trial ends, and what that rests on.

    Attributes:
        seconds: of trials alone: measuring, the test split and export come on top.
        open: trials that have not ended.
        ended: trials whose duration was looked at.
        at_once: trials that are taken to run together.
    """

    seconds: float
    open: int
    ended: int
    at_once: int


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of a run at the moment ``now`` (seconds since 1970).

    ``running``: jobs on workers, by key, none where no process drives the run; their ``outcomes``, which are of an
    earlier try, are left out. ``progress``: None where unknown. ``finished``: no trial will come any more.
    """

    config: Config
    outcomes: Sequence[Outcome]
    running: Mapping[str, Running]
    progress: Progress | None
    now: float
    finished: bool = False

    @property
    def phase(self) -> str:
        return "" if self.progress is None else self.progress.phase

    def ended(self, name: str) -> list[Outcome]:
        """Outcomes of one kind of trial."""
        return [o for o in self.outcomes if name_of(o.job) == name]

    def live(self, name: str) -> list[Running]:
        """Running trials of one kind."""
        return [r for key, r in self.running.items() if _named(key) == name]


def name_of(job: Job) -> str:
    """The kind of a trial; each rung of a search is one.

    Example:
        >>> from niwaki.spaces import Candidate
        >>> name_of(Job(Candidate({"conv": 8}), "search", rung=1, images=1000, seed=7))
        'search, rung 2'
    """
    return f"search, rung {job.rung + 1}" if job.kind == "search" else job.kind


def _named(key: str) -> str:
    kind, rung, *_ = key.split("-")
    return f"search, rung {int(rung) + 1}" if kind == "search" else kind


def tallies(seen: Seen) -> list[Tally]:
    """Every kind of trial in the order in which they run.

    Kinds that are over count as they came; the current one as the run announced it; those to come as the
    configuration lets one expect, which says how many are promoted, but not whether that many keep the budget.
    """
    found = [_tally(seen, "learn", 0, 0)]
    found += _search(seen)
    found += _finals(seen)
    return [t for t in found if t.planned]


def _tally(seen: Seen, name: str, planned: int, images: int, over: bool = False) -> Tally:
    ended, running = seen.ended(name), len(seen.live(name))
    done = sum(o.complete for o in ended)
    known = [o.job.images for o in ended] or [r.total for r in seen.live(name) if r.total]
    here = len(ended) + running
    return Tally(
        name, known[0] if known else images, here if over else max(planned, here), done, running, len(ended) - done
    )


def _search(seen: Seen) -> Iterator[Tally]:
    config, after = seen.config, seen.finished or seen.phase in _AFTER_SEARCH
    rungs = [o.job.rung for o in seen.outcomes if o.job.kind == "search"]
    last = max(rungs + [int(key.split("-")[1]) for key in seen.running if key.startswith("search-")], default=0)
    after = after or any(o.job.kind in ("final", "uniform", "random") for o in seen.outcomes)
    count, announced = config.search.trials, _announced(seen, "search")
    for rung, (before, images) in enumerate(pairwise((0, *config.train.rungs))):
        name = f"search, rung {rung + 1}"
        current = announced if announced and announced[0] == name else None
        over = after or rung < last
        tally = _tally(seen, name, current[1] if current else count, images - before, over)
        yield tally
        count = _promoted(tally.planned - tally.failed, config)


def _promoted(count: int, config: Config) -> int:
    """As :func:`niwaki.search.promotion.promote` would, of trials that are spread evenly over the levels."""
    levels = len(config.search.levels)
    shares = [count // levels + (i < count % levels) for i in range(levels)]
    return sum(max(1, int(n * config.search.keep + 1e-9)) for n in shares if n)


def _finals(seen: Seen) -> list[Tally]:
    search, train = seen.config.search, seen.config.train
    over = seen.finished or seen.phase in _AFTER_FINALS
    repeats = 1 if search.finish == "inherit" else search.repeats
    images = {"continue": train.final_images - train.rungs[-1], "fresh": train.final_images, "inherit": 0}
    compared = {kind: len(search.levels) * search.repeats for kind in search.baselines}
    wanted = min(max(search.members, len(search.levels)), search.trials) * repeats
    if announced := _announced(seen, "finals"):
        wanted = announced[1] - sum(compared.values())
    found = [_tally(seen, "final", wanted, images[search.finish], over)]
    return found + [_tally(seen, kind, n, train.final_images, over) for kind, n in compared.items()]


def _announced(seen: Seen, phase: str) -> tuple[str, int] | None:
    """A kind of trial that runs (or ran when the run was stopped) in this phase, and how many there are to be."""
    progress = seen.progress
    if progress is None or progress.phase != phase or not progress.total or not progress.running:
        return None
    return _named(next(iter(progress.running))), progress.total


def forecast(seen: Seen, found: Sequence[Tally]) -> Forecast | None:
    """Time for the trials that have not ended; None where nothing is known of how long they take.

    A trial will take what the last 20 of its kind took; where none has ended, what the running ones promise; else
    in proportion to its images. No trial of a kind begins before the kind before it is over.
    """
    known = {t.name: seconds for t in found if (seconds := _seconds(seen, t.name)) is not None}
    trained = [t for t in found if t.name in known and t.images and t.name != "learn"]
    longest = max(trained, key=lambda t: t.images, default=None)
    at_once = max(1, (seen.progress.at_once if seen.progress else 0) or seen.config.run.workers or 1)
    total = 0.0
    for tally in found:
        shares = [1 - min(1.0, r.done / r.total) if r.total else 1.0 for r in seen.live(tally.name)]
        rest = [*shares, *([1.0] * tally.open)]
        if not rest:
            continue
        if tally.name in known:
            each = known[tally.name]
        elif longest is not None:
            each = known[longest.name] * tally.images / longest.images
        else:
            return None
        total += each * max(sum(rest) / at_once, *rest)
    ended = sum(min(_LATEST, t.done) for t in found)
    return Forecast(total, sum(t.open + t.running for t in found), ended, at_once)


def _seconds(seen: Seen, name: str) -> float | None:
    """Of one trial of this kind."""
    took = [o.seconds for o in seen.ended(name) if o.complete][-_LATEST:]
    if took:
        return sum(took) / len(took)
    live = [(seen.now - r.started, r.done / r.total) for r in seen.live(name) if 0 < r.done <= r.total]
    return sum(max(0.0, s) for s, _ in live) / sum(share for _, share in live) if live else None
