"""ONNX files of a space's candidates in milliseconds: a few real exports tell what changes from one to another."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx
import torch
from torch import Tensor, nn

from niwaki.search.export._base import ExportError
from niwaki.search.export.onnx import ONNX
from niwaki.search.targets._onnx_check import compare
from niwaki.search.targets._onnx_depth import Exit, find_exits, without
from niwaki.search.targets._onnx_fit import Blueprint, Fit
from niwaki.search.targets._onnx_graph import Network, TemplateError
from niwaki.search.targets._onnx_rows import all_rows, direct_rows
from niwaki.search.targets._onnx_sizes import Sizes, shallowest
from niwaki.spaces.space import Space
from niwaki.spaces.types import Candidate

__all__ = ["OnnxTemplate", "TemplateError"]


@dataclass(eq=False)
class _Depth:
    """The file of one set of removed blocks, without constants; ``places`` of its nodes in the blueprint."""

    model: onnx.ModelProto
    places: list[int]
    constants: list[str]
    rows: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class OnnxTemplate:
    """Four or five real exports, understood; :meth:`build` makes it.

    The files are the exporter's, with two liberties: constants are computed and sizes written out, as the runtime
    would at start; and weights are the first ones of the largest candidate's (no search cares for their values, and
    they neither overflow nor vanish).

    Example:
        >>> from niwaki.spaces import carve, derive
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> x = torch.rand(2, 3, 8, 8)
        >>> space = derive(net, x)
        >>> template = OnnxTemplate.build(space, lambda c: carve(net, space, c), (x[:1],))
        >>> onnx.load_from_string(template.serialize(space.smallest())).graph.node[0].op_type
        'Conv'
    """

    space: Space
    sizes: Sizes
    blueprint: Blueprint
    head: onnx.ModelProto
    exits: Mapping[str, Exit]
    _depths: dict[frozenset[str], _Depth] = field(default_factory=dict)

    @classmethod
    def build(
        cls, space: Space, make: Callable[[Candidate], nn.Module], inputs: tuple[Tensor, ...], seed: int = 0
    ) -> OnnxTemplate:
        """Export a few candidates for real, fit, and check against exports that were not fitted (tens of seconds).

        Args:
            make: carves a candidate of ``space``.
            inputs: of the model; their batch is the template's.

        Raises:
            TemplateError: the reason why this model has none.
        """

        def export(candidate: Candidate) -> bytes:
            model = distinct(copy.deepcopy(make(candidate)).cpu().eval())
            try:
                return ONNX(dynamic_batch=False).serialize(model, inputs)
            except ExportError as error:
                raise TemplateError(str(error)) from error

        sizes = Sizes(space, inputs[0].shape[0], seed)
        networks = [Network.read(export(c)) for c in sizes.fitted]
        blueprint = Fit(space, sizes, networks).blueprint()
        exits = find_exits(space, blueprint)
        template = cls(space, sizes, blueprint, networks[0].head, exits)
        unseen = [sizes.unseen]
        unseen += [shallowest(space, sizes.unseen)] if space.blocks else []
        for candidate in unseen:
            compare(template.serialize(candidate), export(candidate), inputs)
        return template

    def serialize(self, candidate: Candidate) -> bytes:
        """The ONNX file of a candidate, weights inside; InputError for a candidate that is not of the space."""
        self.space.select([candidate])
        self.space.check_depth(candidate)
        depth = self._depth(candidate.skipped)
        sizes = self.sizes.of(candidate)
        model = onnx.ModelProto()
        model.CopyFrom(depth.model)
        for node, place in zip(model.graph.node, depth.places, strict=True):
            if place in self.blueprint.rules:
                self.blueprint.resize(node, place, sizes)
        model.graph.initializer.extend([self.blueprint.initializer(name, sizes) for name in depth.constants])
        return bytes(model.SerializeToString())

    def row_of(self, skipped: frozenset[str] = frozenset()) -> Mapping[str, str]:
        """ONNX node -> row of ``space.layers`` that it belongs to; without weights, that of what computes its input.

        ``skipped``: the blocks that are gone, whose rows then own nothing.
        """
        depth = self._depth(skipped)
        if not depth.rows:
            direct = direct_rows(self.space, self.blueprint.nodes, self.blueprint.key)
            depth.rows = all_rows(depth.model.graph.node, direct)
        return depth.rows

    def _depth(self, skipped: frozenset[str]) -> _Depth:
        if skipped not in self._depths:
            outputs = [o.name for o in self.head.graph.output]
            nodes = without(self.blueprint.nodes, [self.exits[b] for b in sorted(skipped)], outputs)
            place = {node.name: i for i, node in enumerate(self.blueprint.nodes)}
            names = {name for node in nodes for name in node.input}
            model = onnx.ModelProto()
            model.CopyFrom(self.head)
            model.graph.node.extend(nodes)
            constants = [name for name in self.blueprint.constants if name in names]
            self._depths[skipped] = _Depth(model, [place[n.name] for n in nodes], constants)
        return self._depths[skipped]


def distinct(model: nn.Module) -> nn.Module:
    """Give constant and repeated tensors values of their own, in place: a little more than they had.

    An untrained model's normalisers are all alike (the exporter stores equal tensors once, under one name) and its
    biases zero (the exporter drops them). A trained model stays as it is.
    """
    generator = torch.Generator().manual_seed(0)
    seen: set[bytes] = set()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if not value.is_floating_point() or not value.numel():
                continue
            flat = value.detach().contiguous().flatten().view(torch.uint8)
            digest = hashlib.sha256(flat.numpy().tobytes()).digest()
            if digest in seen or bool((value == value.flatten()[0]).all()):
                value.add_(torch.rand(value.shape, generator=generator).to(value.dtype) * 0.01 + 1e-4)
            seen.add(digest)
    return model
