"""A template's file against a real export of the same candidate."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from torch import Tensor

from niwaki.search.targets._onnx_fit import LISTED
from niwaki.search.targets._onnx_graph import Network, TemplateError, attributes


def compare(made: bytes, real: bytes, inputs: tuple[Tensor, ...]) -> None:
    """TemplateError where the files differ in more than the values of weights, or do not give outputs of one shape."""
    mine, theirs = describe(Network.read(made)), describe(Network.read(real))
    if len(mine) != len(theirs):
        raise TemplateError(f"the template has {len(mine)} operations where an export has {len(theirs)}")
    for a, b in zip(mine, theirs, strict=True):
        if a != b:
            raise TemplateError(f"the template has {a} where an export has {b}")
    shapes = [[np.shape(x) for x in run(data, inputs)] for data in (made, real)]
    if shapes[0] != shapes[1]:
        raise TemplateError(f"the template gives outputs of shapes {shapes[0]}, an export of {shapes[1]}")


def describe(network: Network) -> list[tuple[Any, ...]]:
    """Each operation: its type, its inputs (constants: type, shape, values of shapes and bounds), its attributes."""
    origin: dict[str, Any] = {name: ("input", i) for i, name in enumerate(network.inputs)}
    rows = []
    for i, node in enumerate(network.nodes):
        inputs = []
        for name in node.input:
            array = network.arrays.get(name)
            if array is None:
                inputs.append(origin.get(name, name))
            else:
                listed = np.issubdtype(array.dtype, np.integer) and array.size <= LISTED
                inputs.append((str(array.dtype), array.shape, tuple(array.ravel().tolist()) if listed else ()))
        plain = {k: v for k, v in attributes(node).items() if not isinstance(v, float)}
        rows.append((node.op_type, tuple(inputs), sorted((k, str(v)) for k, v in plain.items())))
        origin |= {name: (i, j) for j, name in enumerate(node.output)}
    return rows


def run(data: bytes, inputs: tuple[Tensor, ...]) -> list[Any]:
    """The outputs of an ONNX file; TemplateError where the runtime refuses it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feed = {meta.name: t.numpy() for meta, t in zip(session.get_inputs(), inputs, strict=True)}
        return list(session.run(None, feed))
    except Exception as error:  # ONNX Runtime raises classes of its own making
        raise TemplateError(f"ONNX Runtime does not run the template: {str(error).splitlines()[0]}") from error
