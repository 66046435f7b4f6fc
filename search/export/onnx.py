"""ONNX: one file with its weights, dynamic batch, checked by onnx and run by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from niwaki.search.export._base import ExportError, Subject, batches, difference
from niwaki.spaces.trace import dynamic_batch

_LIMIT = 2**31 - 2**20
"""protobuf's limit of 2 GB, less room for the graph: larger weights go to a file beside the model."""


@dataclass(frozen=True)
class ONNX:
    """Written by PyTorch's exporter (``torch.onnx.export(dynamo=True)``), read by ONNX Runtime on the CPU.

    Attributes:
        opset: operator set; None takes the exporter's own.
        dynamic_batch: False fixes the batch to the example's.

    Example:
        >>> ONNX(opset=18).filename
        'model.onnx'
    """

    opset: int | None = None
    dynamic_batch: bool = True
    filename: ClassVar[str] = "model.onnx"

    def write(self, subject: Subject, path: Path) -> None:
        """Raises ExportError where PyTorch cannot express the model or ``onnx.checker`` refuses it."""
        program = self._program(subject.model, subject.inputs)
        weights = sum(t.numel() * t.element_size() for t in subject.model.state_dict().values())
        with _quiet():
            program.save(str(path), external_data=weights > _LIMIT)
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"onnx.checker refuses {path.name}: {error}") from error

    def read(self, path: Path) -> Callable[..., list[Tensor]]:
        """A function from input tensors to the list of output tensors, run by ONNX Runtime on one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [meta.name for meta in session.get_inputs()]

        def run(*inputs: Tensor) -> list[Tensor]:
            feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
            return [torch.from_numpy(array) for array in session.run(None, feed)]

        return run

    def error(self, subject: Subject, path: Path) -> float:
        run = self.read(path)
        sizes = batches(subject) if self.dynamic_batch else batches(subject)[-1:]
        return max(difference(run(*subject.first(n)), subject.answers(n)) for n in sizes)

    def serialize(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
        """The same as :meth:`write` (unchecked, weights inside) as bytes."""
        return bytes(self._program(model, inputs).model_proto.SerializeToString())

    def _program(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> torch.onnx.ONNXProgram:
        shapes = dynamic_batch(model, inputs, torch.export.Dim.DYNAMIC) if self.dynamic_batch else None
        try:
            with _quiet():
                program = torch.onnx.export(
                    model, inputs, dynamo=True, external_data=False, verbose=False,
                    dynamic_shapes=shapes, opset_version=self.opset,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(f"PyTorch cannot export {type(model).__name__} to ONNX: {error}") from error
        assert program is not None
        for node in program.model.graph.all_nodes():  # stack traces hold the paths of this machine's source files
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
        return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress and warns about its own internals; our stdout belongs to our own output."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
