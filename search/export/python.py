"""Python: one readable file that defines the network with torch alone, and its weights beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from niwaki.search.export._base import Subject, batches, difference
from niwaki.search.export._py_file import EVAL_ONLY, write_source
from niwaki.search.export._py_run import Request, run_file


@dataclass(frozen=True)
class Python:
    """``model.py`` (a class with ordinary layers under the teacher's module paths) and ``model.weights.safetensors``.

    The class is written from the traced graphs of both modes: one ``forward`` where they are the same, else one for
    each. Operations without a form of their own appear as ``torch.ops.aten...``. The weights are dense, zeros of
    sparse layers included, under the keys of ``state_dict()``; ``model.load()`` reads them without safetensors.

    On safety: a ``model.py`` is code. :meth:`read` and :meth:`error` run it in another process, which keeps it out of
    this one but is no sandbox: only run files you trust.

    Example:
        >>> Python().filename, Python().beside
        ('model.py', ('model.weights.safetensors',))
    """

    filename: ClassVar[str] = "model.py"
    beside: ClassVar[tuple[str, ...]] = ("model.weights.safetensors",)

    def write(self, subject: Subject, path: Path) -> None:
        """Raises ExportError where the model cannot be traced or uses operations that are not torch's own."""
        weights = path.with_suffix(".weights.safetensors")
        written = write_source(subject, weights.name)
        path.write_text(written.text, encoding="utf-8")
        copies = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in written.tensors.items()}
        save_file(copies, str(weights), metadata={"format": "pt"})

    def read(self, path: Path) -> Callable[..., list[Tensor]]:
        """A function from input tensors to the list of output tensors (eval mode); each call is a process."""

        def run(*inputs: Tensor) -> list[Tensor]:
            return run_file(path, [("eval", inputs)])[0]

        return run

    def error(self, subject: Subject, path: Path) -> float:
        """Worst difference in eval mode, for one example and for all; train mode must run. Raises ExportError."""
        sizes = batches(subject)
        requests: list[Request] = [("eval", subject.first(n)) for n in sizes]
        if EVAL_ONLY not in path.read_text(encoding="utf-8"):
            requests.append(("train", subject.first(None)))  # that it runs: one process for everything
        answers = run_file(path, requests)
        return max(difference(got, subject.answers(n)) for got, n in zip(answers, sizes, strict=False))
