"""Pictures in folders, one folder a class: ``path/train/<class>/*.jpg`` and ``path/val/<class>/*.jpg``."""

from __future__ import annotations

from dataclasses import dataclass

from torchvision import datasets
from torchvision.transforms import v2

from niwaki.distill.sources._base import Parts, existing
from niwaki.distill.splits import from_dataset
from niwaki.spaces.errors import InputError

_LARGEST, _THREADS = 8192, 256


@dataclass(frozen=True)
class ImageFolder:
    """Pictures in class folders, resized (shorter side) and cropped in the middle.

    Attributes:
        path: folder with a folder for training and one for testing.
        train, test: names of those two.
        size: side of the square crop, pixels.
        resize: shorter side before the crop, pixels; 0: ``size * 8 / 7`` (256 for 224).
        memory: hold a part in memory (as uint8) where it takes at most so many GiB, else read pictures when needed.
        workers: threads that decode.
    """

    path: str
    train: str = "train"
    test: str = "val"
    size: int = 224
    resize: int = 0
    memory: float = 2.0
    workers: int = 4

    def __post_init__(self) -> None:
        sizes = 1 <= self.size <= _LARGEST and (not self.resize or self.size <= self.resize <= 2 * _LARGEST)
        if not sizes or not 1 <= self.workers <= _THREADS:
            raise InputError(
                f"data.options: size {self.size}, resize {self.resize}, workers {self.workers}: size must be 1 to "
                f"{_LARGEST}, resize 0 or at least size, workers 1 to {_THREADS}"
            )

    def read(self) -> Parts:
        root = existing(self.path, "path")
        if not root.is_dir():
            raise InputError(f"data.options.path: {str(root)!r} is no folder")
        steps = v2.Compose([v2.Resize(self.resize or round(self.size * 8 / 7)), v2.CenterCrop(self.size)])
        opened = []
        for key, name in (("train", self.train), ("test", self.test)):
            folder = root / name
            if not folder.is_dir():
                there = sorted(p.name for p in root.iterdir() if p.is_dir())
                raise InputError(
                    f"data.options.{key}: no folder {name!r} in {str(root)!r}; it holds: {there or 'no folders'}"
                )
            try:
                opened.append(datasets.ImageFolder(str(folder), loader=_colour, transform=steps))
            except FileNotFoundError as error:
                raise InputError(f"data.options.{key}: {str(folder)!r}: {error}") from error
        if opened[0].classes != opened[1].classes:
            odd = sorted(set(opened[0].classes) ^ set(opened[1].classes))
            raise InputError(
                f"data.options: class folders of {self.train!r} and {self.test!r} differ: {', '.join(odd[:5])}"
            )
        train, test = (from_dataset(d, self.memory, self.workers, f"data ({d.root})") for d in opened)
        return Parts(train, test, "image_folder")


def _colour(path: str) -> object:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Exception as error:  # decoders raise anything on damaged bytes
        raise InputError(f"data: cannot read picture {path!r}: {error}") from error
