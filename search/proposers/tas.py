"""Architectures learned by gradients: Transformable Architecture Search (Dong & Yang, NeurIPS 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from niwaki.search.costing import Ints
from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._setup import Levels, ProposerSetup
from niwaki.search.tas.sampling import Schedule, label
from niwaki.search.tas.search import Search
from niwaki.search.tas.settings import Settings
from niwaki.search.threads import torch_threads

_COSTS_ALONE = 50


@dataclass
class TAS:
    """Learns widths and depths on the training data before the first proposal; see ``niwaki.search.tas``.

    At every level of the budget the likeliest candidate is proposed first, fitted to the level like any proposal (it is
    in a band under the budget, and what is left of the budget is given back), then draws from the learned
    distribution, ever more freely as they repeat. Nothing is learned from outcomes. Sparsities stay dense at first.

    Attributes:
        setup: the run; its lesson says what to learn from. Without one, costs alone speak.
        images: training images that the whole search sees, all levels and both halves together.
        batch_size, lr, arch_lr, temperature, weight, tolerance, fresh: see ``niwaki.search.tas.settings.Settings``.
    """

    setup: ProposerSetup
    images: int = 50_000
    batch_size: int = 64
    lr: float = 0.05
    arch_lr: float | None = None
    temperature: Schedule = "linear"
    weight: float = 2.0
    tolerance: float = 0.05
    fresh: bool = False
    _levels: Levels = field(init=False, repr=False)
    _found: list[dict[str, Tensor]] | None = field(init=False, repr=False, default=None)

    patience = 40
    """Draws in a row without a new candidate after which uniform ones replace the learned ones."""

    def __post_init__(self) -> None:
        if min(self.images, self.batch_size) < 2 or min(self.lr, self.weight, self.tolerance) < 0:
            raise ValueError("images, batch_size: at least 2; lr, weight, tolerance: at least 0")
        if self.arch_lr is not None and self.arch_lr <= 0:
            raise ValueError(f"arch_lr: expected a number above 0, got {self.arch_lr}")
        self._levels = Levels(self.setup)

    @property
    def lessons(self) -> int:
        """Training images of the whole search."""
        settings = self.settings
        return 2 * settings.batch_size * settings.steps * len(self.setup.levels)

    @property
    def reusable(self) -> bool:
        """False: what was learned belongs to its budget."""
        return False

    def learn(self) -> None:
        """Search, or read what a search left in the lesson's folder, and go on with it where it is not finished."""
        lesson = self.setup.lesson
        with torch_threads(1 if lesson is None else lesson.threads):
            search = Search(self.setup, self._levels.limits, self.settings)
            self._found = search.run() if lesson is None else search.run(lesson.report)

    def ask(self) -> Proposal | None:
        """The next proposal, never one that was asked before; None where nothing new is left."""
        if self._found is None:
            self.learn()
        return self._levels.propose(self._draw)

    def tell(self, outcome: Outcome) -> None:
        """Only remembers that the candidate was tried, so that a resumed search does not ask for it again."""
        self._levels.record(outcome)

    @property
    def settings(self) -> Settings:
        """Of the search that ``images`` pays for; costs alone are learned from in few steps."""
        most = _COSTS_ALONE if self.setup.lesson is None else self.images
        steps = max(min(self.images // (2 * self.batch_size * len(self.setup.levels)), most), 1)
        return Settings(
            steps, self.batch_size, self.lr, arch_lr=self.arch_lr, temperature=self.temperature, weight=self.weight,
            tolerance=self.tolerance, fresh=self.fresh,
        )  # fmt: skip

    def _draw(self, rng: np.random.Generator, attempt: int) -> Ints:
        if attempt >= self.patience or not self._found:
            return rng.integers(0, self.setup.sizes)
        logits, softness = self._found[self._levels.index], 1 + attempt / 10
        softness = softness if attempt else 0
        row = [_chosen(logits.get(label(v)), len(v.choices), softness, rng) for v in self.setup.space.variables]
        return np.array(row, dtype=np.int64)


def _chosen(logits: Tensor | None, size: int, softness: float, rng: np.random.Generator) -> int:
    """A choice at this softness of the distribution, 0: the likeliest one; without logits the last, then any."""
    if logits is None:
        return int(rng.integers(0, size)) if softness > 2 else size - 1
    if not softness:
        return int(logits.argmax())
    chances = torch.softmax(logits.double() / softness, 0).numpy()
    return int(rng.choice(size, p=chances / chances.sum()))
