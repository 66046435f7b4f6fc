"""What a TAS search learns on: two halves of the training data, one for weights and one for the architecture."""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.distill.augment import derived_seed
from niwaki.distill.evaluate import main_logits
from niwaki.distill.stream import Reader
from niwaki.search.proposers._setup import Lesson
from niwaki.search.tas.network import SearchNet
from niwaki.search.tas.sampling import Draw
from niwaki.spaces import Space

Half = Literal["weights", "architecture"]


class Task:
    """Batches and losses of a search; every batch follows from the seed and the number of the step alone.

    The halves are of ``data.train``: what ranks candidates later (``validation``) has no say in the architecture.

    Args:
        fresh: begin with weights drawn anew, as the paper does, instead of with the teacher's.
    """

    def __init__(self, lesson: Lesson, space: Space, batch_size: int, seed: int, fresh: bool = False) -> None:
        self.lesson, self.batch_size, self.seed = lesson, batch_size, seed
        teacher = copy.deepcopy(lesson.teacher).to(lesson.device)
        if fresh:
            renew(teacher, derived_seed(seed, "weights"))
        self.net = SearchNet(teacher, space, {} if fresh else lesson.scores)
        split = lesson.data.train.to(lesson.device)
        self.rows = dict(zip(("weights", "architecture"), halves(split.labels.cpu(), seed), strict=True))
        self.reader = Reader(split, lesson.recipe.augment, derived_seed(seed, "views"), None)

    def loss(self, half: Half, draw: Draw, step: int) -> Tensor:
        """Cross-entropy of the drawn network on the batch of ``step``."""
        batch = self.reader.read(self.pieces(half, step))
        outputs = self.net(draw, self.lesson.data.normalise(batch.images))
        return F.cross_entropy(main_logits(outputs).float(), batch.labels)

    def pieces(self, half: Half, step: int) -> list[tuple[int, Tensor]]:
        """Epochs and training indices of one batch: for weights in shuffled epochs, for the architecture at random."""
        rows = self.rows[half]
        if half == "architecture":
            generator = torch.Generator().manual_seed(derived_seed(self.seed, half, step))
            drawn = torch.randint(len(rows), (self.batch_size,), generator=generator)
            return [(step * self.batch_size // len(rows), rows[drawn])]
        found, first, last = [], step * self.batch_size, (step + 1) * self.batch_size
        while first < last:
            epoch, offset = divmod(first, len(rows))
            generator = torch.Generator().manual_seed(derived_seed(self.seed, half, epoch))
            taken = torch.randperm(len(rows), generator=generator)[offset : offset + last - first]
            found.append((epoch, rows[taken]))
            first += len(taken)
        return found


def halves(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two halves of the indices of ``labels`` (N,), each with half of every class; of an odd one the first has more.

    Example:
        >>> [h.shape[0] for h in halves(torch.tensor([0, 1, 0, 1, 1]), seed=0)]
        [3, 2]
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "halves"))
    first, second = [], []
    for label in torch.unique(labels):
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        first.append(rows[: (len(rows) + 1) // 2])
        second.append(rows[(len(rows) + 1) // 2 :])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def renew(model: nn.Module, seed: int) -> None:
    """Draw the weights of every module that knows how to (``reset_parameters``) anew."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
