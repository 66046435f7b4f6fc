"""CIFAR-10: 50,000 + 10,000 colour photographs of 32x32 in 10 classes (Krizhevsky, 2009)."""

from __future__ import annotations

from dataclasses import dataclass

from torchvision import datasets

from niwaki.distill.sources import _torchvision
from niwaki.distill.sources._base import Parts


@dataclass(frozen=True)
class Cifar10:
    """torchvision's ``CIFAR10``.

    Attributes:
        path: folder that holds (or receives) the files, as torchvision lays them out.
        download: fetch what is missing.
    """

    path: str = "data"
    download: bool = False

    def read(self) -> Parts:
        return _torchvision.read(
            "cifar10",
            lambda root, train: datasets.CIFAR10(root, train=train, download=self.download),
            self.path,
            self.download,
        )
