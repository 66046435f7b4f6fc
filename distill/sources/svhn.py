"""SVHN: 73,257 + 26,032 colour house numbers of 32x32 (Netzer et al., 2011)."""

from __future__ import annotations

from dataclasses import dataclass

from torchvision import datasets

from niwaki.distill.sources import _torchvision
from niwaki.distill.sources._base import Parts


@dataclass(frozen=True)
class Svhn:
    """torchvision's ``SVHN``.

    Attributes:
        path: folder that holds (or receives) the files, as torchvision lays them out.
        download: fetch what is missing.
    """

    path: str = "data"
    download: bool = False

    def read(self) -> Parts:
        return _torchvision.read(
            "svhn",
            lambda root, train: datasets.SVHN(root, "train" if train else "test", download=self.download),
            self.path,
            self.download,
        )
