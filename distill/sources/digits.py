"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn ships: real data without a download (UCI, 1998)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from niwaki.distill.sources._base import Parts
from niwaki.distill.splits import ArraySplit
from niwaki.spaces.errors import InputError


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits, grey values 0 .. 16 stretched to 0 .. 255.

    Attributes:
        test: share of the images that is the test split (the set has none of its own).
        seed: of that split; apart from the seed of the validation split, so that the test images stay the same.
    """

    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.test < 1:
            raise InputError(f"data.options.test: {self.test!r} is not between 0 and 1")

    def read(self) -> Parts:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        rows = np.arange(len(labels))
        try:
            train, test = train_test_split(rows, test_size=self.test, random_state=self.seed, stratify=labels)
        except ValueError as error:
            raise InputError(f"data.options: test {self.test!r}, seed {self.seed!r}: {error}") from error
        pixels = torch.from_numpy(np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8))
        targets = torch.from_numpy(labels.astype(np.int64))
        parts = [ArraySplit(pixels[rows], targets[rows]) for rows in (np.sort(train), np.sort(test))]
        return Parts(parts[0], parts[1], "digits")
