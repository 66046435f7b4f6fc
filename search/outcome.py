"""What the search asks for (Proposal), what a worker does (Job) and what it brings back (Outcome)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from niwaki.spaces.types import Candidate, Cost

Kind = Literal["search", "uniform", "random", "final", "learn"]
Status = Literal["complete", "failed"]

KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
"""What a job's key looks like: it becomes a folder name, so nothing else may pass."""


@dataclass(frozen=True)
class Proposal:
    """A candidate that a proposer wants tried: the ``number``-th it asked for, fitted to ``level`` x the budget."""

    candidate: Candidate
    number: int
    level: float


@dataclass(frozen=True)
class Job:
    """One piece of training, complete enough to be repeated anywhere.

    Attributes:
        candidate: what to carve and train.
        kind: ``search``, a baseline (``uniform``, ``random``), ``final`` (full training of a finalist) or ``learn``
            (what a proposer trains before it proposes; the candidate is the largest, and no model comes of it).
        rung: 0 for the first, shortest training; each promotion adds one.
        images: training images of this job alone.
        seed: every random choice of the job follows from it.
        parent: key of the job whose checkpoint is continued, None to start from the teacher's weights.
        level: fraction of the budget the candidate was fitted to.

    Example:
        >>> Job(Candidate({"conv": 8}), "search", rung=0, images=1000, seed=7).key
        'search-0-cb8916ccbd7e-7'
    """

    candidate: Candidate
    kind: Kind
    rung: int
    images: int
    seed: int
    parent: str | None = None
    level: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"job: 'kind' must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        for name in ("rung", "images", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"job: {name!r} must not be negative, got {getattr(self, name)}")
        if not (math.isfinite(self.level) and self.level > 0):
            raise ValueError(f"job: 'level' must be a positive number, got {self.level}")
        if self.parent is not None and not KEY.fullmatch(self.parent):
            raise ValueError(f"job: 'parent' must be the key of a job, got {self.parent!r}")

    @property
    def key(self) -> str:
        """``kind-rung-candidate-seed``: stable, unique within a run, and safe as a folder name."""
        return f"{self.kind}-{self.rung}-{self.candidate.key}-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key, "kind": self.kind, "rung": self.rung, "images": self.images, "seed": self.seed,
            "parent": self.parent, "level": self.level, "candidate": self.candidate.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Job:
        """Inverse of :meth:`to_json`; raises ValueError naming the key that is missing, wrong or disagrees."""
        read = _Reader("job", data)
        job = cls(
            candidate=Candidate.from_json(read.mapping("candidate")),
            kind=read.text("kind"),  # type: ignore[arg-type]  # checked against Kind in __post_init__
            rung=read.integer("rung"),
            images=read.integer("images"),
            seed=read.integer("seed"),
            parent=read.optional_text("parent"),
            level=read.number("level"),
        )
        if "key" in data and data["key"] != job.key:
            raise ValueError(f"job: 'key' is {data['key']!r}, but the other fields make {job.key!r}")
        return job


