"""Tree-structured Parzen estimators (Bergstra et al. 2011; multi-objective: Ozaki et al. 2022), through Optuna."""

from __future__ import annotations

from dataclasses import dataclass, field

from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers._study import StudySearch


@dataclass
class TPE:
    """Draws where the density of good trials is high against that of the rest, over all variables together.

    Attributes:
        setup: the run.
        startup: outcomes before the model is used; until then draws are uniform.
        candidates: points drawn from the model, of which the best is taken.
    """

    setup: ProposerSetup
    startup: int = 16
    candidates: int = 24
    _search: StudySearch = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.startup < 1 or self.candidates < 1:
            raise ValueError(f"startup, candidates: expected at least 1, got {self.startup}, {self.candidates}")
        self._search = StudySearch(self.setup, self._sampler, lambda seed: RandomSampler(seed=seed))

    def ask(self) -> Proposal | None:
        """The next proposal, never one that was asked before; None where nothing new is left."""
        return self._search.ask()

    def tell(self, outcome: Outcome) -> None:
        """Learn from a first-rung outcome of the search; others, and repeats, are passed over."""
        self._search.tell(outcome)

    def _sampler(self, seed: int) -> BaseSampler:
        # multivariate: univariate, the default with several objectives, takes four times as long and ignores that
        # widths matter together. constant_liar: trials in flight repel new ones.
        return TPESampler(
            n_startup_trials=self.startup, n_ei_candidates=self.candidates, multivariate=True, constant_liar=True,
            seed=seed,
        )
