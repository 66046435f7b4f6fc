"""The contract of a target, its spec strings, and interleaved timing that stands a shared machine."""

from __future__ import annotations

import dataclasses
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from niwaki.spaces import registry
from niwaki.spaces.errors import InputError, nearest

Run = Callable[[], object]
PACKAGE = "niwaki.search.targets"
SPOILED = 1.03
"""A run whose wall time exceeds its thread's CPU time by this factor was interrupted by another process."""
NOISY = 0.05
"""Rounds that differ by more than this make a measurement ``noisy``."""


class Target(Protocol):
    """A runtime on this machine. Its dataclass fields are the options of its spec string.

    :func:`measure` calls ``prepare`` once a model, outside all timing, and then the returned function many times.
    """

    threads: int
    batch: int

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        """A function without arguments that runs ``model`` (in eval mode) on ``inputs`` once."""
        ...

    def version(self) -> str:
        """Name and version of the runtime, such as ``torch 2.15.0``."""
        ...


@dataclass(frozen=True)
class MeasurePlan:
    """How long to measure: ``rounds`` passes over all models in shuffled order, ``seconds`` a model in all.

    Attributes:
        rounds: passes; each visits every model once, so that slow phases of the machine hit all models alike.
        seconds: time spent on one model over all rounds.
        runs: least runs of one model over all rounds, however long they take.
        seed: of the order within rounds.
    """

    rounds: int = 8
    seconds: float = 0.25
    runs: int = 24
    seed: int = 0


@dataclass(frozen=True)
class Timing:
    """What :func:`measure` found.

    Attributes:
        ms: milliseconds of one batch: the least over all unspoiled runs, by model name.
        spread: (median over rounds of the round's least) / ms - 1, by model name; 0.02 = rounds differ by 2 %.
        noisy: models without a single unspoiled run (their ms is CPU time), or whose rounds differ by more than 5 %.
        dropped: share of all runs dropped because another process interrupted them (one thread only, else 0).
    """

    ms: Mapping[str, float]
    spread: Mapping[str, float]
    noisy: tuple[str, ...] = ()
    dropped: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {"ms": dict(self.ms), "spread": dict(self.spread), "noisy": list(self.noisy), "dropped": self.dropped}


def parse(spec: str) -> Target:
    """Target of a spec string ``RUNTIME:key=value,...``; InputError names what is unknown or not installed.

    Example:
        >>> parse("torch:threads=1,batch=1")
        Torch(threads=1, batch=1, layout='contiguous')
    """
    name, _, options = spec.strip().partition(":")
    if name not in registry.names(PACKAGE):
        raise InputError(f"target {spec!r}: unknown runtime {name!r}; {nearest(name, registry.names(PACKAGE))}")
    try:
        cls = registry.load(PACKAGE, name)
    except ModuleNotFoundError as error:
        raise InputError(f"target {spec!r}: {error.name} is not installed; run: pip install {error.name}") from error
    values = dict(_option(spec, cls, text) for text in options.split(",") if text.strip())
    target: Target = cls(**values)
    for key in ("threads", "batch"):
        if getattr(target, key) < 1:
            raise InputError(f"target {spec!r}: {key} must be at least 1, got {getattr(target, key)}")
    return target


def spec_of(target: Target) -> str:
    """The full spec string of a target: ``parse(spec_of(t)) == t``."""
    name = type(target).__module__.rsplit(".", 1)[-1]
    values = dataclasses.asdict(target)  # type: ignore[call-overload]
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in values.items())


