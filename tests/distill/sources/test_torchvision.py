"""torchvision's sets share one reader; small files in their own formats stand in for the real ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from niwaki.distill import DataSpec, load
from niwaki.spaces.errors import InputError

SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "svhn": "SVHN"}


class Stand:
    """What torchvision's classes look like from outside: ``data`` and ``targets`` or ``labels``."""

    def __init__(self, images: Any, labels: Any, key: str) -> None:
        self.data = images
        setattr(self, key, labels)


def stand_in(name: str, calls: list[Any]) -> Any:
    def opened(root: str, train: Any = None, split: Any = None, download: bool = False) -> Stand:
        calls.append((root, train, split, download))
        labels = np.arange(20) % 2
        if name.startswith("cifar"):
            return Stand(np.random.randint(0, 256, (20, 32, 32, 3), np.uint8), labels.tolist(), "targets")
        if name == "svhn":
            return Stand(np.random.randint(0, 256, (20, 3, 32, 32), np.uint8), labels, "labels")
        return Stand(torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8), torch.from_numpy(labels), "targets")

    return opened


@pytest.mark.parametrize("name", SETS)
def test_images_are_channels_first_in_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(datasets, SETS[name], stand_in(name, calls))
    data = load(DataSpec(name, {"path": "~/sets", "download": True}))
    assert data.shape == ((1, 28, 28) if "mnist" in name else (3, 32, 32))
    assert data.train.batch(torch.arange(3))[0].dtype == torch.uint8
    assert not data.train.lazy
    assert [c[3] for c in calls] == [True, True]
    assert len({c[1:3] for c in calls}) == 2  # the training and the test part
    assert not calls[0][0].startswith("~")


@pytest.mark.parametrize("name", SETS)
def test_missing_files_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"no usable {name} .* set data.options.download: true"):
        load(DataSpec(name, {"path": str(tmp_path)}))


def test_files_in_the_format_of_fashion_mnist(tmp_path: Path) -> None:
    """IDX files (magic, sizes, bytes), read by torchvision itself."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 12), ("t10k", 4)):
        pixels = (np.arange(count * 28 * 28) % 251).astype(np.uint8)
        images = struct.pack(">iiii", 2051, count, 28, 28) + pixels.tobytes()
        labels = struct.pack(">ii", 2049, count) + bytes(i % 2 for i in range(count))
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            (raw / f"{stem}-{kind}-ubyte").write_bytes(content)
            (raw / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    data = load(DataSpec("fashion_mnist", {"path": str(tmp_path)}, validation=0.25))
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 4)
    assert data.test.batch(torch.tensor([1]))[0].flatten()[:3].tolist() == [784 % 251 + k for k in range(3)]
