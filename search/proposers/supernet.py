"""One-shot search: all candidates inherit the weights of one training; evolution ranks them without training any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers.nsga2 import NSGA2
from niwaki.search.supernet import SupernetPlan


@dataclass
class Supernet:
    """NSGA-II over candidates that carry the weights of a supernet (:mod:`niwaki.search.supernet`).

    The run trains the supernet once, before its first trial; ``train.rungs`` should begin with 0 then, so that a trial
    is a recalibration of BatchNorm statistics and an evaluation.

    Attributes:
        setup: the run.
        images: training images of the supernet; its largest, smallest and ``middles`` random candidates see each.
        middles: random candidates a step.
        temperature: of the distillation from the largest candidate to the others.
        lr: peak learning rate of the supernet; None: that of the run's trainings.
        population: as for ``nsga2``.
    """

    setup: ProposerSetup
    images: int = 90_000
    middles: int = 2
    temperature: float = 4.0
    lr: float | None = None
    population: int = 16
    needs: ClassVar[tuple[str, ...]] = ("supernet",)
    _search: NSGA2 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._search = NSGA2(self.setup, population=self.population)

    @staticmethod
    def spent(options: Mapping[str, Any]) -> int:
        """Training images before the first trial, those of every candidate of a step counted."""
        plan = SupernetPlan.of(options, 0)
        return plan.images * (plan.middles + 2)

    def ask(self) -> Proposal | None:
        """See :class:`niwaki.search.proposers.nsga2.NSGA2`."""
        return self._search.ask()

    def tell(self, outcome: Outcome) -> None:
        """See :class:`niwaki.search.proposers.nsga2.NSGA2`."""
        self._search.tell(outcome)
