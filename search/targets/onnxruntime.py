"""ONNX Runtime on this machine's processor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import onnxruntime as ort
from torch import Tensor, nn

from niwaki.search.export.onnx import ONNX
from niwaki.search.targets._base import shape_option
from niwaki.search.targets._onnx_maker import Maker
from niwaki.spaces.space import Space
from niwaki.spaces.types import Candidate


@dataclass(frozen=True)
class ONNXRuntime:
    """Spec ``onnxruntime:threads=1,batch=1,shape=3x224x224``.

    The model is exported to ONNX first; the session is made outside timing.

    Attributes:
        threads: intra-op threads. They never spin: on a shared machine spinning threads steal the time of others.
        batch: examples a run.
        shape: of one example; empty: as the example that is given.
    """

    threads: int = 1
    batch: int = 1
    shape: str = shape_option()

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """See :class:`niwaki.search.targets.Target`."""
        data = ONNX(dynamic_batch=False).serialize(copy.deepcopy(model).cpu().eval(), inputs)
        session = ort.InferenceSession(data, session_options(self.threads), providers=["CPUExecutionProvider"])
        feed = {meta.name: tensor.numpy() for meta, tensor in zip(session.get_inputs(), inputs, strict=True)}
        return lambda: session.run(None, feed)

    def maker(
        self, space: Space, make: Callable[[Candidate], nn.Module], inputs: tuple[Tensor, ...]
    ) -> Maker:
        """Candidates of ``space`` made ready in milliseconds, once a few have been exported (see :class:`Maker`).

        Args:
            make: carves a candidate.
            inputs: one batch, as for :meth:`prepare`.
        """
        return Maker.build(space, make, inputs, lambda: session_options(self.threads))

    def version(self) -> str:
        return f"onnxruntime {ort.__version__}"


def session_options(threads: int) -> ort.SessionOptions:
    """Sequential execution on ``threads`` threads that sleep, not spin, while they wait."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    for pool in ("intra", "inter"):
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    return options
