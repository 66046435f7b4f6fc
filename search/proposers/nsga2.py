"""Evolution of a population towards the front: NSGA-II (Deb, Pratap, Agarwal, Meyarivan 2002), through Optuna."""

from __future__ import annotations

from dataclasses import dataclass, field

from optuna.samplers import BaseSampler

from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._generations import Generations, GenerationSampler
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers._study import StudySearch, distributions


@dataclass
class NSGA2:
    """Parents are chosen by non-dominated rank and crowding; children mix and mutate their variables.

    Attributes:
        setup: the run.
        population: candidates of a generation. The first generation is random, so a search needs several times as many
            trials before it does more than random search.
        crossover: probability that a child has two parents.
    """

    setup: ProposerSetup
    population: int = 16
    crossover: float = 0.9
    _generations: Generations = field(init=False, repr=False)
    _search: StudySearch = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"population: expected at least 2, got {self.population}")
        self._generations = Generations(self.population)
        self._search = StudySearch(self.setup, self._sampler, self._sampler, self._generations.close)

    def ask(self) -> Proposal | None:
        """The next proposal, never one that was asked before; None where nothing new is left."""
        return self._search.ask()

    def tell(self, outcome: Outcome) -> None:
        """Learn from a first-rung outcome of the search; others, and repeats, are passed over."""
        self._search.tell(outcome)

    def _sampler(self, seed: int) -> BaseSampler:
        space = distributions(self.setup.space)
        return GenerationSampler(self._generations, self.population, space, self.crossover, seed)
