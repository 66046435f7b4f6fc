"""An ONNX file in a form in which candidates of one space differ by sizes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow")


class TemplateError(Exception):
    """Why this model cannot have a template; its candidates are then exported for real."""


@dataclass(eq=False)
class Network:
    """Nodes in order, and every constant by name.

    ``head``: the file without nodes and constants. ``sizes``: shapes of the tensors between the nodes, as far as the
    file tells them.
    """

    head: onnx.ModelProto
    nodes: list[NodeProto]
    arrays: dict[str, Array]
    sizes: dict[str, tuple[int, ...]]

    @classmethod
    def read(cls, data: bytes) -> Network:
        """Parsed and normalised: :func:`_explicit`, :func:`_fold`, :func:`_scalars`."""
        head = onnx.load_from_string(data)
        graph = head.graph
        if graph.sparse_initializer or head.functions:
            raise TemplateError("the ONNX file has sparse constants or functions")
        infos = [*graph.value_info, *graph.input, *graph.output]
        network = cls(
            head, list(graph.node), {t.name: numpy_helper.to_array(t) for t in graph.initializer},
            {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos},
        )
        for field in ("node", "initializer", "value_info", "metadata_props"):
            graph.ClearField(field)
        _explicit(network)
        _fold(network)
        _scalars(network)
        network.nodes = alive(network.nodes, network.outputs)
        return network

    @property
    def inputs(self) -> list[str]:
        return [i.name for i in self.head.graph.input]

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self.head.graph.output]

    def sites(self) -> Iterator[tuple[int, int, str]]:
        """(node, input slot, name) of every use of a constant."""
        for i, node in enumerate(self.nodes):
            for slot, name in enumerate(node.input):
                if name in self.arrays:
                    yield i, slot, name


def attributes(node: NodeProto) -> dict[str, Any]:
    """Attribute -> value; tensors and graphs as their bytes."""
    out = {}
    for a in node.attribute:
        value = helper.get_attribute_value(a)
        out[a.name] = value.SerializeToString() if hasattr(value, "SerializeToString") else value
    return out


def alive(nodes: list[NodeProto], outputs: list[str]) -> list[NodeProto]:
    """The nodes that the outputs depend on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def tensor(name: str, array: Array) -> TensorProto:
    """A constant of an ONNX file."""
    out: TensorProto = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
    return out


def _explicit(network: Network) -> None:
    """Sizes that the exporter leaves open where a candidate happens to allow it are written out.

    A split into equal parts names their number or their sizes; a reshape names a size or says -1.
    """
    for node in network.nodes:
        known = [network.sizes.get(name, ()) for name in node.output]
        if node.op_type == "Split" and len(node.input) == 1 and all(known):
            axis = attributes(node).get("axis", 0)
            node.ClearField("attribute")
            node.attribute.append(helper.make_attribute("axis", axis))
            _constant(network, node, [size[axis] for size in known])
        if node.op_type == "Reshape" and known[0] and (wish := network.arrays.get(node.input[1])) is not None:
            kept_zero = bool(attributes(node).get("allowzero", 0))
            _constant(network, node, [k if w == -1 or (w == 0 and not kept_zero) else int(w)
                                      for w, k in zip(wish, known[0], strict=True)])


def _constant(network: Network, node: NodeProto, values: list[int]) -> None:
    """``values`` as the second input of ``node``, as a constant of its own."""
    name = f"{node.name}_sizes"
    network.arrays[name] = np.array(values, dtype=np.int64)
    del node.input[1:]
    node.input.append(name)


def _fold(network: Network) -> None:
    """Compute what depends on constants alone; the exporter does so only below some size, the runtime always."""
    left = []
    for node in network.nodes:
        if not node.input or any(name and name not in network.arrays for name in node.input):
            left.append(node)
            continue
        feed = {name: network.arrays[name] for name in node.input if name}
        try:
            results = list(ReferenceEvaluator(node).run(None, feed))
        except Exception as error:  # whatever a reference implementation does not do is left to the runtime
            raise TemplateError(f"{node.op_type} {node.name!r} of constants: {error}") from error
        network.arrays.update(zip(node.output, results, strict=True))
    network.nodes = left


def _scalars(network: Network) -> None:
    """A factor of one element has one form: attention's scale is a vector where its head width was known early."""
    for node in network.nodes:
        if node.op_type in ELEMENTWISE and len(network.sizes.get(node.output[0], ())) > 1:
            for slot, name in enumerate(node.input):
                array = network.arrays.get(name)
                if array is not None and array.shape == (1,):
                    node.input[slot] = f"{node.name}_scalar{slot}"
                    network.arrays[node.input[slot]] = array.reshape(())
