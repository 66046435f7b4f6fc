"""The harm that every single cut does: the teacher with one variable at a smaller choice, judged before any training.

Cheap against training: a student is judged on a few hundred training images, never on validation or test ones. Two
measures are taken in the same pass. ``answers``, KL of the student's softened outputs to the teacher's, is the one to
use: a teacher that knows its training images by heart makes their labels say little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from niwaki.distill.evaluate import device_of, main_logits, modes_kept
from niwaki.search.aim import Worth, amount
from niwaki.search.costing import Floats, Ints, SearchSpace
from niwaki.spaces.types import Candidate, Variable

Measure = Literal["answers", "labels"]
Untrained = Callable[[Candidate], nn.Module]
"""A candidate -> the teacher cut to it, refit or recalibrated, not trained."""
_TEMPERATURE = 4.0
_HOPELESS = 1e3
"""Nats at which harm is capped: a student that answers NaN is as bad as any."""
_TINY = 1e-6
"""Nats below which no harm is told from another when choices are interpolated."""


@dataclass(frozen=True)
class Sensitivity:
    """Harm in nats (>= 0) of each choice of each variable, all others at their largest; 0 at its own largest.

    A smaller choice is never less harmful than a larger one.

    Attributes:
        answers: ``kind:name`` of a variable -> one figure a choice: KL to the teacher's outputs at temperature 4, times
            4 squared (Hinton et al. 2015).
        labels: the same, as cross-entropy beyond the teacher's.
        images: training images on which each student was judged.
        judged: students judged, so ``images * judged`` forward passes of one image (refits come on top).
    """

    answers: Mapping[str, tuple[float, ...]]
    labels: Mapping[str, tuple[float, ...]]
    images: int
    judged: int

    def worth(self, space: SearchSpace, measure: Measure = "answers") -> Worth:
        """Minus the summed harm, as :func:`niwaki.search.aim.spend` and :mod:`niwaki.search.knapsack` take it."""
        harms = self.answers if measure == "answers" else self.labels
        tables = [np.array(harms[label(v)]) for v in space.variables]

        def worth(matrix: Ints) -> Floats:
            found = np.zeros(len(matrix))
            for i, table in enumerate(tables):
                found -= table[matrix[:, i]]
            return found

        return worth

    def to_json(self) -> dict[str, Any]:
        return {
            "answers": {k: list(v) for k, v in self.answers.items()},
            "labels": {k: list(v) for k, v in self.labels.items()},
            "images": self.images, "judged": self.judged,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """Inverse of :meth:`to_json`."""
        answers, labels = ({k: tuple(v) for k, v in data[name].items()} for name in ("answers", "labels"))
        return cls(answers, labels, data["images"], data["judged"])


def sensitivity(
    space: SearchSpace, untrained: Untrained, batches: Sequence[tuple[Tensor, Tensor]], choices: int | None = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Judge every variable alone (the idea of FastNAS, whose scores too are made monotone).

    Args:
        space: what may be cut.
        untrained: makes students; ``untrained(space.largest())`` is the teacher.
        batches: training images (B, C, H, W), normalised, on the students' device, and their labels (B,).
        choices: at most so many smaller choices of each variable are judged, spread evenly with both ends among them;
            the others are interpolated, log harm over the share kept. None: all.
        progress: told (students judged, of how many).

    Example:
        >>> from niwaki.spaces import carve, derive
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
        >>> x = torch.randn(64, 8)
        >>> space = derive(model, x)
        >>> def cut(candidate: Candidate) -> nn.Module:
        ...     return carve(model, space, candidate, {g: torch.arange(w) for g, w in candidate.widths.items()})
        >>> harm = sensitivity(space, cut, [(x, torch.zeros(64, dtype=torch.int64))]).answers["width:0"]
        >>> harm[-1], list(harm) == sorted(harm, reverse=True)
        (0.0, True)
    """
    top = [len(v.choices) - 1 for v in space.variables]
    probed = [_probed(end, choices) for end in top]
    answers = [_outputs(untrained(space.largest()), batches)]
    truth = torch.cat([labels for _, labels in batches]).cpu()
    base = float(F.cross_entropy(answers[0], truth))
    found: dict[Measure, dict[str, tuple[float, ...]]] = {"answers": {}, "labels": {}}
    total, done = students(space, choices) - 1, 0
    for i, variable in enumerate(space.variables):
        kl, entropy = [], []
        for index in probed[i]:
            candidate = space.canonical(space.decode([*top[:i], index, *top[i + 1 :]]))
            logits = _outputs(untrained(candidate), batches)
            kl.append(_capped(_divergence(logits, answers[0])))
            entropy.append(_capped(float(F.cross_entropy(logits, truth)) - base))
            done += 1
            if progress is not None:
                progress(done, total)
        found["answers"][label(variable)] = _completed(variable, probed[i], kl)
        found["labels"][label(variable)] = _completed(variable, probed[i], entropy)
    return Sensitivity(found["answers"], found["labels"], len(truth), done + 1)


def students(space: SearchSpace, choices: int | None = 4) -> int:
    """How many :func:`sensitivity` judges, the teacher included."""
    return 1 + sum(len(_probed(len(v.choices) - 1, choices)) for v in space.variables)


def label(variable: Variable) -> str:
    """A variable's name with its kind: the width and the sparsity of a layer may share a name."""
    return f"{variable.kind}:{variable.name}"


def descending(values: Sequence[float]) -> Floats:
    """The nearest sequence (least squares) that never rises, by pooling adjacent violators (Ayer et al. 1955).

    Example:
        >>> descending([3.0, 1.0, 2.0, 0.0]).tolist()
        [3.0, 1.5, 1.5, 0.0]
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((n * a + m * b) / (n + m), n + m)]
    return np.repeat([mean for mean, _ in pools], [count for _, count in pools])


def _probed(end: int, choices: int | None) -> list[int]:
    """Indices to judge, below ``end``, the largest."""
    if choices is None or choices >= end:
        return list(range(end))
    return sorted({int(i) for i in np.linspace(0, end - 1, max(choices, 2)).round()})


def _completed(variable: Variable, probed: list[int], harms: list[float]) -> tuple[float, ...]:
    """Harm of every choice from that of the ones that were judged."""
    if not probed:
        return (0.0,)
    known = np.maximum(descending(harms), 0.0)
    kept = np.array([amount(choice) for choice in variable.choices[:-1]])
    between = np.exp(np.interp(kept, kept[probed], np.log(np.maximum(known, _TINY))))
    between[probed] = known
    return (*np.minimum.accumulate(between).tolist(), 0.0)


def _outputs(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(N, classes) logits, in eval mode."""
    with modes_kept(model), torch.inference_mode():
        model.eval()
        return torch.cat([main_logits(model(images.to(device_of(model)))).float().cpu() for images, _ in batches])


def _divergence(student: Tensor, teacher: Tensor) -> float:
    ours, theirs = (F.log_softmax(logits / _TEMPERATURE, dim=1) for logits in (student, teacher))
    return float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True)) * _TEMPERATURE**2


def _capped(harm: float) -> float:
    return min(harm, _HOPELESS) if math.isfinite(harm) else _HOPELESS
