from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from niwaki.distill import DataSpec, accuracy, build, load
from niwaki.spaces.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 6), ("val", 3)):
        for shade, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB" if i else "L", (40, 30), (0, 0, 200 * shade) if i else 100 * shade)
                picture.save(tmp_path / part / name / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_pictures_are_resized_and_cropped(folder: Path, memory: float) -> None:
    spec = DataSpec("image_folder", {"path": str(folder), "size": 16, "memory": memory}, validation=0.25)
    data = load(spec)
    assert (data.shape, data.classes, len(data.train), len(data.validation), len(data.test)) == (
        (3, 16, 16),
        2,
        9,
        3,
        6,
    )
    assert data.train.lazy == (memory == 0)
    images, labels = data.test.batch(torch.arange(6))
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images[1].unique().tolist() == [0]
    assert images[4, 2].unique().tolist() == [200]
    assert 0 <= accuracy(build("cifar_resnet20", 2), data) <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"test": "valid"}, r"data.options.test: no folder 'valid' .*\['train', 'val'\]"),
        ({"size": 0}, "size 0"),
        ({"size": 32, "resize": 16}, "resize 16"),
        ({"path": "no/such/folder"}, r"data.options.path: 'no/such/folder' does not exist"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(DataSpec("image_folder", {"path": str(folder), **options}))


def test_damaged_pictures_empty_and_differing_classes(folder: Path) -> None:
    spec = DataSpec("image_folder", {"path": str(folder), "size": 16})
    broken = folder / "train" / "cat" / "0.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cannot read picture .*0\.png"):
        load(spec)
    (folder / "val" / "owl").mkdir()
    with pytest.raises(InputError, match="owl"):
        load(spec)
    Image.new("L", (8, 8)).save(folder / "val" / "owl" / "0.png")
    with pytest.raises(InputError, match="differ: owl"):
        load(spec)
