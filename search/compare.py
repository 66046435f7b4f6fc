"""The same search with several proposers and seeds: how good a front each finds for how many training images."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.search.budget import value_of
from niwaki.search.compress import load, resume
from niwaki.search.config import Config
from niwaki.search.controller import search
from niwaki.search.events import Listener, ignore
from niwaki.search.outcome import Outcome
from niwaki.search.pareto import hypervolume
from niwaki.search.result import Result
from niwaki.spaces import InputError, registry
from niwaki.spaces.errors import nearest

PACKAGE = "niwaki.search.proposers"


@dataclass(frozen=True)
class Found:
    """What one search found.

    Attributes:
        proposer, seed: of the search.
        images: training images it spent, those of a supernet or of an architecture search included.
        hypervolume: between the finished models and (chance, the budgets): accuracy on validation data above that of
            guessing, times the share of each budget that is left; larger is better.
        test: best accuracy of the front on the test split.
        curve: (images spent, hypervolume of all models trained so far), trial by trial.
    """

    proposer: str
    seed: int
    images: int
    hypervolume: float
    test: float
    curve: tuple[tuple[int, float], ...]


def compare(
    config: Config, proposers: Sequence[str], seeds: int, folder: Path, listener: Listener = ignore
) -> list[Found]:
    """Search with each proposer under each seed; searches that are in ``folder`` already are read or gone on with.

    Args:
        config: everything but ``search.proposer``, ``run.seed`` and ``run.folder``; ``search.options`` hold for its own
            proposer alone, the others have their defaults.
        proposers: names.
        seeds: 0, 1, ... as many.

    Raises:
        InputError: a name that is unknown or given twice.
    """
    for name in proposers:
        if name not in registry.names(PACKAGE):
            raise InputError(f"--proposers: unknown proposer {name!r}; {nearest(name, registry.names(PACKAGE))}")
    if len(set(proposers)) < len(proposers):
        raise InputError(f"--proposers: each once, got {', '.join(proposers)}")
    return [
        found_by(_result(_of(config, name, seed, folder), listener), name, seed)
        for name in proposers for seed in range(seeds)
    ]  # fmt: skip


def found_by(result: Result, proposer: str, seed: int) -> Found:
    """The figures of a finished run."""
    done = [o for o in result.outcomes() if o.complete]
    before = sum(o.job.images for o in done if o.job.kind == "learn")
    outcomes = [o for o in done if o.job.kind in ("search", "final")]
    images = before + sum(o.job.images for o in outcomes)
    best = max(m.metrics["test_mean"] for m in result.front)
    curve = tuple(_curve(outcomes, result, before))
    finals = [o for o in outcomes if o.job.kind == "final"]
    return Found(proposer, seed, images, _volume(finals, result), best, curve)


def summary(found: Sequence[Found]) -> list[dict[str, Any]]:
    """One row a proposer, best first: means over the seeds, with the sample standard deviation of two or more."""
    rows = []
    for name in dict.fromkeys(f.proposer for f in found):
        mine = [f for f in found if f.proposer == name]
        images = round(statistics.fmean(f.images for f in mine))
        row: dict[str, Any] = {"proposer": name, "seeds": len(mine), "images": images}
        for key in ("hypervolume", "test"):
            values = [getattr(f, key) for f in mine]
            row[key] = statistics.fmean(values)
            row[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
        rows.append(row)
    return sorted(rows, key=lambda r: -r["hypervolume"])


def to_json(found: Sequence[Found]) -> dict[str, Any]:
    return {"schema": 1, "summary": summary(found), "searches": [asdict(f) for f in found]}


def _of(config: Config, proposer: str, seed: int, folder: Path) -> Config:
    own = config.search.proposer == proposer
    options = {"proposer": proposer, "options": config.search.options if own else {}}
    run = {"seed": seed, "folder": str(folder / f"{proposer}-{seed}"), "name": f"{proposer}-{seed}"}
    return config.model_copy(update={
        "search": config.search.model_copy(update=options), "run": config.run.model_copy(update=run),
    })


def _result(config: Config, listener: Listener) -> Result:
    folder = Path(str(config.run.folder))
    if (folder / "front.json").is_file():
        return load(folder)
    return resume(folder) if (folder / "config.yaml").is_file() else search(config, listener)


def _curve(outcomes: Sequence[Outcome], result: Result, images: int) -> Iterator[tuple[int, float]]:
    for count, outcome in enumerate(outcomes, start=1):
        images += outcome.job.images
        yield images, _volume(outcomes[:count], result)


def _volume(outcomes: Sequence[Outcome], result: Result) -> float:
    limits, guess = result.limits, 1 / int(result.facts["classes"])
    points = [
        [1 - (o.accuracy - guess) / (1 - guess), *(value_of(o.cost, n) / v for n, v in limits.values.items())]
        for o in outcomes
    ]
    return hypervolume(np.array(points), np.ones(1 + len(limits.values))) if points else 0.0
