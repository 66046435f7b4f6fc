"""What all workers of a run read and none may change: arrays, mapped into memory once for all processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from niwaki.distill import ArraySplit, Data, DataSpec, Split, load
from niwaki.search.files import read_json, write_json_atomic
from niwaki.search.settings import DataConfig

_PARTS = ("train", "validation")


@dataclass(frozen=True)
class Sealed:
    """The test split as a worker sees it: nothing that ranks or trains candidates can touch it."""

    lazy: bool = False

    @property
    def labels(self) -> Tensor:
        self._refuse()

    def __len__(self) -> int:  # noqa: PLE0303 - it never returns
        self._refuse()

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self._refuse()

    def to(self, device: torch.device) -> Split:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RuntimeError("the test split is read once, for the final front; trials see training and validation data")


def data_spec(config: DataConfig) -> DataSpec:
    """What :func:`niwaki.distill.load` wants to know, ``path`` put in its place among the source's options."""
    options: dict[str, Any] = dict(config.options) | ({} if config.path is None else {"path": config.path})
    return DataSpec(config.source, options, config.validation, config.seed, config.limit, config.mean, config.std)


def share_data(data: Data, folder: Path) -> bool:
    """Write training and validation examples that are held in memory; False (and nothing) for data read lazily."""
    if any(data.part(name).lazy for name in _PARTS):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for name in _PARTS:
        part = data.part(name)
        images, labels = part.batch(torch.arange(len(part)))
        np.save(folder / f"{name}_images.npy", images.cpu().numpy())
        np.save(folder / f"{name}_labels.npy", labels.cpu().numpy())
    facts = {"classes": data.classes, "mean": list(data.mean), "std": list(data.std), "name": data.name}
    write_json_atomic(folder / "data.json", facts)
    return True


def open_data(folder: Path, config: DataConfig) -> Data:
    """The data of a run for a worker: mapped from ``folder`` where :func:`share_data` wrote them, else read again."""
    if not (folder / "data.json").is_file():
        data = load(data_spec(config))
        return Data(data.train, data.validation, Sealed(), data.classes, data.mean, data.std, data.name)
    facts = read_json(folder / "data.json")
    train, validation = (ArraySplit(_mapped(folder / f"{n}_images.npy"), _mapped(folder / f"{n}_labels.npy"))
                         for n in _PARTS)
    return Data(train, validation, Sealed(), facts["classes"], tuple(facts["mean"]), tuple(facts["std"]), facts["name"])


def _mapped(path: Path) -> Tensor:
    # mode "c": pages are shared with the other workers and copied only if somebody writes; torch warns about "r"
    return torch.from_numpy(np.load(path, mmap_mode="c"))
