"""Write a model in several formats, compare each with the original, and only then show the folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from niwaki.search.export._base import PACKAGE, TOLERANCE, Exporter, ExportError, Subject, difference, tensors_of
from niwaki.search.export._card import Card, file_facts, versions
from niwaki.spaces import registry
from niwaki.spaces.errors import InputError, nearest

CARD = "card.json"


def exporter(name: str, options: Mapping[str, Any] | None = None) -> Exporter:
    """The exporter called ``name`` (a file of this folder) with its options; InputError names what is unknown.

    Example:
        >>> exporter("onnx", {"opset": 18}).filename
        'model.onnx'
    """
    try:
        cls = registry.load(PACKAGE, name)
    except ModuleNotFoundError as error:
        raise InputError(f"export: format {name!r} needs {error.name}; run: pip install {error.name}") from error
    valid = list(getattr(cls, "__dataclass_fields__", {}))
    for key in options or {}:
        if key not in valid:
            raise InputError(f"export: format {name!r} has no option {key!r}; {nearest(key, valid)}")
    made: Exporter = cls(**(options or {}))
    return made


def export_model(
    subject: Subject, folder: Path | str, formats: Sequence[str] | Mapping[str, Mapping[str, Any]], card: Card,
) -> dict[str, Any]:
    """Write ``folder/model.*`` in each format and ``folder/card.json``; returns the card.

    Everything is written into a folder beside ``folder`` that gets its name at the end: no reader ever sees a half
    written or unverified export, and an existing folder is never touched.

    Args:
        subject: model, real inputs and sparsity (:meth:`Subject.of`).
        folder: must not exist; its parents are made.
        formats: names, or name -> options, such as ``{"onnx": {"opset": 18}}``.

    Raises:
        InputError: unknown format or option, or ``folder`` exists.
        ExportError: a format cannot express the model, or differs from it (from ``subject.original``, where there is
            one) by more than 1e-4 of the largest output.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     subject = Subject.of(torch.nn.Linear(2, 1), torch.ones(2, 2))
        ...     card = export_model(subject, parent + "/out", ["safetensors"], Card("x"))
        >>> [(f["file"], f["error"]) for f in card["formats"].values()]
        [('model.safetensors', 0.0)]
    """
    target = Path(folder)
    writers = check_export(target, formats)
    _check_original(subject)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"export: {target}: cannot be a folder, because there is a file in the way") from None
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    draft.mkdir()
    try:
        facts = {name: _write_one(name, writer, subject, draft) for name, writer in writers.items()}
        content = card.to_json() | {"formats": facts, "versions": versions()}
        (draft / CARD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return content


def check_export(folder: Path, formats: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, Exporter]:
    """The exporters by name; InputError where a format or an option is unknown, or ``folder`` exists."""
    if folder.exists():
        raise InputError(f"export: {folder} exists already; choose another folder, nothing is overwritten")
    wanted = dict(formats) if isinstance(formats, Mapping) else {name: {} for name in formats}
    return {name: exporter(name, options) for name, options in wanted.items()}


def _check_original(subject: Subject) -> None:
    """Formats without a graph are compared tensor by tensor: that alone would not tell a wrong padding."""
    if subject.original is not None:
        with torch.inference_mode():
            error = difference(tensors_of(subject.model(*subject.first(None))), subject.answers())
        if not error <= TOLERANCE:
            raise ExportError(
                f"the padded model differs from the one without zeros by {error:.2e} of its largest output; at most "
                f"{TOLERANCE:.0e} is allowed"
            )


def _write_one(name: str, writer: Exporter, subject: Subject, folder: Path) -> dict[str, Any]:
    path = folder / writer.filename
    writer.write(subject, path)
    error = writer.error(subject, path)
    if not error <= TOLERANCE:
        raise ExportError(
            f"{name}: the exported model differs from the original by {error:.2e} of its largest output "
            f"on {len(subject.inputs[0])} real inputs; at most {TOLERANCE:.0e} is allowed"
        )
    facts = {**file_facts(path), "error": error, "checked_on": len(subject.inputs[0])}
    beside = [file_facts(folder / other) for other in getattr(writer, "beside", ())]  # a file that one format needs
    return facts | ({"beside": beside} if beside else {})
