"""torchvision's small image sets, held in memory as uint8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from niwaki.distill.sources._base import Parts, expanded
from niwaki.distill.splits import ArraySplit, as_labels
from niwaki.spaces.errors import InputError


def read(name: str, part: Callable[[str, bool], Any], path: str, download: bool) -> Parts:
    """Both parts of a set. ``part(root, train)`` opens one; ``path`` is the folder torchvision keeps its files in.

    Raises:
        InputError: the files are missing or damaged and ``download`` is off, or the download failed.
    """
    root = expanded(path, "data.options.path")
    try:
        train, test = part(str(root), True), part(str(root), False)
    except Exception as error:  # damaged archives and pickles raise anything
        hint = "the download failed" if download else "set data.options.download: true to fetch it"
        raise InputError(f"data.options.path: no usable {name} in {str(root)!r}: {hint} ({error})") from error
    return Parts(_in_memory(train, name), _in_memory(test, name), name)


def _in_memory(dataset: Any, name: str) -> ArraySplit:
    labels = as_labels(getattr(dataset, "targets", getattr(dataset, "labels", None)), f"data ({name})")
    images = (
        torch.from_numpy(np.ascontiguousarray(dataset.data)) if isinstance(dataset.data, np.ndarray) else dataset.data
    )
    if images.dim() == 3:  # (N, H, W): one channel
        images = images[:, None]
    elif images.shape[1] != 3:  # (N, H, W, C)
        images = images.permute(0, 3, 1, 2)
    return ArraySplit(images.contiguous(), labels)
