"""What is compressed and within what: the facts a run establishes before it trains anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from niwaki.distill import Data
from niwaki.search.bench import Measures
from niwaki.search.budget import Limits
from niwaki.search.config import Config
from niwaki.search.costing import Costing
from niwaki.search.events import Listener, Phase, PhaseFinished, PhaseStarted
from niwaki.search.staircase import Staircase
from niwaki.search.targets import MeasurePlan
from niwaki.search.threads import threads_for
from niwaki.spaces import Cost, Space
from niwaki.spaces.latency import LatencyModel


@dataclass(frozen=True, eq=False)
class Subject:
    """What is compressed, and within what: known before any training, because costs do not depend on weights.

    Attributes:
        teacher: on the CPU, in eval mode; untrained until ``equip`` where the run has to train it.
        cost: the teacher's; ``latency_ms`` measured, where there is a target.
        limits: absolute budgets.
        bench: measures latency, where there is a target.
        staircase: of the target, where it set the widths.
    """

    config: Config
    data: Data
    teacher: nn.Module
    space: Space
    costing: Costing
    cost: Cost
    limits: Limits
    bench: Measures | None
    staircase: Staircase | None = None

    @property
    def example(self) -> Tensor:
        return self.data.example(2)

    @property
    def threads(self) -> int:
        """Torch threads for the teacher's own work in this process."""
        return threads_for(self.cost.macs * self.config.train.batch_size)

    @property
    def measure_plan(self) -> MeasurePlan:
        latency = self.config.latency
        return MeasurePlan(latency.rounds, latency.seconds, seed=self.config.run.seed)

    @property
    def aims(self) -> Limits:
        """See :func:`aims`."""
        return aims(self.limits, self.costing)


def aims(limits: Limits, costing: Costing) -> Limits:
    """The limits that proposals are fitted to: tightened by what the latency model is usually wrong by."""
    model = costing.latency
    if not isinstance(model, LatencyModel) or "latency" not in limits.values:
        return limits
    aim = limits.values["latency"] * (1 - min(model.error.median, 0.05))
    return replace(limits, values={**limits.values, "latency": aim})


@contextmanager
def phase(name: Phase, listener: Listener, total: int | None = None) -> Iterator[list[str]]:
    """Announce a phase and its end; what the block appends to the list is the detail that is shown."""
    listener(PhaseStarted(name, total))
    start, detail = time.perf_counter(), list[str]()
    yield detail
    listener(PhaseFinished(name, time.perf_counter() - start, "; ".join(detail)))


def folder_of(config: Config) -> Path:
    """The run folder: ``run.folder``, else ``runs/<run.name>`` under the current directory."""
    return Path(config.run.folder) if config.run.folder is not None else Path("runs") / config.run.name
