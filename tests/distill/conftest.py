"""Small data and a plain model, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from niwaki.distill import ArraySplit, Data, DataSpec, assemble
from niwaki.distill.sources import Parts


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(count: int, seed: int, classes: int = 3) -> ArraySplit:
    """Pictures of 8x8 with one bright column a class, under noise: learnt in a few steps, by no means at random."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 100, (count, 2, 8, 8), generator=generator)
    images[torch.arange(count), :, :, 1 + 2 * labels] += 120
    return ArraySplit(images.to(torch.uint8), labels)


@pytest.fixture
def data() -> Data:
    return assemble(Parts(blobs(110, 0), blobs(60, 1), "blobs"), DataSpec(validation=20 / 110))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 3)
    )


class Pairs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A map-style dataset of given images and labels, that counts how often it is read."""

    def __init__(self, images: Tensor, labels: list[int], known: bool = False) -> None:
        self.images, self.reads = images, 0
        self.answers = labels
        if known:
            self.targets = labels

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        return self.images[index], self.answers[index]


@pytest.fixture
def pairs() -> type[Pairs]:
    return Pairs
