"""Which units and which weights stay."""

from niwaki.pruning.collect import collect
from niwaki.pruning.masks import Masks, Pattern, pattern_for
from niwaki.pruning.needs import Criterion, Grouped, Needs, Stats
from niwaki.pruning.reconstruct import Chosen, Refit, Refitter
from niwaki.pruning.score import score_groups
from niwaki.pruning.select import select

__all__ = ["Chosen", "Criterion", "Grouped", "Masks", "Needs", "Pattern", "Refit", "Refitter", "Stats", "collect",
           "pattern_for", "score_groups", "select"]
