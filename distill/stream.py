"""Which image is seen when: an endless seeded order, cut into batches at any place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from niwaki.distill import augment
from niwaki.distill.augment import View, derived_seed
from niwaki.distill.splits import Split


@dataclass(frozen=True)
class Plan:
    """The order in which a training sees its images.

    Epoch e is a permutation of the ``size`` training images, seeded by (seed, e). Image number k of the whole training
    is therefore known without the ones before it, and a training continued at ``first`` goes on where it stopped.

    Attributes:
        size: training images.
        images: how many to see. ``first``: the number of the first one.
        batch_size: images a step; the last batch holds what is left, and a single one left joins the batch before it.
        seed: of the permutations.

    Example:
        >>> [len(pieces[0][1]) for pieces in Plan(size=100, images=9, batch_size=4, seed=0)]
        [4, 5]
    """

    size: int
    images: int
    batch_size: int
    seed: int
    first: int = 0

    def __len__(self) -> int:
        full, tail = divmod(self.images, self.batch_size)
        return max(full + (tail > 1), 1)

    def __iter__(self) -> Iterator[list[tuple[int, Tensor]]]:
        """Batches, each a list of (epoch, indices): more than one piece where a batch reaches into the next epoch."""
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        end = self.first + self.images
        for step in range(len(self)):
            start = self.first + step * self.batch_size
            stop = end if step == len(self) - 1 else start + self.batch_size
            pieces = []
            while start < stop:
                if start // self.size != epoch:
                    epoch = start // self.size
                    generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", epoch))
                    order = torch.randperm(self.size, generator=generator)
                upto = min(stop, (epoch + 1) * self.size)
                pieces.append((epoch, order[start - epoch * self.size : upto - epoch * self.size]))
                start = upto
            yield pieces


@dataclass(frozen=True, eq=False)
class Batch:
    """Augmented images (B, C, H, W), uint8 or float32, labels (B,), their view numbers and training indices (B,)."""

    images: Tensor
    labels: Tensor
    views: Tensor
    indices: Tensor


class Reader:
    """Reads the batches of a plan, augmented by view ``epoch % views``, or a fresh view each epoch where views is None.

    ``split`` decides the device. ``seed`` is that of the views, and has nothing to do with the plan's.
    """

    def __init__(self, split: Split, augmentation: str, seed: int, views: int | None) -> None:
        self.split = split
        self.augmentation = augmentation
        self.seed = seed
        self.views = views
        self._kept: dict[int, View] = {}

    def read(self, pieces: list[tuple[int, Tensor]]) -> Batch:
        """One batch; ``pieces`` as :class:`Plan` yields them."""
        parts = []
        for epoch, order in pieces:
            number = epoch if self.views is None else epoch % self.views
            images, labels = self.split.batch(order)
            indices = order.to(images.device)
            images = augment.apply(self._view(number, images), images, indices)
            parts.append((images, labels, torch.full_like(indices, number), indices))
        return Batch(*(torch.cat(column) if len(parts) > 1 else column[0] for column in zip(*parts, strict=True)))

    def batches(self, plan: Iterable[list[tuple[int, Tensor]]]) -> Iterator[Batch]:
        """The batches of a plan or of a part of it, in order; slow ones are read by another thread, two ahead."""
        if not self.split.lazy:
            yield from map(self.read, plan)
            return
        with ThreadPoolExecutor(1) as pool:
            ahead: deque[Future[Batch]] = deque()
            for pieces in plan:
                ahead.append(pool.submit(self.read, pieces))
                if len(ahead) > 2:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _view(self, number: int, images: Tensor) -> View:
        if number not in self._kept:
            if len(self._kept) > 1:  # two: a batch may reach from one epoch into the next
                del self._kept[next(iter(self._kept))]
            view = augment.view_of(self.augmentation, len(self.split), images.shape[1:], self.seed, number)
            self._kept[number] = view.to(images.device)
        return self._kept[number]
