"""A NumPy archive with ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from niwaki.distill.sources._base import Parts, existing
from niwaki.distill.splits import ArraySplit, as_labels
from niwaki.spaces.errors import InputError, nearest

_CHANNELS = (1, 3, 4)
_NAMES = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Npz:
    """Images of (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float; labels of (N,) or (N, 1), integers.

    Attributes:
        path: the file. Object arrays (pickles) in it are refused.
        layout: where the channels are; ``auto`` looks for a dimension of 1, 3 or 4.
    """

    path: str
    layout: Literal["auto", "nhwc", "nchw"] = "auto"

    def read(self) -> Parts:
        path = existing(self.path, "path")
        arrays = _arrays(path)
        train, test = (self._split(arrays, part, path) for part in ("train", "test"))
        if train.images.shape[1:] != test.images.shape[1:] or train.images.dtype != test.images.dtype:
            raise InputError(
                f"{path}: x_train holds {train.images.dtype} {tuple(train.images.shape[1:])}, "
                f"x_test {test.images.dtype} {tuple(test.images.shape[1:])}; they must be alike"
            )
        return Parts(train, test, path.stem)

    def _split(self, arrays: dict[str, NDArray[np.generic]], part: str, path: Path) -> ArraySplit:
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if not x.ndim or not x.size:
            raise InputError(f"{path}: x_{part} is empty")
        labels = as_labels(y, f"{path}: y_{part}")
        if len(x) != len(labels):
            raise InputError(f"{path}: x_{part} has {len(x)} images, y_{part} {len(labels)} labels")
        if x.dtype != np.uint8:
            if x.dtype.kind != "f":
                raise InputError(f"{path}: x_{part} is {x.dtype}; images must be uint8 or float")
            bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
            if bad.any():
                raise InputError(
                    f"{path}: x_{part} holds NaN or infinity in {int(bad.sum())} of {len(x)} images "
                    f"(first: image {int(bad.argmax())})"
                )
            x = x.astype(np.float32, copy=False)
        return ArraySplit(self._channels_first(torch.from_numpy(x), f"{path}: x_{part}"), labels)

    def _channels_first(self, images: Tensor, what: str) -> Tensor:
        if images.dim() == 3:
            return images[:, None]
        if images.dim() != 4:
            raise InputError(
                f"{what} has shape {tuple(images.shape)}; (N, H, W), (N, H, W, C) or (N, C, H, W) are read"
            )
        layout = self.layout
        if layout == "auto":
            first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
            if first == last:
                raise InputError(
                    f"{what} has shape {tuple(images.shape)}: which dimension is the channels? "
                    "Set data.options.layout to 'nhwc' or 'nchw'"
                )
            layout = "nchw" if first else "nhwc"
        return images.permute(0, 3, 1, 2).contiguous() if layout == "nhwc" else images


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: is not an .npz archive with {', '.join(_NAMES)}")
        with archive:
            for name in _NAMES:
                if name not in archive.files:
                    raise InputError(f"{path}: no array {name!r} in it; {nearest(name, archive.files)}")
            return {name: archive[name] for name in _NAMES}
    except InputError:
        raise
    except Exception as error:  # damaged archives raise anything from zlib.error to NotImplementedError
        raise InputError(f"{path}: cannot be read as an .npz archive: {error}") from error