def _option(spec: str, cls: type, text: str) -> tuple[str, int | str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if not equals or not value:
        raise InputError(f"target {spec!r}: expected key=value, got {text.strip()!r}; {nearest(key, fields)}")
    if key not in fields:
        raise InputError(f"target {spec!r}: unknown option {key!r}; {nearest(key, fields)}")
    default = fields[key].default
    if isinstance(default, int):
        try:
            return key, int(value)
        except ValueError:
            raise InputError(f"target {spec!r}: {key} must be a whole number, got {value!r}") from None
    valid: Sequence[str] = fields[key].metadata.get("valid", ())
    if value not in valid:
        raise InputError(f"target {spec!r}: {key} cannot be {value!r}; {nearest(value, valid)}")
    return key, value


def machine(target: Target) -> dict[str, Any]:
    """Where the figures come from: target, runtime version, processor, cores, platform."""
    return {
        "target": spec_of(target), "runtime": target.version(), "processor": _processor(), "cores": os.cpu_count(),
        "platform": platform.platform(), "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


@dataclass
class _Clock:
    """Runs of one model, round by round: wall seconds of the undisturbed, CPU seconds of the interrupted ones.

    Where every run was interrupted (a model that runs longer than the scheduler's time slice on a busy core) the CPU
    time of the one thread is far nearer the truth than the wall: 15.1 against 26.8 ms for a 15.0 ms model.
    """

    run: Run
    wants_clean: bool
    clean: list[list[float]] = field(default_factory=list)
    spoiled: list[list[float]] = field(default_factory=list)

    def round(self, seconds: float, runs: int) -> None:
        """Time runs for ``seconds`` and at least ``runs`` times, after one run to warm the caches."""
        self.clean.append([])
        self.spoiled.append([])
        self.run()
        end = time.perf_counter() + seconds
        done = 0
        while done < runs or time.perf_counter() < end:
            cpu, wall = time.thread_time(), time.perf_counter()
            self.run()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            if not self.wants_clean or wall <= SPOILED * cpu:
                self.clean[-1].append(wall)
            else:
                self.spoiled[-1].append(cpu)
            done += 1

    def result(self) -> tuple[float, float, bool]:
        """Least milliseconds, spread over rounds, and whether that is to be mistrusted."""
        rounds = [r for r in self.clean if r]
        trusted = bool(rounds)
        least = sorted(min(r) for r in (rounds or [r for r in self.spoiled if r]))
        spread = least[len(least) // 2] / least[0] - 1
        return least[0] * 1e3, spread, not trusted or spread > NOISY


def measure(
    target: Target,
    models: Mapping[str, nn.Module],
    example: Tensor | tuple[Tensor, ...],
    plan: MeasurePlan | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Timing:
    """Milliseconds of one batch of each model on ``target``, measured interleaved.

    Rounds visit all models in shuffled order, so that drift of the machine (2-8 % within minutes on a shared one) is
    common to all of them and cancels in ratios. The least run counts: other processes only ever add time.

    Args:
        models: name -> model; they are left as they were (a copy in eval mode is measured).
        example: the model's inputs, batch first; the first example of the batch is repeated ``target.batch`` times.
        progress: called with (steps done, steps): one for each model made ready, one for each round.

    Example:
        >>> timing = measure(parse("torch:threads=1,batch=1"), {"a": nn.Linear(4, 2)}, torch.zeros(1, 4))
        >>> timing.ms["a"] > 0
        True
    """
    plan, report = plan or MeasurePlan(), progress or (lambda done, total: None)
    tensors = (example,) if isinstance(example, Tensor) else tuple(example)
    inputs = tuple(t[:1].detach().cpu().repeat(target.batch, *[1] * (t.dim() - 1)) for t in tensors)
    threads = torch.get_num_threads()
    torch.set_num_threads(target.threads)
    try:
        clocks: dict[str, _Clock] = {}
        steps = len(models) + plan.rounds
        for name, model in models.items():
            clocks[name] = _Clock(target.prepare(model, inputs), wants_clean=target.threads == 1)
            report(len(clocks), steps)
        order, shuffle = list(clocks), random.Random(plan.seed)
        for number in range(plan.rounds):
            shuffle.shuffle(order)
            for name in order:
                clocks[name].round(plan.seconds / plan.rounds, -(-plan.runs // plan.rounds))
            report(len(models) + number + 1, steps)
    finally:
        torch.set_num_threads(threads)
    results = {name: clock.result() for name, clock in clocks.items()}
    spoiled, clean = (sum(len(r) for c in clocks.values() for r in getattr(c, k)) for k in ("spoiled", "clean"))
    return Timing(
        {n: r[0] for n, r in results.items()}, {n: r[1] for n, r in results.items()},
        tuple(n for n, r in results.items() if r[2]), spoiled / max(1, spoiled + clean),
    )