@dataclass(frozen=True)
class Outcome:
    """What came of a job. A complete outcome has a finite ``accuracy``; anything else is a failure with a reason.

    Only of ``learn`` jobs comes no model, and so no accuracy.

    Attributes:
        job: what was asked.
        cost: cost of the candidate, as counted (``latency_ms`` predicted or measured).
        metrics: finite figures by name; ``accuracy`` is on the validation split, in 0..1.
        status: ``complete`` or ``failed``. Metrics that are not finite make it ``failed`` and are dropped, with
            their names in ``error``, so that no sampler, ranking or JSON reader ever sees a NaN.
        error: why it failed (a traceback or a sentence); None where it did not.
        images: training images the weights have seen in all, parents included.
        seconds: wall-clock time of the job.
    """

    job: Job
    cost: Cost
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: Status = "complete"
    error: str | None = None
    images: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"outcome: 'status' must be one of {', '.join(get_args(Status))}, got {self.status!r}")
        finite = {k: float(v) for k, v in sorted(self.metrics.items()) if math.isfinite(v)}
        lost = [f"{k} = {v}" for k, v in sorted(self.metrics.items()) if k not in finite]
        object.__setattr__(self, "metrics", finite)
        if lost:
            reason = f"not finite: {', '.join(lost)}"
            object.__setattr__(self, "status", "failed")
            object.__setattr__(self, "error", f"{self.error}\n{reason}" if self.error else reason)
        elif self.complete and self.job.kind != "learn" and not 0 <= finite.get("accuracy", -1) <= 1:
            raise ValueError(f"outcome: a complete one needs 'accuracy' in 0..1 in its metrics, got {finite}")
        if self.status == "failed" and not self.error:
            object.__setattr__(self, "error", "failed without a reason")

    def __hash__(self) -> int:
        return hash(self.job.key)

    @property
    def key(self) -> str:
        return self.job.key

    @property
    def complete(self) -> bool:
        return self.status == "complete"

    @property
    def accuracy(self) -> float:
        """Validation accuracy in 0..1; raises KeyError on a failed outcome that has none."""
        return self.metrics["accuracy"]

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job.to_json(), "cost": self.cost.to_json(), "metrics": dict(self.metrics),
            "status": self.status, "error": self.error, "images": self.images, "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Any) -> Outcome:
        """Inverse of :meth:`to_json`; raises ValueError naming the key that is missing or of the wrong type."""
        read = _Reader("outcome", data)
        metrics = _Reader("metrics", read.mapping("metrics"))
        return cls(
            job=Job.from_json(read.mapping("job")),
            cost=cost_from_json(read.mapping("cost")),
            metrics={name: metrics.number(name) for name in metrics.data},
            status=read.text("status"),  # type: ignore[arg-type]  # checked against Status in __post_init__
            error=read.optional_text("error"),
            images=read.integer("images"),
            seconds=read.number("seconds"),
        )

    def with_cost(self, cost: Cost) -> Outcome:
        """The same outcome with another cost, for members of the front that were measured again."""
        return replace(self, cost=cost)


def cost_from_json(data: Any) -> Cost:
    """Inverse of ``Cost.to_json``; raises ValueError naming the key. Older runs knew no ``memory_bytes``.

    Example:
        >>> cost_from_json({"macs": 10, "params": 4, "bytes": 16, "latency_ms": None})
        Cost(macs=10, params=4, bytes=16, latency_ms=None, memory_bytes=None)
    """
    read = _Reader("cost", data)
    latency = None if read.data.get("latency_ms") is None else read.number("latency_ms")
    memory = None if read.data.get("memory_bytes") is None else read.integer("memory_bytes")
    cost = Cost(read.integer("macs"), read.integer("params"), read.integer("bytes"), latency, memory)
    for name, value in cost.to_json().items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"cost: {name!r} must be a finite number of at least 0, got {value!r}")
    return cost


class _Reader:
    """Checked access to a JSON object: every complaint names the object and the key."""

    def __init__(self, what: str, data: Any) -> None:
        if not isinstance(data, Mapping):
            raise ValueError(f"{what}: expected an object, got {data!r}")
        self.what, self.data = what, data

    def _get(self, key: str, types: tuple[type, ...], expected: str) -> Any:
        if key not in self.data:
            raise ValueError(f"{self.what}: {key!r} is missing")
        value = self.data[key]
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"{self.what}: {key!r} must be {expected}, got {value!r}")
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        return self._get(key, (dict,), "an object")  # type: ignore[no-any-return]

    def text(self, key: str) -> str:
        return self._get(key, (str,), "a string")  # type: ignore[no-any-return]

    def optional_text(self, key: str) -> str | None:
        return None if self.data.get(key) is None else self.text(key)

    def integer(self, key: str) -> int:
        value: int = self._get(key, (int,), "an integer")
        if abs(value) >= 2**63:
            raise ValueError(f"{self.what}: {key!r} must be an integer of 64 bits")
        return value

    def number(self, key: str) -> float:
        value: int | float = self._get(key, (int, float), "a number")
        return float(value) if isinstance(value, float) else float(self.integer(key))
