"""Training, validation and test examples as one value, split once by a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from niwaki.distill.augment import derived_seed
from niwaki.distill.objects import build
from niwaki.distill.sources._base import Parts, Source
from niwaki.distill.splits import Rows, Split, chunks, from_dataset
from niwaki.spaces import registry
from niwaki.spaces.errors import InputError

_SAMPLE = 4096  # images that mean and std of data read on demand are computed from


@dataclass(frozen=True)
class DataSpec:
    """Which data, and how they are split.

    Attributes:
        source: name of a file in ``distill/sources``: digits, cifar10, npz, image_folder, python...
        options: the fields of that source (paths, sizes, ``download``).
        validation: part of the training examples held out, a share (0 .. 1) of them, the same share of every class.
        seed: of that split (and of ``limit``).
        limit: use at most so many training examples (after validation was held out), classes in proportion.
        mean, std: per channel, for values of 0 .. 1 (uint8 / 255) or as the floats are; None: computed from the
            training part.
    """

    source: str = "digits"
    options: Mapping[str, Any] = field(default_factory=dict)
    validation: float = 0.1
    seed: int = 0
    limit: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """Examples to train on, to rank candidates by, and to judge the final front by.

    Attributes:
        train, validation, test: see :class:`niwaki.distill.splits.Split`.
        classes: labels are 0 .. classes - 1.
        mean, std: per channel; see :meth:`normalise`.
        name: of the source.
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: (C, H, W)."""
        return tuple(self.train.batch(torch.zeros(1, dtype=torch.int64))[0].shape[1:])

    def normalise(self, images: Tensor) -> Tensor:
        """(B, C, ...) uint8 or float -> float32 ``(x - mean) / std``, where x is ``images / 255`` for uint8."""
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean, std = (torch.tensor(v, device=images.device) for v in (self.mean, self.std))
        shape = (1, -1) + (1,) * (images.dim() - 2)
        return (images.float() * (1 / (scale * std)).view(shape)).sub_((mean / std).view(shape))

    def example(self, count: int = 2) -> Tensor:
        """The first ``count`` training examples, normalised: (count, C, H, W) float32 on the CPU."""
        images, _ = self.train.batch(torch.arange(count) % len(self.train))
        return self.normalise(images.cpu())

    def part(self, name: str) -> Split:
        """The split called ``train``, ``validation`` or ``test``."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in parts:
            raise ValueError(f"split {name!r} is none of {', '.join(parts)}")
        return parts[name]


def load(spec: DataSpec) -> Data:
    """Read the source and split it; the same spec gives the same examples in the same order on every machine.

    Raises:
        InputError: unknown source or option, missing or damaged files, NaN, one class, an empty part.

    Example:
        >>> data = load(DataSpec("digits"))
        >>> data.classes, len(data.train) + len(data.validation) + len(data.test)
        (10, 1797)
    """
    found = registry.load("niwaki.distill.sources", spec.source, "data.source")
    source: Source = build(found, spec.options, "data.options")
    parts, path = source.read(), str(spec.options.get("path", ""))
    try:
        return assemble(parts, spec)
    except InputError as error:
        if path in str(error):
            raise
        raise InputError(f"{path}: {error}") from error


def from_datasets(train: Any, test: Any, spec: DataSpec | None = None, memory: float = 2.0) -> Data:
    """Data from two ``torch.utils.data.Dataset`` objects of (image, label) pairs; ``spec`` says how to split.

    Held in memory where it takes at most ``memory`` GiB. Images may be PIL images, arrays (H, W[, C]) or
    tensors (C, H, W); they must not be augmented at random.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> pair = TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 2)
        >>> from_datasets(pair, pair).classes
        2
    """
    parts = Parts(from_dataset(train, memory, 4, "data.train"), from_dataset(test, memory, 4, "data.test"), "datasets")
    return assemble(parts, spec or DataSpec("python"))


