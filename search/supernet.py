"""One training for all candidates: the sandwich rule with in-place distillation on the elastic model.

Yu & Huang 2019 (arXiv 1903.05134, section 3): every step trains the largest candidate on the task and, towards its
answers, the smallest and some random ones in between. Candidates then inherit their weights and are judged untrained.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from niwaki.distill import FitProgress, FitRun, fit, main_logits
from niwaki.distill.augment import derived_seed
from niwaki.distill.losses.hinton import softened_divergence
from niwaki.search.files import read_tensors, write_tensors_atomic
from niwaki.search.proposers._setup import Lesson
from niwaki.search.threads import torch_threads
from niwaki.spaces import Candidate, Elastic, Space

FILE = "supernet.safetensors"
"""Name of the checkpoint in a run folder."""
_PARTS = 10
"""Checkpoints of a training: a run that was stopped repeats at most one part."""
_DONE = "niwaki.parts"
"""Key of the number of parts that a checkpoint has behind it."""


@dataclass(frozen=True)
class SupernetPlan:
    """How the elastic model is trained.

    Attributes:
        images: training images that the largest candidate sees; each is also seen by ``middles`` + 1 others.
        middles: random candidates a step, beside the largest and the smallest.
        temperature: of the in-place distillation.
        lr: peak learning rate; None: a quarter of the recipe's, since the elastic model begins as a trained teacher
            (at the recipe's own a CIFAR-10 ResNet-20 lost 4 points more of its accuracy, and all candidates with it).
        seed: of the candidates drawn and of the order of the images.
    """

    images: int = 90_000
    middles: int = 1
    temperature: float = 4.0
    lr: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"images": 2 * _PARTS, "middles": 0, "temperature": 1e-6, "lr": 1e-12}
        for key, least in limits.items():
            value = getattr(self, key)
            if value is not None and not value >= least:
                raise ValueError(f"{key} must be at least {least:g}, got {value}")


@dataclass(eq=False)
class Sandwich:
    """More loss for a step of :func:`niwaki.distill.fit`: what the other candidates are off the largest one's answers.

    Example:
        >>> from torch import nn
        >>> from niwaki.spaces import derive
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> space = derive(net, torch.zeros(2, 8))
        >>> elastic, x = Elastic(net, space), torch.randn(5, 8)
        >>> Sandwich(elastic, space, SupernetPlan())(x, elastic(x)).item() > 0
        True
    """

    elastic: Elastic
    space: Space
    plan: SupernetPlan
    _generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(derived_seed(self.plan.seed, "sandwich"))

    def __call__(self, images: Tensor, logits: Tensor) -> Tensor:
        """Normalised images and the largest candidate's logits ``(B, classes)`` -> scalar."""
        answers, total = logits.detach().float(), torch.zeros((), device=logits.device)
        self.elastic.tracks = False  # running statistics are the largest's: students are refit or recalibrated by them
        for candidate in [self.space.smallest(), *(self.middle() for _ in range(self.plan.middles))]:
            self.elastic.switch(candidate)
            found = main_logits(self.elastic(images)).float()
            total = total + softened_divergence(found, answers, self.plan.temperature)
        self.elastic.switch(self.space.largest())
        self.elastic.tracks = True
        return total

    def middle(self) -> Candidate:
        """First how large, then every choice around that: independent choices would all cost about the same."""
        sizes = torch.tensor([len(v.choices) for v in self.space.variables])
        place = torch.rand(1, generator=self._generator) + 0.3 * torch.randn(len(sizes), generator=self._generator)
        return self.space.canonical(self.space.decode((place.clamp(0, 1) * (sizes - 1)).round().long().tolist()))


def learn_supernet(lesson: Lesson, space: Space, plan: SupernetPlan) -> None:
    """Train the elastic model of the lesson's teacher, in parts: after each, weights and progress are in a checkpoint.

    A training that is begun again with the same folder goes on from there; :func:`supernet_weights` reads the end.
    """
    checkpoint = lesson.folder / FILE
    elastic = Elastic(lesson.teacher, space, lesson.scores).to(lesson.device)
    ends = [plan.images * part // _PARTS for part in range(_PARTS + 1)]
    recipe = replace(lesson.recipe, lr=lesson.recipe.lr / 4 if plan.lr is None else plan.lr)
    for part in range(_recovered(elastic, checkpoint), _PARTS):
        first, last = ends[part], ends[part + 1]
        drawn = replace(plan, seed=derived_seed(plan.seed, "part", part))

        def report(at: FitProgress, first: int = first) -> None:
            lesson.report(first + at.images, plan.images)

        here = FitRun(
            answers=lesson.answers, seed=plan.seed, first_image=first, schedule=plan.images, report=report,
            also=Sandwich(elastic, space, drawn),
        )  # fmt: skip
        with torch_threads(lesson.threads):
            fit(elastic, lesson.data, recipe.scaled(last - first), here)
        write_tensors_atomic(checkpoint, {**elastic.state_dict(), _DONE: torch.tensor(part + 1)})


def supernet_weights(folder: Path) -> dict[str, Tensor] | None:
    """The trained weights under the teacher's state-dict keys; None where no training in this folder is finished."""
    tensors = read_tensors(folder / FILE) if (folder / FILE).is_file() else {}
    return tensors if int(tensors.pop(_DONE, torch.tensor(0))) == _PARTS else None


def _recovered(elastic: Elastic, checkpoint: Path) -> int:
    """Parts that are done, with their weights loaded."""
    if not checkpoint.is_file():
        return 0
    tensors = read_tensors(checkpoint)
    done = int(tensors.pop(_DONE))
    elastic.load_state_dict(tensors)
    return done
