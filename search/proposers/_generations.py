"""NSGA-II's generations kept as they grow: Optuna's own sampler reads the whole study for every proposal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import UniformCrossover
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class Generations:
    """Which finished trials make up which generation, and whom each generation descends from.

    The rules are those of Optuna's sampler: a trial belongs to the youngest generation that has finished trials, or to
    the next one as soon as that one is full. Optuna counts them anew for each trial, over all trials of the study;
    here each finished trial is looked at once, so that a proposal costs the same after 100 trials and after 10,000.

    Args:
        size: trials of a full generation.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._of: dict[int, int] = {}  # number of an open trial -> its generation
        self._youngest = 0
        self.members: dict[int, list[FrozenTrial]] = defaultdict(list)
        self.parents: dict[int, list[FrozenTrial]] = {0: []}

    def generation(self, number: int) -> int:
        """Of the open trial with this number: the same each time."""
        if number not in self._of:
            full = len(self.members[self._youngest]) >= self._size
            self._of[number] = self._youngest + full
        return self._of[number]

    def close(self, trial: FrozenTrial) -> None:
        """A trial has ended; only complete ones live on."""
        generation = self._of.pop(trial.number, 0)
        if trial.state == TrialState.COMPLETE:
            self.members[generation].append(trial)
            self._youngest = max(self._youngest, generation)

    def descend(self, generation: int, chosen: list[FrozenTrial]) -> None:
        """These are the parents of a generation; of those that no later one descends from nothing is kept."""
        self.parents[generation] = sorted(chosen, key=lambda t: t.number)
        for past in (self.members, self.parents):
            for old in [g for g in past if g < generation - 1]:
                del past[old]


class GenerationSampler(NSGAIISampler):
    """Optuna's NSGA-II, which looks up generations and the search space instead of deriving them from the study.

    Args:
        generations: told of every trial that ends; shared by all samplers of a study.
        space: every trial's variables, which is what Optuna would find to be common to all.
        crossover: probability that a child has two parents.
        seed: of this sampler.
    """

    def __init__(
        self, generations: Generations, size: int, space: Mapping[str, BaseDistribution], crossover: float, seed: int
    ) -> None:
        super().__init__(population_size=size, crossover=UniformCrossover(), crossover_prob=crossover, seed=seed)
        self._generations, self._all = generations, dict(sorted(space.items()))  # Optuna's order, and so its draws

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._all

    def get_trial_generation(self, study: Study, trial: FrozenTrial) -> int:
        return self._generations.generation(trial.number)

    def get_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(self._generations.members[generation], key=lambda t: t.number)

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        known = self._generations.parents
        if generation in known:
            return known[generation]
        chosen = self.select_parent(study, generation)
        self._generations.descend(generation, chosen)
        return chosen
