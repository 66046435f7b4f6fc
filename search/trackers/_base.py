"""What a tracker is: it is told every outcome once, and sends it where its users look."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from niwaki.search.outcome import Outcome
from niwaki.spaces import InputError, registry

_PACKAGE = "niwaki.search.trackers"


@dataclass(frozen=True)
class TrackerSetup:
    """What a tracker knows of a run.

    Attributes:
        folder: of the run.
        name: unique among runs, the same after a resume.
        begun: outcomes that earlier sessions have sent: the next one is the one after.
    """

    folder: Path
    name: str
    begun: int = 0


class Tracker(Protocol):
    """One file of this folder, one class, built from a :class:`TrackerSetup`, in the thread that uses it.

    What it raises becomes a notice. ``needs``: the module that must be installed, imported no earlier than in
    ``__init__``, so that names can be listed without it.
    """

    needs: ClassVar[str]

    def __init__(self, setup: TrackerSetup) -> None: ...
    def tell(self, outcome: Outcome) -> None: ...
    def close(self) -> None: ...


def tracker_class(name: str) -> type[Tracker]:
    """The tracker of that name; InputError with the nearest names, or with what is to be installed for it.

    Example:
        >>> tracker_class("tensorboard").needs
        'tensorboardX'
    """
    try:
        found: type[Tracker] = registry.load(_PACKAGE, name)
    except InputError as error:
        raise InputError(f"run.trackers: {error}") from None
    if importlib.util.find_spec(found.needs) is None:
        raise InputError(
            f"run.trackers: {name!r} needs {found.needs}, which is not installed: pip install {found.needs}"
        )
    return found


def figures(outcome: Outcome) -> dict[str, float]:
    """The numbers that came of a job: metrics, costs that are known, images, seconds.

    Example:
        >>> from niwaki.search.outcome import Job
        >>> from niwaki.spaces import Candidate, Cost
        >>> figures(Outcome(Job(Candidate({"conv": 8}), "search", 0, 0, 7), Cost(8, 4, 16), {"accuracy": 0.5}))
        {'accuracy': 0.5, 'macs': 8.0, 'params': 4.0, 'bytes': 16.0, 'images': 0.0, 'seconds': 0.0}
    """
    costs = {name: float(value) for name, value in outcome.cost.to_json().items() if value is not None}
    return {**outcome.metrics, **costs, "images": float(outcome.images), "seconds": outcome.seconds}


def settings(outcome: Outcome) -> dict[str, Any]:
    """What the job was asked to do, flat: its kind, rung, level, seed, and the candidate's choices."""
    job, candidate = outcome.job, outcome.job.candidate
    facts: dict[str, Any] = {"kind": job.kind, "rung": job.rung, "level": job.level, "seed": job.seed}
    facts |= {f"width/{group}": width for group, width in candidate.widths.items()}
    facts |= {f"sparsity/{layer}": token for layer, token in candidate.sparsity.items()}
    return facts | ({"skipped": " ".join(sorted(candidate.skipped))} if candidate.skipped else {})
