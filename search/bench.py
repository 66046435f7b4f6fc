"""Times candidates of one space on one target, interleaved with their teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from niwaki.search.targets import MeasurePlan, Run, Target, Timing, machine, measure_runs, repeated
from niwaki.spaces import Candidate, Space, carve

TEACHER = "teacher"
"""The anchor's name in every timing."""
Inputs = Tensor | tuple[Tensor, ...]
Progress = Callable[[int, int], None]


class Maker(Protocol):
    """Makes a candidate ready to run on a target.

    Attributes:
        reason: why a faster way could not be taken, for the user; None where there is nothing to say.
    """

    reason: str | None

    def __call__(self, candidate: Candidate) -> Run: ...

    def profile(self, candidate: Candidate, runs: int) -> dict[str, float]:
        """Operation (``LayerRow.name``) -> milliseconds by the runtime's own profiler; empty where it has none."""
        ...


class Measures(Protocol):
    """What calibrating and aiming need of a bench, here or on another node."""

    @property
    def space(self) -> Space: ...
    @property
    def reason(self) -> str | None: ...
    def time(self, candidates: Sequence[Candidate], plan: MeasurePlan, progress: Progress | None = None) -> Timing: ...
    def profile(self, candidates: Sequence[Candidate], runs: int = 20) -> dict[str, dict[str, float]]: ...
    def machine(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


@runtime_checkable
class MakesCandidates(Protocol):
    """A target that makes the candidates of a space in a faster way than one by one from carved modules."""

    def maker(self, space: Space, make: Callable[[Candidate], nn.Module], inputs: tuple[Tensor, ...]) -> Maker: ...


class Bench:
    """Measures on this machine.

    Args:
        teacher: measured in every round as the anchor.
        space: of its candidates; which units a candidate keeps does not matter to time.
        example: inputs, batch first; one example is repeated to the target's batch.

    Example:
        >>> import torch
        >>> from niwaki.search.targets import parse
        >>> from niwaki.spaces import derive
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> bench = Bench(net, derive(net, torch.zeros(2, 8)), parse("torch"), torch.zeros(2, 8))
        >>> timing = bench.time([bench.space.smallest()], MeasurePlan(rounds=2, seconds=0.01))
        >>> sorted(timing.ms) == sorted([TEACHER, bench.space.smallest().key])
        True
    """

    def __init__(self, teacher: nn.Module, space: Space, target: Target, example: Inputs) -> None:
        self.teacher = teacher
        self.space = space
        self.target = target
        self.inputs = repeated(example, target)

    @property
    def reason(self) -> str | None:
        """Why candidates are slow to make on this target; None where they are not."""
        return self._maker.reason

    def time(self, candidates: Sequence[Candidate], plan: MeasurePlan, progress: Progress | None = None) -> Timing:
        """Milliseconds of one batch by candidate key, and of the teacher under ``TEACHER``, from the same rounds."""
        report = progress or (lambda done, total: None)
        steps = len(candidates) + plan.rounds
        runs = {TEACHER: self._anchor}
        for done, candidate in enumerate(candidates, start=1):
            runs[candidate.key] = self._maker(candidate)
            report(done, steps)
        return measure_runs(runs, plan, self.target, lambda done, total: report(len(candidates) + done, steps))

    def profile(self, candidates: Sequence[Candidate], runs: int = 20) -> dict[str, dict[str, float]]:
        """Candidate key -> operation -> milliseconds by the runtime's profiler; empty where the target has none."""
        found = {c.key: self._maker.profile(c, runs) for c in candidates}
        return {key: rows for key, rows in found.items() if rows}

    def machine(self) -> dict[str, Any]:
        """Where the figures come from."""
        return machine(self.target)

    def close(self) -> None:
        """Nothing is held here between measurements; a bench on another node holds its cores."""

    @cached_property
    def _anchor(self) -> Run:
        """The teacher, made as candidates are: an export drops the zero biases of an untrained one, a template not."""
        if isinstance(self.target, MakesCandidates):
            return self._maker(self.space.largest())
        return self.target.prepare(self.teacher, self.inputs)

    @cached_property
    def _maker(self) -> Maker:
        def make(candidate: Candidate) -> nn.Module:
            return carve(self.teacher, self.space, candidate)

        if isinstance(self.target, MakesCandidates):
            return self.target.maker(self.space, make, self.inputs)
        return _Carved(make, self.target, self.inputs)


class _Carved:
    """Candidates made ready one by one from carved modules."""

    reason: str | None = None

    def __init__(self, make: Callable[[Candidate], nn.Module], target: Target, inputs: tuple[Tensor, ...]) -> None:
        self._make, self._target, self._inputs = make, target, inputs

    def __call__(self, candidate: Candidate) -> Run:
        return self._target.prepare(self._make(candidate), self._inputs)

    def profile(self, candidate: Candidate, runs: int) -> dict[str, float]:
        return {}
