"""A finished (or running) run as an object: its front, the best within a budget, models rebuilt without retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from niwaki.search.budget import Budget, show, value_of
from niwaki.search.config import Config, load_config
from niwaki.search.context import InHand, RunFolder, check_digest, load_teacher, space_options
from niwaki.search.costing import Limits
from niwaki.search.export import Card, Subject, check_export, export_model
from niwaki.search.files import read_json, read_tensors, reading
from niwaki.search.formats import Facts, FrontFile, read_checked
from niwaki.search.front import Entry
from niwaki.search.models import Models
from niwaki.search.outcome import Outcome, cost_from_json
from niwaki.search.padding import pad_student, read_pad
from niwaki.search.staircase import Staircase, find_staircase, kinds_of, on, shapeless
from niwaki.search.store import RunStore
from niwaki.search.targets import parse
from niwaki.spaces import Candidate, Cost, InputError, Kept, Space, derive
from niwaki.spaces.memory import library_overhead, measured_peak


@dataclass(frozen=True, eq=False)
class Member:
    """A finished model of a run: a member of the front, or a baseline.

    Attributes:
        entry: all facts, as in ``front.json``.
        run: where it comes from.
    """

    entry: Entry
    run: Result

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def candidate(self) -> Candidate:
        return self.entry.candidate

    @property
    def cost(self) -> Cost:
        """Counted; ``latency_ms`` measured where the run had a target."""
        return self.entry.cost

    @property
    def metrics(self) -> Mapping[str, float]:
        """Accuracies in 0..1; see :class:`niwaki.search.front.Entry`."""
        return self.entry.metrics

    def load(self) -> nn.Module:
        """The trained model: a new module every time, in eval mode, on the CPU."""
        return self.run.models.load(self.entry.trials[0])

    def kept(self) -> Kept:
        """Which units of the teacher it keeps: group -> (width,) int64."""
        return read_tensors(self.run.folder.store.trial(self.entry.trials[0]) / "kept.safetensors")

    def export(
        self, path: str | Path, formats: Sequence[str] = ("onnx", "torch_export", "safetensors"),
        pad: int | str | None = None,
    ) -> dict[str, Any]:
        """Write the model in each format and ``card.json`` into the new folder ``path``; returns the card.

        Every file is read back and compared with the model on real images before it counts. InputError where ``path``
        exists or a format is unknown.

        Args:
            pad: fill layers up with zeros to multiples of it, or to what pays on the run's target (``"auto"``): more
                units, the same outputs. The card tells which, and what the files cost then; what they are compared
                with is the model without zeros.
        """
        check_export(Path(path), formats)  # before a model is built for nothing
        student, sparsity = self.load(), self.candidate.sparsity
        card = replace(self.run.card(self), memory=self._memory(student))
        if pad is None:
            return export_model(Subject.of(student, self.run.example, sparsity), path, formats, card)
        models, step = self.run.models, self.run.pad_steps(pad)
        padding = pad_student(models.teacher, student, models.space, self.candidate, self.kept(), step)
        cost = models.space.cost(padding.candidate).to_json() if padding.widths else {}
        card = replace(card, padded=padding.widths, padded_cost=cost, not_padded=padding.refused)
        return export_model(Subject.of(padding.model, self.run.example, sparsity, student), path, formats, card)

    def _memory(self, student: nn.Module) -> dict[str, int | None]:
        """Peak of activations for one example: computed, measured, and what the allocator adds."""
        example = self.run.example[:1]
        return {
            "tensors_bytes": self.cost.memory_bytes, "measured_bytes": measured_peak(student, example),
            "libraries_bytes": library_overhead(student, example),
        }


class Result:
    """A run folder, read. Attach to one with ``niwaki.load(folder)``.

    Args:
        path: the run folder; InputError where it is none.
        in_hand: the model, where the run was started from an object and not from a name.
    """

    def __init__(self, path: str | Path, in_hand: InHand | None = None) -> None:
        self.folder = RunFolder(RunStore.open(path).folder)
        self._in_hand = in_hand or InHand()

    @cached_property
    def config(self) -> Config:
        return load_config(self.folder.store.config)

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """``front.json``; InputError while the run has not got that far."""
        if not self.folder.front.is_file():
            raise InputError(
                f"{self.folder.path}: this run has no front yet; finish it with `niwaki resume {self.folder.path}`"
            )
        return read_checked(self.folder.front, FrontFile)

    @cached_property
    def front(self) -> tuple[Member, ...]:
        """Non-dominated models within the budget, the most accurate (on validation data) first."""
        return tuple(Member(Entry.from_json(e), self) for e in self.content["members"])

    @cached_property
    def baselines(self) -> tuple[Member, ...]:
        """Uniform and random candidates trained like the finals, where the run was asked for them."""
        return tuple(Member(Entry.from_json(e), self) for e in self.content["baselines"])

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """What the run found out before its search (``facts.json``): data, teacher, precision, limits."""
        return read_checked(self.folder.facts, Facts)

    @property
    def teacher_cost(self) -> Cost:
        return cost_from_json(self.facts["teacher"]["cost"])

    @property
    def limits(self) -> Limits:
        """The run's budgets in absolute numbers."""
        return Budget(**self.config.budget.model_dump()).resolve(self.teacher_cost)

    def outcomes(self) -> list[Outcome]:
        """Every recorded trial, in order; also of a run that is not finished."""
        return self.folder.store.outcomes()

    def best(
        self, latency: str | float | None = None, macs: str | float | None = None,
        params: str | float | None = None, size: str | float | None = None, memory: str | float | None = None,
    ) -> Member:
        """The most accurate member of the front within all budgets given (``"3ms"``, ``"50%"``, as in ``Budget``).

        Raises:
            InputError: no member fits; the message tells the nearest one's figures.
        """
        budget = Budget(latency, macs, params, size, memory)
        for name in budget.given:
            if name == "latency" and any(m.cost.latency_ms is None for m in self.front):
                raise InputError(f"latency: this run ({self.folder.path}) measured none; it has no latency.target")
            if name == "memory" and any(m.cost.memory_bytes is None for m in self.front):
                raise InputError(f"memory: this run ({self.folder.path}) does not know it; an older version made it")
        limits = budget.resolve(self.teacher_cost)
        fitting = [m for m in self.front if limits.fits(m.cost)]
        if fitting:
            return fitting[0]
        worst = {m.name: max(limits.excess(m.cost).values()) for m in self.front}
        nearest = min(self.front, key=lambda m: worst[m.name])
        asked = " and ".join(f"{n} {show(n, v, limits.units.get(n))}" for n, v in limits.values.items())
        found = " and ".join(f"{n} {show(n, value_of(nearest.cost, n), limits.units.get(n))}" for n in limits.values)
        raise InputError(f"no model of the front fits {asked}; the nearest, {nearest.name}, has {found}")

    @cached_property
    def example(self) -> Tensor:
        """A few normalised validation images: (N, C, H, W) float32."""
        with reading(self.folder.example):
            return read_tensors(self.folder.example)["images"]

    @cached_property
    def models(self) -> Models:
        """Rebuilds trained students; the teacher is built and its space derived on first use."""
        teacher = load_teacher(self.config, self.facts["classes"], self.folder, self._in_hand.model)
        space: Space = derive(teacher, torch.zeros(2, *self.facts["shape"]), space_options(self.config))
        check_digest(space, self.facts["space"], self.folder.space)
        return Models(self.folder, teacher, space)

    @cached_property
    def staircase(self) -> Staircase:
        """Of the run's target, as the run folder holds it, else measured now on this machine.

        Raises:
            InputError: the run has no target.
        """
        if self.folder.staircase.is_file():
            with reading(self.folder.staircase):
                return Staircase.from_json(read_json(self.folder.staircase))
        spec = self.facts["target"]
        if spec is None:
            raise InputError(
                f"pad: 'auto' asks for what pays on the run's target, and this run ({self.folder.path}) has no "
                "latency.target; give a number, such as 16"
            )
        target = parse(spec)
        return find_staircase(on(shapeless(target)), target.batch, kinds_of(self.models.space))

    def pad_steps(self, pad: int | str) -> int | dict[str, int]:
        """What ``pad`` means: itself, or by group what the staircase says; InputError where it means nothing."""
        wanted = read_pad(pad)
        return wanted if isinstance(wanted, int) else self.staircase.pads_for(self.models.space)

    def card(self, member: Member) -> Card:
        """The facts of an exported member."""
        entry, facts = member.entry, self.facts
        keys = ("data", "classes", "shape", "mean", "std")
        return Card(
            member.name, {k: facts[k] for k in keys}, self.content["teacher"], entry.candidate.to_json(),
            {k: len(v) for k, v in member.kept().items()}, entry.cost.to_json(), entry.metrics,
            {"target": facts["target"], "measured_ms": None if facts["target"] is None else entry.cost.latency_ms,
             "predicted_ms": entry.predicted_ms, "speed_up": entry.speed_up},
            {"run": self.content["name"], "limits": self.content["limits"], "trials": list(entry.trials)},
        )

    def report(self) -> Path:
        """Write ``report.html``, one self-contained page, into the run folder; returns its path."""
        from niwaki.search.summary import write_report

        return write_report(self)
