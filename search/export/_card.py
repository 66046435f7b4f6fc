"""card.json: what an exported model is, what it costs and how it was made."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

CONVENTIONS = {
    "macs": "multiply-accumulates (1 each) of convolutions, linear layers and matrix products for one example",
    "params": "elements of all parameters, masked ones included",
    "bytes": "bytes of the state dict's tensors as stored; a sparse layer is its kept values and one bit per weight",
    "memory_bytes": "peak of live activation tensors for one example in eval mode, as computed from the graph",
    "memory": "'tensors_bytes' is the figure of 'cost', 'measured_bytes' the same measured on the model, and "
              "'libraries_bytes' what torch's allocator handed out beyond it at its own peak",
    "latency_ms": "milliseconds for one batch on the target named in 'latency'",
    "padded": "groups filled up with zeros: units kept, units written; 'cost', 'kept' and 'latency' are without them",
}
PACKAGES = (
    "niwaki", "torch", "torchvision", "numpy", "optuna", "ray", "onnx", "onnxscript", "onnxruntime", "safetensors",
)


@dataclass(frozen=True)
class Card:
    """The facts about a model that its files do not hold. Plain JSON values only.

    Attributes:
        name: of the export, such as ``best`` or a candidate's key.
        task: what the model does: data set, classes, input shape, normalisation.
        teacher: name, cost and accuracy of the teacher.
        candidate: ``Candidate.to_json()``.
        kept: group -> units kept (counts, not indices).
        cost: ``Cost.to_json()``.
        metrics: accuracies in 0..1 by split, and whatever else was measured.
        latency: target, machine, predicted and measured milliseconds.
        memory: peak of activations: ``tensors_bytes``, ``measured_bytes``, ``libraries_bytes``.
        extra: anything else worth knowing (budget, seeds, training images).
        padded: group -> (units kept, units in the files), where zeros were added.
        padded_cost: of the model in the files, as in ``cost``, where zeros were added.
        not_padded: group -> why it could not be padded.

    Example:
        >>> Card(name="best", cost={"macs": 10}).to_json()["cost"]
        {'macs': 10}
    """

    name: str
    task: Mapping[str, Any] = field(default_factory=dict)
    teacher: Mapping[str, Any] = field(default_factory=dict)
    candidate: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    padded: Mapping[str, Sequence[int]] = field(default_factory=dict)
    padded_cost: Mapping[str, Any] = field(default_factory=dict)
    not_padded: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        names = ["name", "task", "teacher", "candidate", "kept", "cost", "metrics", "latency", "memory", "extra"]
        names += ["padded", *(["padded_cost", "not_padded"] if self.padded or self.not_padded else [])]
        return {"schema": 1, **{key: _plain(getattr(self, key)) for key in names}, "conventions": CONVENTIONS}


def versions() -> dict[str, str]:
    """Python and the installed versions of what shapes a result; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def file_facts(path: Path) -> dict[str, Any]:
    """Name, size in bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value