def assemble(parts: Parts, spec: DataSpec) -> Data:
    """Check the parts, hold validation out of the training part, compute mean and std."""
    if not 0 < spec.validation < 1:
        raise InputError(
            f"data.validation: {spec.validation!r} is not between 0 and 1 (a share of the training examples)"
        )
    labels = parts.train.labels
    classes = _classes(labels, parts.test.labels, parts.name)
    held, rest = stratified(labels, spec.validation, derived_seed(spec.seed, "validation"))
    if spec.limit is not None and spec.limit < len(rest):
        if spec.limit < 2:
            raise InputError(f"data.limit: {spec.limit!r} leaves no data to train on")
        chosen, _ = stratified(labels[rest], spec.limit / len(rest), derived_seed(spec.seed, "limit"))
        rest = rest[chosen]
    if not len(held) or not len(rest):
        raise InputError(
            f"data.validation: {spec.validation!r}: {len(labels)} training examples leave {len(rest)} to train and "
            f"{len(held)} to validate"
        )
    train = Rows(parts.train, rest)
    mean, std = _moments(train, spec)
    return Data(train, Rows(parts.train, held), parts.test, classes, mean, std, parts.name)


def stratified(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of ``round(share * N)`` examples with every class in proportion, and of the others; both ascending.

    Fractions of an example go to the classes with the largest remainders (Hamilton's method).

    Example:
        >>> chosen, others = stratified(torch.arange(100) % 2, 0.1, seed=0)
        >>> len(chosen), int((chosen % 2).sum()), len(others)
        (10, 5, 90)
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[torch.argsort(labels[order], stable=True)]
    counts = torch.bincount(labels)
    exact = counts * (round(share * len(labels)) / len(labels))
    take = exact.floor().to(torch.int64)
    missing = round(share * len(labels)) - int(take.sum())
    take[torch.argsort(exact - take, descending=True, stable=True)[:missing]] += 1
    starts = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(labels)) - starts[labels[by_class]]
    chosen = place < take[labels[by_class]]
    return by_class[chosen].sort().values, by_class[~chosen].sort().values


def _classes(train: Tensor, test: Tensor, name: str) -> int:
    for part, labels in (("training", train), ("test", test)):
        if not len(labels):
            raise InputError(f"data ({name}): the {part} split is empty")
    if int(train.max()) >= len(train):  # no room for an example of each; counting them could need terabytes
        raise InputError(
            f"data ({name}): labels must be 0 .. C - 1 with examples of each; found {int(train.max())} among "
            f"{len(train)} examples"
        )
    found = torch.bincount(train) if int(train.min()) >= 0 else None
    if found is None or bool((found == 0).any()):
        lacking = (
            "negative ones" if found is None else f"class {int((found == 0).nonzero()[0])} has no training example"
        )
        raise InputError(f"data ({name}): labels must be 0 .. C - 1 with examples of each; found {lacking}")
    if len(found) < 2:
        raise InputError(f"data ({name}): all {len(train)} training examples have one class; at least two are needed")
    if int(test.min()) < 0 or int(test.max()) >= len(found):
        raise InputError(
            f"data ({name}): test labels go from {int(test.min())} to {int(test.max())}, "
            f"training labels from 0 to {len(found) - 1}"
        )
    return len(found)


def _moments(train: Split, spec: DataSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel; a channel that never changes gets std 1."""
    channels = train.batch(torch.zeros(1, dtype=torch.int64))[0].shape[1]
    for key, given in (("mean", spec.mean), ("std", spec.std)):
        if given is not None and (len(given) != channels or (key == "std" and min(given) <= 0)):
            raise InputError(
                f"data.{key}: {given!r} must be {channels} numbers{' above 0' * (key == 'std')}, one a channel"
            )
    if spec.mean is not None and spec.std is not None:
        return tuple(spec.mean), tuple(spec.std)
    rows = torch.arange(len(train))
    if train.lazy and len(train) > _SAMPLE:
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(derived_seed(spec.seed, "moments")))[
            :_SAMPLE
        ]
    total = torch.zeros(2, channels, dtype=torch.float64)
    values = 0
    for chunk in chunks(rows, 512):
        images, _ = train.batch(chunk)
        x = (images.float() / 255 if images.dtype == torch.uint8 else images).transpose(0, 1).flatten(1)
        total += torch.stack([x.sum(1, dtype=torch.float64), (x * x).sum(1, dtype=torch.float64)])
        values += x.shape[1]
    mean = total[0] / values
    std = (total[1] / values - mean**2).clamp_min(0).sqrt()
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return spec.mean or tuple(mean.tolist()), spec.std or tuple(std.tolist())
