"""Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28x28, 10 classes (Xiao et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from torchvision import datasets

from niwaki.distill.sources import _torchvision
from niwaki.distill.sources._base import Parts


@dataclass(frozen=True)
class FashionMnist:
    """torchvision's ``FashionMNIST``.

    Attributes:
        path: folder that holds (or receives) the files, as torchvision lays them out.
        download: fetch what is missing.
    """

    path: str = "data"
    download: bool = False

    def read(self) -> Parts:
        return _torchvision.read(
            "fashion_mnist",
            lambda root, train: datasets.FashionMNIST(root, train=train, download=self.download),
            self.path,
            self.download,
        )
