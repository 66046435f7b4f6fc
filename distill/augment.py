"""Augmentation in batches, as a pure function of (seed, view, image index): any batch can be rebuilt anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from niwaki.spaces.errors import InputError, nearest


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image.

    Attributes:
        shift: largest move in either direction, as a share of the image's side: 1/8 is the usual 4 pixels at 32.
            What moves in from outside is zero (black before normalisation).
        flip: mirror left-right with probability 1/2.
    """

    shift: float = 0.0
    flip: bool = False

    def pad(self, shape: torch.Size | tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of padding for images of ``shape`` (..., H, W)."""
        return round(shape[-2] * self.shift), round(shape[-1] * self.shift)


AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "none": Augmentation(),
        "flip": Augmentation(flip=True),
        "shift": Augmentation(shift=1 / 8),
        "crop_flip": Augmentation(shift=1 / 8, flip=True),
    }
)
"""The names a recipe may use: ``crop_flip`` for photographs, ``shift`` for what must not be mirrored, ``none``.

A student that sees few images learns more from its teacher on views close to the images themselves: ``flip``, ``none``.
"""


@dataclass(frozen=True, eq=False)
class View:
    """One augmented view of a training set of N images: where each image is cropped and whether it is mirrored.

    Attributes:
        rows, columns: (N,) int64 offsets into the padded image, 0 .. 2 * pad.
        mirrored: (N,) bool.
        pad: rows and columns of padding on each side.
    """

    rows: Tensor
    columns: Tensor
    mirrored: Tensor
    pad: tuple[int, int]

    @property
    def idle(self) -> bool:
        """True where the view leaves every image as it is."""
        return self.pad == (0, 0) and not bool(self.mirrored.any())

    def to(self, device: torch.device) -> View:
        """The same view with its tensors on ``device``."""
        return View(self.rows.to(device), self.columns.to(device), self.mirrored.to(device), self.pad)


def named(name: str, where: str = "train.augment") -> Augmentation:
    """The augmentation a configuration calls ``name``; InputError with the nearest names where there is none."""
    if name not in AUGMENTATIONS:
        raise InputError(f"{where}: unknown augmentation {name!r}; {nearest(name, AUGMENTATIONS)}")
    return AUGMENTATIONS[name]


def derived_seed(*parts: int | str) -> int:
    """A seed in 0 .. 2**63 - 1 that depends on every part; neighbouring parts give unrelated seeds.

    Example:
        >>> derived_seed(0, "view", 1) == derived_seed(0, "view", 1) != derived_seed(0, "view", 2)
        True
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def view_of(name: str, count: int, shape: torch.Size | tuple[int, ...], seed: int, view: int) -> View:
    """View number ``view`` of ``count`` images of ``shape`` (C, H, W), drawn from one generator seeded by (seed, view).

    Raises:
        InputError: unknown name, or an augmentation that moves pixels asked for on data that are not images.

    Example:
        >>> v = view_of("crop_flip", 100, (3, 32, 32), seed=0, view=2)
        >>> v.pad, int(v.rows.max()) <= 8
        ((4, 4), True)
    """
    augmentation = named(name)
    if augmentation != Augmentation() and len(shape) != 3:
        raise InputError(f"train.augment: {name!r} needs images (C, H, W), the data are {tuple(shape)}; use 'none'")
    pad = augmentation.pad(shape) if len(shape) == 3 else (0, 0)
    generator = torch.Generator().manual_seed(derived_seed(seed, "view", view))
    rows = torch.randint(0, 2 * pad[0] + 1, (count,), generator=generator)
    columns = torch.randint(0, 2 * pad[1] + 1, (count,), generator=generator)
    coins = torch.rand(count, generator=generator)
    return View(rows, columns, (coins < 0.5) & augmentation.flip, pad)


def apply(view: View, images: Tensor, indices: Tensor) -> Tensor:
    """The images (B, C, H, W) whose training indices are ``indices`` (B,), as ``view`` shows them.

    One gather over flattened pixels moves and mirrors the whole batch: no loop over images, any dtype, any device.
    Everything must lie on one device.

    Example:
        >>> x = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
        >>> v = View(torch.tensor([1]), torch.tensor([1]), torch.tensor([True]), (1, 1))
        >>> apply(v, x, torch.tensor([0]))[0, 0, 0].tolist()    # centred: only the mirror shows
        [3, 2, 1, 0]
    """
    if images.dim() != 4 or view.idle:
        return images
    batch, channels, height, width = images.shape
    pad_rows, pad_columns = view.pad
    padded = F.pad(images, (pad_columns, pad_columns, pad_rows, pad_rows))
    across = torch.arange(width, device=images.device)
    rows = view.rows[indices, None] + torch.arange(height, device=images.device)
    mirrored = torch.where(view.mirrored[indices, None], width - 1 - across, across)
    columns = view.columns[indices, None] + mirrored
    flat = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).reshape(batch, 1, -1)
    moved = padded.flatten(2).gather(2, flat.expand(-1, channels, -1))
    return moved.reshape(batch, channels, height, width)
