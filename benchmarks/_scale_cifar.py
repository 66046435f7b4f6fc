"""Two workers against one on real trials: the same first rung of a CIFAR-10 run, timed from its first end on."""

from __future__ import annotations

import shutil
import time

from _bench import OUT
from _runs import data_folder

from niwaki.search.config import load_config
from niwaki.search.controller import search
from niwaki.search.events import Event, TrialFinished


class _Enough(Exception):
    """The trials that count are done."""


def trials_per_second(trials: int) -> tuple[float, float] | None:
    """Trials a second with one worker and with two, each after its first round; None without the data."""
    folder = data_folder("scale")
    if folder is None:
        return None
    weights = [p for s in ("safetensors", "pt", "th") for p in folder.glob(f"resnet20*.{s}")]
    if not weights:
        raise SystemExit(f"{folder}: no resnet20.safetensors, .pt or .th")
    given = [f"data.path={folder / 'cifar10.npz'}", f"teacher.weights={weights[0]}", "data.source=npz"]
    return _rate(trials, 1, given), _rate(trials, 2, given)


def _rate(trials: int, workers: int, given: list[str]) -> float:
    ends: list[float] = []

    def watch(event: Event) -> None:
        if isinstance(event, TrialFinished):
            assert event.outcome.complete, event.outcome.error
            ends.append(time.perf_counter())
            if len(ends) == trials:
                raise _Enough

    run = OUT / f"scale_{workers}"
    shutil.rmtree(run, ignore_errors=True)
    settings = [*given, f"run.folder={run}", f"run.workers={workers}", f"search.trials={trials}", "train.rungs=[9000]",
                "search.proposer=random", "search.starts=[uniform]", "run.device=cpu"]  # fmt: skip
    try:
        search(load_config("cifar10_resnet20", settings), watch)
    except _Enough:
        shutil.rmtree(run, ignore_errors=True)
    return (trials - workers) / (ends[-1] - ends[workers - 1])
