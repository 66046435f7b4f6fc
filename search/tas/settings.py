"""How a TAS search goes."""

from __future__ import annotations

from dataclasses import dataclass

from niwaki.search.tas.sampling import Schedule

ENOUGH = 5.0
"""Learning rate times steps that logits need to separate; the paper's 0.001 x 58,800 is more than that."""


@dataclass(frozen=True)
class Settings:
    """How a search goes; the paper's values for CIFAR in brackets.

    Attributes:
        steps: for each level of the budget, one of weights and one of the architecture each [58,800].
        batch_size: of both [256].
        lr: of the weights, SGD with Nesterov momentum 0.9, a cosine to 0 over each level [0.1].
        weight_decay: of the weights [5e-4].
        arch_lr: of the logits, Adam with betas (0.5, 0.999); None: 0.001, or what makes ``lr * steps`` 5.
        arch_decay: of the logits [1e-3].
        temperature: ``linear`` 10 to 0.1 [paper], ``cosine`` 5 to 0.1 [its code].
        weight: of the cost loss [2].
        tolerance: width of the band under the budget, as a share of the largest model's cost [0.05].
        fresh: begin with new weights [yes], not with the teacher's.
        every: steps between two checkpoints.
    """

    steps: int
    batch_size: int = 64
    lr: float = 0.05
    weight_decay: float = 5e-4
    arch_lr: float | None = None
    arch_decay: float = 1e-3
    temperature: Schedule = "linear"
    weight: float = 2.0
    tolerance: float = 0.05
    fresh: bool = False
    every: int = 200

    @property
    def logits_lr(self) -> float:
        return self.arch_lr if self.arch_lr is not None else max(1e-3, ENOUGH / self.steps)
