"""Interleaved timing that stands a shared machine, and says when it did not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from niwaki.search.targets._base import Run, Target
from niwaki.search.targets._cores import Company, pinned
from niwaki.search.targets._inputs import repeated
from niwaki.search.targets._spec import spec_of
from niwaki.search.targets._timing import Clock, Timing, thread_timer, timer_of
from niwaki.search.targets._warnings import company, lacks
from niwaki.search.threads import torch_threads
from niwaki.spaces.errors import InputError

ANCHOR = "teacher"
"""A model of this name is measured in every round, the further ones too: ratios to it are what lasts."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MeasurePlan:
    """How long to measure: ``rounds`` passes over all models in shuffled order, ``seconds`` a model in all.

    Attributes:
        rounds: passes; each visits every model once, so that slow phases of the machine hit all models alike.
        seconds: time spent on one model over all rounds.
        runs: least runs of one model over all rounds, however long they take.
        seed: of the order within rounds.
        extra_rounds: most further passes over the models that are still noisy; None: as many as ``rounds``.
    """

    rounds: int = 8
    seconds: float = 0.25
    runs: int = 24
    seed: int = 0
    extra_rounds: int | None = None


def measure(
    target: Target,
    models: Mapping[str, nn.Module],
    example: Tensor | tuple[Tensor, ...],
    plan: MeasurePlan | None = None,
    progress: Progress | None = None,
) -> Timing:
    """Milliseconds of one batch of each model on ``target``, measured interleaved.

    Args:
        models: name -> model; they are left as they were (a copy in eval mode is measured).
        example: the model's inputs, batch first; see :func:`niwaki.search.targets.repeated`.
        progress: called with (steps done, steps): one for each model made ready, one for each planned round.

    Raises:
        InputError: the target's shape does not suit the example or a model, or the target cannot run here.

    Example:
        >>> import torch
        >>> from niwaki.search.targets import parse
        >>> timing = measure(parse("torch:threads=1,batch=1"), {"a": nn.Linear(4, 2)}, torch.zeros(1, 4))
        >>> timing.ms["a"] > 0
        True
    """
    plan, report = plan or MeasurePlan(), progress or (lambda done, total: None)
    inputs = repeated(example, target)
    runs: dict[str, Run] = {}
    with torch_threads(target.threads):
        for name, model in models.items():
            runs[name] = _ready(target, name, model, inputs)
            report(len(runs), len(models) + plan.rounds)
    return measure_runs(runs, plan, target, lambda done, total: report(len(models) + done, len(models) + total))


def measure_runs(
    runs: Mapping[str, Run], plan: MeasurePlan, target: Target, progress: Progress | None = None
) -> Timing:
    """Like :func:`measure`, of models that were made ready before.

    Rounds visit all models in shuffled order, so that drift of the machine (2-8 % within minutes on a shared one) is
    common to all of them and cancels in ratios. The least run counts: other processes only ever add time. Models whose
    interval is wide after ``plan.rounds`` get up to ``plan.extra_rounds`` more, together with the model called
    ``teacher``. A target of one thread runs on the core that is idle at the start, and again at the first such round.

    Args:
        runs: name -> a call that runs the model once, as the target's ``prepare`` returns it.
        progress: called with (rounds done, rounds), for the planned ones.
    """
    timer = timer_of(target)
    clocks = {name: Clock(run, timer) for name, run in runs.items()}
    shuffle = random.Random(plan.seed)

    def visit(names: Iterable[str]) -> None:
        for name in shuffle.sample(order := list(names), len(order)):
            clocks[name].round(plan.seconds / plan.rounds, -(-plan.runs // plan.rounds))

    wall, own = time.perf_counter(), time.thread_time()
    with torch_threads(target.threads):
        others = Company()
        with pinned(target.threads):
            for number in range(plan.rounds):
                visit(clocks)
                if progress is not None:
                    progress(number + 1, plan.rounds)
        extra = plan.rounds if plan.extra_rounds is None else plan.extra_rounds
        if extra and _noisy(clocks):
            with pinned(target.threads):
                while extra and (noisy := _noisy(clocks)):
                    visit(n for n in clocks if n in noisy or n == ANCHOR)
                    extra -= 1
        free = others.free() if target.threads > 1 else float("inf")
    busy = (time.thread_time() - own) / max(time.perf_counter() - wall, 1e-9)
    lost = 1.0 - busy if timer is thread_timer else 0.0
    return _timing(clocks, plan, target.threads, free, lost)


def _ready(target: Target, name: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    try:
        run = target.prepare(model, inputs)
        if getattr(target, "shape", ""):
            run()
    except RuntimeError as error:
        if not getattr(target, "shape", ""):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"target {spec_of(target)!r}: {name!r} does not run on this shape: {reason}") from error
    return run


def _noisy(clocks: Mapping[str, Clock]) -> set[str]:
    return {name for name, clock in clocks.items() if clock.estimate().noisy}


def _timing(clocks: Mapping[str, Clock], plan: MeasurePlan, threads: int, free: float, lost: float) -> Timing:
    found = {name: clock.estimate() for name, clock in clocks.items()}
    kept, dropped = sum(c.kept for c in clocks.values()), sum(c.dropped for c in clocks.values())
    share = dropped / max(1, kept + dropped)
    warnings = [*company(share, threads, free, lost), *lacks(found, {n: c.kept for n, c in clocks.items()}, plan.runs)]
    return Timing(
        {n: e.least * 1e3 for n, e in found.items()}, {n: e.spread for n, e in found.items()},
        tuple(n for n, e in found.items() if e.noisy), share,
        {n: e.low * 1e3 for n, e in found.items()}, {n: e.high * 1e3 for n, e in found.items()}, tuple(warnings),
    )
