"""Candidates of a space made ready for ONNX Runtime: from a template where the model has one, else exported."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime as ort
from torch import Tensor, nn

from niwaki.search.export.onnx import ONNX
from niwaki.search.targets._onnx_profile import node_times, profile
from niwaki.search.targets._onnx_rows import all_rows, direct_rows
from niwaki.search.targets._onnx_template import OnnxTemplate, TemplateError
from niwaki.spaces.space import Space
from niwaki.spaces.types import Candidate

Options = Callable[[], ort.SessionOptions]


@dataclass(eq=False)
class Maker:
    """A function from a candidate to a function that runs it once.

    Attributes:
        reason: why every candidate must be exported for real, which takes seconds; None where a template does it.
    """

    space: Space
    make: Callable[[Candidate], nn.Module]
    inputs: tuple[Tensor, ...]
    options: Options
    template: OnnxTemplate | None = None
    reason: str | None = None

    @classmethod
    def build(
        cls, space: Space, make: Callable[[Candidate], nn.Module], inputs: tuple[Tensor, ...], options: Options
    ) -> Maker:
        """With a template if the model has one. ``options``: makes the options of a session."""
        maker = cls(space, make, inputs, options)
        try:
            maker.template = OnnxTemplate.build(space, make, inputs)
        except TemplateError as error:
            maker.reason = str(error)
        return maker

    def __call__(self, candidate: Candidate) -> Callable[[], object]:
        data = self.serialize(candidate)
        session = ort.InferenceSession(data, self.options(), providers=["CPUExecutionProvider"])
        feed = self._feed(session.get_inputs())
        return lambda: session.run(None, feed)

    def serialize(self, candidate: Candidate) -> bytes:
        """The candidate's ONNX file."""
        if self.template is not None:
            return self.template.serialize(candidate)
        return ONNX(dynamic_batch=False).serialize(copy.deepcopy(self.make(candidate)).cpu().eval(), self.inputs)

    def profile(self, candidate: Candidate, runs: int = 24) -> dict[str, float]:
        """Row of ``space.layers`` -> milliseconds of its nodes, by the runtime's profiler.

        Their sum is about that of a run, more for nets of a fraction of a millisecond. Rows that the exporter or the
        runtime fused into others are absent; what follows a row and has no weights counts with it.
        """
        data = self.serialize(candidate)
        graph = onnx.load_from_string(data).graph
        times = node_times(profile(data, self._feed(graph.input), self.options(), runs), list(graph.node))
        if self.template is not None:
            row = self.template.row_of(candidate.skipped)
        else:
            constants = {t.name for t in graph.initializer}
            direct = direct_rows(self.space, graph.node, lambda name: name if name in constants else None)
            row = all_rows(graph.node, direct)
        out: dict[str, float] = {}
        for node, ms in times.items():
            if not row[node]:  # an exported model that has none of the space's parameters
                continue
            out[row[node]] = out.get(row[node], 0.0) + ms
        return out

    def _feed(self, inputs: Any) -> dict[str, Any]:
        return {meta.name: t.numpy() for meta, t in zip(inputs, self.inputs, strict=True)}
