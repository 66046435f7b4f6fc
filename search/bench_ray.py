"""A bench on another node of the Ray cluster: latency counts where the model will run, not where it is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from torch import nn

from niwaki.search.bench import Bench, Inputs, Progress
from niwaki.search.targets import MeasurePlan, Target, Timing
from niwaki.spaces import Candidate, InputError, Space, SpaceOptions, derive

RESOURCE = "niwaki_target"
_START = f"ray start --address=... --resources='{{\"{RESOURCE}\": 1}}'"
_POLL = 0.5  # seconds between two looks at how far the node is


def check_node(threads: int = 1) -> None:
    """Connect to the cluster, unless that was done; before anything is trained.

    Raises:
        InputError: there is no cluster, none of its nodes carries the resource, or none of those has enough CPUs.
    """
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.CRITICAL)
        except ConnectionError as error:
            raise InputError(
                f"no Ray cluster found to measure on; start one with: ray start --head, and on the target: {_START}"
            ) from error
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get(RESOURCE, 0) >= 1]
    if not cpus:
        raise InputError(f"no node of the cluster carries {RESOURCE!r}; start one with: {_START}")
    if max(cpus) < threads:
        most = f"no node that carries {RESOURCE!r} has more than {max(cpus)} CPUs"
        raise InputError(f"target: threads={threads}, but {most}")


class RayBench:
    """Measures like :class:`niwaki.search.bench.Bench`, on a node that carries the resource ``niwaki_target``.

    One process there holds the resource and as many CPUs as the target has threads, from the first measurement until
    :meth:`close`: nothing else that Ray places is measured on that node meanwhile, and no training takes its cores.

    Args:
        teacher: pickled and sent, so its class must be importable there, or be defined in ``__main__``.
        space: of the teacher. A Space holds traced graphs, which cannot be sent: the node derives it again.
        target: its runtime must be installed there.
        example: inputs, batch first.
        options: what ``space`` was derived with.

    Raises:
        InputError: see :func:`check_node`.
    """

    def __init__(
        self, teacher: nn.Module, space: Space, target: Target, example: Inputs, options: SpaceOptions | None = None
    ) -> None:
        check_node(target.threads)
        self.space = space
        self.target = target
        self._parts = (teacher, options, target, example)
        self._actor: Any = None

    @property
    def reason(self) -> str | None:
        """Why candidates are slow to make on this target; None where they are not."""
        reason: str | None = self._ask("reason")
        return reason

    def time(self, candidates: Sequence[Candidate], plan: MeasurePlan, progress: Progress | None = None) -> Timing:
        """See :meth:`niwaki.search.bench.Bench.time`."""
        timing: Timing
        if progress is None:
            timing = self._ask("time", list(candidates), plan, None)
        else:
            steps = _started(_Steps, num_cpus=0)
            timing = self._ask("time", list(candidates), plan, steps, meanwhile=lambda: _report(steps, progress))
        return timing

    def profile(self, candidates: Sequence[Candidate], runs: int = 20) -> dict[str, dict[str, float]]:
        """See :meth:`niwaki.search.bench.Bench.profile`."""
        rows: dict[str, dict[str, float]] = self._ask("profile", list(candidates), runs)
        return rows

    def machine(self) -> dict[str, Any]:
        """Of the node that measures."""
        facts: dict[str, Any] = self._ask("machine")
        return facts

    def close(self) -> None:
        """Let the node go; the next measurement takes it again."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _ask(self, method: str, *arguments: object, meanwhile: Callable[[], None] | None = None) -> Any:
        try:
            if self._actor is None:
                self._actor = self._opened()
            answer = getattr(self._actor, method).remote(*arguments)
            ready: list[Any] = []
            while meanwhile is not None and not ready:
                ready, _ = ray.wait([answer], timeout=_POLL)
                meanwhile()
            return ray.get(answer)
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None  # without the other process's traceback: it is the user's to mend
            raise

    def _opened(self) -> Any:
        check_node(self.target.threads)  # or Ray would wait for ever for a node that has left
        actor = _started(_Node, resources={RESOURCE: 1}, num_cpus=self.target.threads)
        digest, version = ray.get(actor.open.remote(*self._parts))
        if digest != self.space.digest:
            ray.kill(actor)
            raise InputError(
                f"the node that measures derives another space ({digest}) than this machine ({self.space.digest}): "
                f"it has torch {version}, this machine {torch.__version__}"
            )
        return actor


class _Node:
    """The bench in its own process."""

    def open(
        self, teacher: nn.Module, options: SpaceOptions | None, target: Target, example: Inputs
    ) -> tuple[str, str]:
        """Not at the start of the process: Ray would hide why it failed."""
        space = derive(teacher, example, options)
        self._bench = Bench(teacher, space, target, example)
        return space.digest, torch.__version__

    def time(self, candidates: Sequence[Candidate], plan: MeasurePlan, steps: Any) -> Timing:
        told: list[Any] = []
        report = None if steps is None else lambda done, total: told.append(steps.tell.remote(done, total))
        timing = self._bench.time(candidates, plan, report)
        ray.get(told)
        return timing

    def profile(self, candidates: Sequence[Candidate], runs: int) -> dict[str, dict[str, float]]:
        return self._bench.profile(candidates, runs)

    def machine(self) -> dict[str, Any]:
        return self._bench.machine()

    def reason(self) -> str | None:
        return self._bench.reason


class _Steps:
    """How far the node is. Asking the node itself would disturb what it measures."""

    def __init__(self) -> None:
        self._new: list[tuple[int, int]] = []

    def tell(self, done: int, total: int) -> None:
        self._new.append((done, total))

    def read(self) -> list[tuple[int, int]]:
        new, self._new = self._new, []
        return new


def _started(cls: type, **resources: Any) -> Any:
    """An actor; it ends with its handle."""
    return ray.remote(cls).options(**resources).remote()


def _report(steps: Any, progress: Progress) -> None:
    for done, total in ray.get(steps.read.remote()):
        progress(done, total)
