"""safetensors: the state dict, with sparse layers stored as values and a bitmap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from niwaki.search.export._base import ExportError, Subject
from niwaki.spaces.sparsity import Sparsity

_VALUES, _BITMAP, _SHAPE = ".values", ".bitmap", "shape:"


@dataclass(frozen=True)
class SafeTensors:
    """Keys are those of ``state_dict()``; the weight of a sparse layer is stored as ``KEY.values`` and ``KEY.bitmap``.

    The values are the non-zero weights in order, filled up with zeros to the number that the pattern keeps; bit i of
    the bitmap (uint8, most significant first) says whether weight i is stored; the shape is in the header. So the
    tensors' bytes are ``Cost.bytes`` exactly.

    Tensors that share memory in the model (tied weights) are stored under every key that names them.

    Example:
        >>> packed = pack({"fc.weight": torch.tensor([[0.0, 2.0], [0.0, 0.0]])}, {"fc": "0.5"})
        >>> {k: v.tolist() for k, v in packed[0].items()}
        {'fc.weight.values': [0.0, 2.0], 'fc.weight.bitmap': [192]}
    """

    filename: ClassVar[str] = "model.safetensors"

    def write(self, subject: Subject, path: Path) -> None:
        """ExportError where a layer has more non-zero weights than its pattern stores."""
        tensors, header = pack(subject.model.state_dict(), subject.sparsity)
        save_file({k: t.contiguous().clone() for k, t in tensors.items()}, str(path), metadata=header)

    def read(self, path: Path) -> dict[str, Tensor]:
        """The dense state dict, for ``load_state_dict``."""
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            return unpack(tensors, file.metadata() or {})

    def error(self, subject: Subject, path: Path) -> float:
        """0.0, or inf where anything is not equal bit for bit (zeros of sparse weights lose their sign)."""
        got, expected = self.read(path), dict(subject.model.state_dict())
        for layer in subject.sparsity:
            expected[f"{layer}.weight"] = expected[f"{layer}.weight"] + 0.0  # masking by multiplication leaves -0.0
        same = got.keys() == expected.keys() and all(_identity(got[k]) == _identity(t) for k, t in expected.items())
        return 0.0 if same else float("inf")


def pack(state: Mapping[str, Tensor], sparsity: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors to store and the header that :func:`unpack` needs. ``sparsity``: layer -> pattern token."""
    tensors, header = dict(state), {"format": "pt"}
    for layer, token in sparsity.items():
        key, rule = f"{layer}.weight", Sparsity.parse(token)
        weight = tensors.pop(key, None)
        if weight is None:
            raise ExportError(f"safetensors: sparse layer {layer!r} has no {key!r} in the state dict")
        kept = rule.kept(weight.numel(), weight.numel() // len(weight))
        flat = weight.detach().flatten()
        stored = flat != 0
        missing = kept - int(stored.sum())
        if missing < 0:
            found = kept - missing
            raise ExportError(f"safetensors: {key!r} has {found} non-zero weights, its pattern {token!r} keeps {kept}")
        stored[(~stored).nonzero().flatten()[:missing]] = True
        tensors[key + _VALUES] = flat[stored]
        tensors[key + _BITMAP] = torch.from_numpy(np.packbits(stored.numpy()))
        header[_SHAPE + key] = ",".join(map(str, weight.shape))
    return tensors, header


def unpack(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> dict[str, Tensor]:
    """Inverse of :func:`pack`."""
    state = dict(tensors)
    for name, text in header.items():
        if not name.startswith(_SHAPE):
            continue
        key, shape = name.removeprefix(_SHAPE), [int(n) for n in text.split(",")]
        values, bitmap = state.pop(key + _VALUES), state.pop(key + _BITMAP)
        dense = torch.zeros(shape, dtype=values.dtype)
        stored = torch.from_numpy(np.unpackbits(bitmap.numpy(), count=dense.numel()).astype(bool))
        dense.view(-1)[stored] = values
        state[key] = dense
    return state


def _identity(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    raw = tensor.detach().contiguous().flatten().view(torch.uint8)
    return tensor.dtype, tensor.shape, bytes(raw.numpy().tobytes())
