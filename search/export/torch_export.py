"""torch.export: a ``.pt2`` file that runs without the model's source code."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from niwaki.search.export._base import ExportError, Subject, batches, difference, tensors_of
from niwaki.spaces.trace import dynamic_batch


@dataclass(frozen=True)
class TorchExport:
    """Written by ``torch.export.export`` and ``torch.export.save``.

    On safety: ``torch.export.load`` unpickles whatever a file marks as pickled, and loads compiled code that it finds
    under ``aotinductor``. :meth:`read` refuses files that hold any of it, so nothing is unpickled. What remains is that
    torch parses the graph's shape expressions with sympy, which evaluates text: still read only files you trust.

    Attributes:
        dynamic_batch: False fixes the batch to the example's.
    """

    dynamic_batch: bool = True
    filename: ClassVar[str] = "model.pt2"

    def write(self, subject: Subject, path: Path) -> None:
        """Raises ExportError where torch.export cannot trace the model."""
        batch = torch.export.Dim.DYNAMIC
        shapes = dynamic_batch(subject.model, subject.inputs, batch) if self.dynamic_batch else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.export.export(subject.model, subject.inputs, dynamic_shapes=shapes)
                _forget_origin(program)
                torch.export.save(program, str(path))
        except Exception as error:  # torch.export raises errors of many unrelated classes
            name = type(subject.model).__name__
            raise ExportError(f"torch.export cannot trace {name}: {type(error).__name__}: {error}") from error

    def read(self, path: Path) -> Callable[..., Any]:
        """The model as a function of its inputs; ExportError where the file would need to be unpickled."""
        _refuse_pickles(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: Callable[..., Any] = torch.export.load(str(path)).module()
        return module

    def error(self, subject: Subject, path: Path) -> float:
        run = self.read(path)
        sizes = batches(subject) if self.dynamic_batch else batches(subject)[-1:]
        with torch.inference_mode():
            return max(difference(tensors_of(run(*subject.first(n))), subject.answers(n)) for n in sizes)


def _forget_origin(program: torch.export.ExportedProgram) -> None:
    """A model that is handed on should not carry the user's images and the paths of this machine's source files."""
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)


def _refuse_pickles(path: Path) -> None:
    """Raise ExportError for any entry of the archive that ``torch.export.load`` would unpickle or run as code."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith("/archive_version") for name in names):
            raise ExportError(f"{path.name}: not a .pt2 archive of this format (no archive_version)")
        for name in names:
            if "/data/aotinductor/" in name:
                raise ExportError(f"{path.name}: {name} is compiled code; it is not loaded")
            if name.endswith("_config.json"):
                entries = json.loads(archive.read(name)).get("config", {})
                pickled = sorted(key for key, entry in entries.items() if entry.get("use_pickle"))
                if pickled:
                    raise ExportError(f"{path.name}: {name} marks {pickled[0]!r} as pickled; it is not loaded")
            if "/data/sample_inputs/" in name:
                _load_tensors(path, name, archive.read(name))


def _load_tensors(path: Path, name: str, data: bytes) -> None:
    """torch.export.load falls back to full unpickling where this fails, so it must not fail."""
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # whatever the reason: the fallback would unpickle it
        raise ExportError(f"{path.name}: {name} holds more than tensors; it is not loaded") from error
