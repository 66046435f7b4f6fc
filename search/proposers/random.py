"""Random search within the budget: the baseline that any sampler has to beat."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from niwaki.search.costing import Ints
from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._setup import Levels, ProposerSetup


@dataclass
class Random:
    """Every variable uniform over its choices, then fitted to the level; nothing is learned from outcomes."""

    setup: ProposerSetup
    _levels: Levels = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._levels = Levels(self.setup)

    def ask(self) -> Proposal | None:
        """The next proposal, never one that was asked before; None where nothing new is left."""
        return self._levels.propose(self._draw)

    def tell(self, outcome: Outcome) -> None:
        """Only remembers that the candidate was tried, so that a resumed search does not ask for it again."""
        self._levels.record(outcome)

    def _draw(self, rng: np.random.Generator, attempt: int) -> Ints:
        return rng.integers(0, self.setup.sizes)
