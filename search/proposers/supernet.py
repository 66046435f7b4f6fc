"""One-shot search: all candidates inherit the weights of one training; evolution ranks them without training any."""

from __future__ import annotations

from dataclasses import dataclass, field

from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers.nsga2 import NSGA2
from niwaki.search.supernet import SupernetPlan, learn_supernet, supernet_weights
from niwaki.spaces import Space


@dataclass
class Supernet:
    """NSGA-II over candidates that carry the weights of a supernet (:mod:`niwaki.search.supernet`).

    A worker trains the supernet once, before the first trial; ``train.rungs`` should begin with 0 then, so that a trial
    is a recalibration of BatchNorm statistics and an evaluation.

    Attributes:
        setup: the run.
        images: training images of the supernet; its largest, smallest and ``middles`` random candidates see each.
        middles: random candidates a step.
        temperature: of the distillation from the largest candidate to the others.
        lr: peak learning rate of the supernet; None: a quarter of that of the run's trainings.
        population: as for ``nsga2``.
    """

    setup: ProposerSetup
    images: int = 90_000
    middles: int = 1
    temperature: float = 4.0
    lr: float | None = None
    population: int = 16
    _plan: SupernetPlan = field(init=False, repr=False)
    _search: NSGA2 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._plan = SupernetPlan(self.images, self.middles, self.temperature, self.lr, self.setup.seed)
        self._search = NSGA2(self.setup, population=self.population)

    @property
    def lessons(self) -> int:
        """Training images of the supernet, those of every candidate of a step counted."""
        return self.images * (self.middles + 2)

    @property
    def reusable(self) -> bool:
        """Whether the supernet is there: it holds for every budget."""
        lesson = self.setup.lesson
        return lesson is not None and supernet_weights(lesson.folder) is not None

    def learn(self) -> None:
        """Train the supernet; without a lesson there is none, and candidates are ranked as they come."""
        if self.setup.lesson is not None and isinstance(self.setup.space, Space):
            learn_supernet(self.setup.lesson, self.setup.space, self._plan)

    def ask(self) -> Proposal | None:
        """See :class:`niwaki.search.proposers.nsga2.NSGA2`."""
        return self._search.ask()

    def tell(self, outcome: Outcome) -> None:
        """See :class:`niwaki.search.proposers.nsga2.NSGA2`."""
        self._search.tell(outcome)
