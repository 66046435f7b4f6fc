"""Where examples come from, one batch at a time: tensors in memory, a dataset read on demand, some rows of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from niwaki.distill.objects import told
from niwaki.spaces.errors import InputError

_CPU = torch.device("cpu")
_THREADS = 256


@runtime_checkable
class Split(Protocol):
    """Examples with labels. ``lazy`` says that reading a batch is slow enough to be worth doing ahead of its use."""

    @property
    def lazy(self) -> bool: ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), uint8 or float32, and labels (B,) int64 of the examples ``indices`` (B,) int64."""

    def to(self, device: torch.device) -> Split:
        """The same examples, held on (or delivered to) ``device``."""


@dataclass(frozen=True, eq=False)
class ArraySplit:
    """Examples held in memory: ``images`` (N, C, H, W) uint8 or float32, ``labels`` (N,) int64.

    Example:
        >>> split = ArraySplit(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
        >>> split.batch(torch.tensor([3]))[1]
        tensor([1])
    """

    images: Tensor
    labels: Tensor
    lazy: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        indices = indices.to(self.images.device)
        return self.images[indices], self.labels[indices]

    def to(self, device: torch.device) -> ArraySplit:
        return ArraySplit(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class LazySplit:
    """Examples read from a map-style dataset of (image, label) pairs when asked for, by ``workers`` threads."""

    dataset: Any
    labels: Tensor
    workers: int = 4
    device: torch.device = _CPU
    lazy: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        rows = indices.tolist()
        with ThreadPoolExecutor(self.workers) as pool:
            images = list(pool.map(lambda i: as_image(self.dataset[i][0], i), rows))
        labels = self.labels[indices.cpu()]
        return stacked(images, rows).to(self.device), labels.to(self.device)

    def to(self, device: torch.device) -> LazySplit:
        return LazySplit(self.dataset, self.labels, self.workers, device)


@dataclass(frozen=True, eq=False)
class Rows:
    """The examples ``rows`` (M,) int64 of another split, without copying them."""

    base: Split
    rows: Tensor

    @property
    def lazy(self) -> bool:
        return self.base.lazy

    @property
    def labels(self) -> Tensor:
        return self.base.labels[self.rows.to(self.base.labels.device)]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.base.batch(self.rows[indices.to(self.rows.device)])

    def to(self, device: torch.device) -> Split:
        if isinstance(self.base, ArraySplit) and device != self.base.images.device:
            return ArraySplit(*self.base.batch(self.rows)).to(device)  # only these rows travel
        return self if isinstance(self.base, ArraySplit) else Rows(self.base.to(device), self.rows)


def chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
    """``rows`` (N,) in pieces of at most ``size``.

    Example:
        >>> [c.tolist() for c in chunks(torch.arange(3), 2)]
        [[0, 1], [2]]
    """
    return (rows[start : start + size] for start in range(0, len(rows), size))


def as_image(item: Any, index: int) -> Tensor:
    """A dataset's item as a tensor (C, H, W): tensors as they are, arrays and PIL images with channels moved first.

    Raises:
        InputError: the item is none of these, or holds NaN or infinity.
    """
    if not isinstance(item, Tensor):
        if hasattr(item, "convert"):  # a PIL image; palettes and alpha become plain colours
            item = item if item.mode in ("L", "RGB") else item.convert("RGB")
        array = np.array(item)
        if array.dtype.kind not in "uifb":
            raise InputError(f"data: item {index} is a {type(item).__name__}, not an image, an array or a tensor")
        item = torch.from_numpy(array)
        if item.dim() == 3:
            item = item.permute(2, 0, 1)
    image: Tensor = item
    if image.dim() == 2:
        image = image[None]
    if image.dtype != torch.uint8:
        image = image.float()
        if not bool(image.isfinite().all()):
            raise InputError(f"data: item {index} holds NaN or infinity")
    return image


def stacked(images: Sequence[Tensor], indices: Sequence[int]) -> Tensor:
    """The images as one tensor (B, C, H, W); InputError naming the first whose shape or type differs."""
    first = images[0]
    for image, index in zip(images, indices, strict=True):
        if image.shape != first.shape or image.dtype != first.dtype:
            raise InputError(
                f"data: item {index} is {image.dtype} {tuple(image.shape)}, "
                f"item {indices[0]} is {first.dtype} {tuple(first.shape)}; all must be alike"
            )
    return torch.stack(list(images))


def from_dataset(dataset: Any, memory: float, workers: int, where: str) -> Split:
    """A split of a map-style dataset of (image, label): read into memory where that takes at most ``memory`` GiB.

    Labels come from ``dataset.targets`` or ``dataset.labels`` where it has them, else every item is read once.
    The dataset must not augment at random: Niwaki augments, and a teacher's stored answers belong to fixed images.

    Raises:
        InputError: not a sized dataset of pairs, no items, images unlike each other, NaN, labels that are no integers.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(
            f"{where}: a {type(dataset).__name__} is no map-style dataset (it needs __len__ and __getitem__)"
        )
    if not 1 <= workers <= _THREADS:
        raise InputError(f"{where}: workers: {workers!r} is not between 1 and {_THREADS}")
    count = len(dataset)
    if count == 0:
        raise InputError(f"{where}: the dataset is empty")
    item = _item(dataset, 0, where)
    if not (isinstance(item, tuple | list) and len(item) == 2):
        raise InputError(f"{where}: items must be (image, label) pairs, item 0 is a {type(item).__name__}")
    first = as_image(item[0], 0)
    fits = count * first.numel() * first.element_size() <= memory * 2**30
    known = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if not fits and known is not None:
        return LazySplit(dataset, as_labels(known, where), workers)
    with ThreadPoolExecutor(workers) as pool:
        pairs = pool.map(lambda i: _read(dataset, i, where, keep=fits), range(count))
        images, labels = zip(*pairs, strict=True)
    targets = as_labels(labels, where)
    return ArraySplit(stacked(images, range(count)), targets) if fits else LazySplit(dataset, targets, workers)


def _read(dataset: Any, index: int, where: str, keep: bool) -> tuple[Tensor | None, Any]:
    item = _item(dataset, index, where)
    if len(item) != 2:
        raise InputError(f"{where}: items must be (image, label) pairs, item {index} has {len(item)} parts")
    return (as_image(item[0], index) if keep else None), item[1]


def _item(dataset: Any, index: int, where: str) -> Any:
    try:
        return dataset[index]
    except InputError:
        raise
    except Exception as error:  # a dataset of the user's may raise anything
        raise InputError(f"{where}: item {index}: {told(error)}") from error


def as_labels(values: Any, where: str) -> Tensor:
    """Labels as (N,) int64; InputError where they are not one integer an example."""
    try:
        array = np.asarray(
            [int(v) if isinstance(v, Tensor) else v for v in values] if isinstance(values, list | tuple) else values
        )
    except (RuntimeError, ValueError) as error:  # of several elements, or lists of different lengths
        raise InputError(f"{where}: labels must be one integer an example: {error}") from error
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{where}: labels must be one integer an example, got {array.dtype} of shape {array.shape}")
    return torch.from_numpy(array.astype(np.int64))
