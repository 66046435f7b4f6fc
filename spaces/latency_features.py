"""Sums over a candidate's layers that its latency is made of: one function a set, layers -> named ``(N,)`` columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from niwaki.spaces.cost import LayerRow

Columns = dict[str, NDArray[np.float64]]
_BLOCK = 16
"""Channels that CPU kernels handle at once (AVX-512 floats): the latency of a convolution is a staircase of them."""
_FILTERS = 64
"""Output channels for which the input is read once."""


def kind_of(layer: LayerRow) -> str:
    if layer.op in ("linear", "matmul"):
        return "linear"
    if layer.op != "conv":
        return "other"
    if int(np.max(layer.groups, initial=1)) > 1:
        return "grouped"
    return "conv1" if layer.kernel == 1 else "convk"


def up(channels: NDArray[np.int64], step: int = _BLOCK) -> NDArray[np.int64]:
    return -(-channels // step) * step


def traffic(layer: LayerRow) -> NDArray[np.int64]:
    return layer.positions * (layer.inputs * layer.stride**2 + layer.outputs)


def _add(columns: Columns, name: str, layer: LayerRow, value: Any) -> None:
    columns[name] = columns.get(name, np.zeros(1)) + np.where(layer.alive, value, 0.0)


def _macs(layers: Sequence[LayerRow]) -> Columns:
    """MACs, and the number of layers: enough where one kind of layer dominates, and safe with few measurements."""
    columns: Columns = {}
    for layer in layers:
        _add(columns, "macs", layer, layer.macs)
        _add(columns, "layers" if kind_of(layer) != "other" else "others", layer, 1.0)
    return columns


def _classes(layers: Sequence[LayerRow]) -> Columns:
    """Sums per kind of layer: MACs, elements read and written, weights, number."""
    columns: Columns = {}
    for layer in layers:
        kind = kind_of(layer)
        _add(columns, f"{kind}.layers", layer, 1.0)
        _add(columns, f"{kind}.traffic", layer, traffic(layer))
        if kind != "other":
            _add(columns, f"{kind}.macs", layer, layer.macs)
            _add(columns, "weights", layer, layer.weights)
    return columns


def _rounded(layers: Sequence[LayerRow]) -> Columns:
    """As ``classes``, with output channels rounded up to the 16 that kernels handle at once."""
    columns: Columns = {}
    for layer in layers:
        kind = kind_of(layer)
        _add(columns, f"{kind}.layers", layer, 1.0)
        _add(columns, "traffic", layer, traffic(layer))
        if kind != "other":
            _add(columns, f"{kind}.macs16", layer, layer.macs * (up(layer.outputs) / np.maximum(layer.outputs, 1)))
            _add(columns, "weights", layer, layer.weights)
    return columns


def _kernels(layers: Sequence[LayerRow]) -> Columns:
    """Kernel-aware sums: inputs that are a multiple of 4 take a path in blocks padded to 16, others a plain one."""
    columns: Columns = {}
    for layer in layers:
        kind = kind_of(layer)
        if kind in ("other", "linear"):
            _add(columns, f"{kind}.layers", layer, 1.0)
            _add(columns, f"{kind}.traffic", layer, traffic(layer))
            _add(columns, f"{kind}.macs", layer, layer.macs)
            continue
        blocked = (layer.inputs % 4 == 0) & (layer.inputs >= _BLOCK)
        outputs = up(layer.outputs) / np.maximum(layer.outputs, 1)
        inputs = np.where(blocked & (layer.groups == 1), up(layer.inputs) / np.maximum(layer.inputs, 1), 1.0)
        passes = layer.positions * up(layer.inputs) * -(-layer.outputs // _FILTERS)
        for path, here in (("blocked", blocked), ("plain", ~blocked)):
            _add(columns, f"{kind}.{path}.layers", layer, here * 1.0)
            _add(columns, f"{kind}.{path}.macs16", layer, here * layer.macs * outputs * inputs)
            _add(columns, f"{kind}.{path}.passes", layer, here * np.where(layer.groups == 1, passes, 0))
        _add(columns, "conv.traffic", layer, traffic(layer))
        _add(columns, "conv.weights", layer, layer.weights)
    return columns


FEATURES: Mapping[str, Callable[[Sequence[LayerRow]], Columns]] = {
    "macs": _macs,
    "classes": _classes,
    "rounded": _rounded,
    "kernels": _kernels,
}
