"""Transformable Architecture Search (Dong & Yang, NeurIPS 2019, arXiv 1905.09717) over any space, level by level."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from niwaki.distill.augment import derived_seed
from niwaki.distill.checkpoint import optimizer_state, restore_optimizer
from niwaki.search.costing import Ints, Limits
from niwaki.search.files import read_tensors, write_json_atomic, write_tensors_atomic
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.tas.expected import Expectation
from niwaki.search.tas.sampling import Draw, draw, label, temperature
from niwaki.search.tas.settings import Settings
from niwaki.search.tas.steering import cost_loss, directions
from niwaki.search.tas.task import Task
from niwaki.spaces import InputError, Space


class Search:
    """One network, searched for one level of the budget after the other; each level starts with new logits.

    Deviations from TAS, beside those of :class:`niwaki.search.tas.network.SearchNet`: weights begin as the teacher's
    (``fresh`` turns that off) and go on from level to level; all depths of a stage are on offer, down to what the space
    allows; the cost that steers is that of the candidate really built, dropped blocks and all. The result of a level is
    the last argmax of its second half that lay in the band, since short searches take large steps; where none did, the
    last one, as in TAS. Accuracy has no say in which.

    Without a lesson (no data to learn from) costs alone speak.

    Args:
        limits: absolute budgets, none above what the largest candidate costs.

    Attributes:
        found: for each level done, label of a variable -> (choices,) logits.
    """

    def __init__(self, setup: ProposerSetup, limits: Limits, settings: Settings) -> None:
        self.setup, self.limits, self.settings = setup, limits, settings
        space = setup.space
        self.variables = tuple(v for v in space.variables if v.kind != "sparsity" and len(v.choices) > 1)
        self.expected = Expectation(setup.costing, list(limits.values))
        self.largest = {k: float(c[0]) for k, c in setup.costing(np.array([space.encode(space.largest())])).items()}
        self.found: list[dict[str, Tensor]] = []
        self.step = 0
        self.task: Task | None = None
        if setup.lesson is not None:
            if not isinstance(space, Space):
                raise InputError("search.proposer: 'tas' with a lesson needs a space derived from its teacher")
            self.task = Task(setup.lesson, space, settings.batch_size, setup.seed, settings.fresh)
            self.trained = torch.optim.SGD(
                self.task.net.parameters(), settings.lr, 0.9, weight_decay=settings.weight_decay, nesterov=True
            )
        self._begin()

    def _begin(self) -> None:
        """New logits for the next level, near zero [N(0, 0.01)]."""
        generator = torch.Generator().manual_seed(derived_seed(self.setup.seed, "logits", len(self.found)))
        self.logits = {
            label(v): (0.01 * torch.randn(len(v.choices), generator=generator)).requires_grad_() for v in self.variables
        }
        self.settled: dict[str, Tensor] = {}
        decay, lr = self.settings.arch_decay, self.settings.logits_lr
        self.adam = torch.optim.Adam(list(self.logits.values()), lr, betas=(0.5, 0.999), weight_decay=decay)

    def run(self, report: Callable[[int, int], None] = lambda done, total: None) -> list[dict[str, Tensor]]:
        """Search what is left of all levels; ``report(steps done, steps in all)`` now and then. Returns ``found``."""
        self.restore()
        steps, levels = self.settings.steps, self.setup.levels
        while self.variables and len(self.found) < len(levels):
            self.one_step()
            self.step += 1
            if done := self.step == steps:
                self.found.append(self.settled or _copied(self.logits))
                self.step = 0
                self._begin()
            if done or self.step % self.settings.every == 0:
                self.save()
                report(len(self.found) * steps + self.step, len(levels) * steps)
        return self.found

    def one_step(self) -> None:
        """Weights on a batch of the one half, then logits on a batch of the other, each with a draw of its own."""
        settings, number = self.settings, len(self.found) * self.settings.steps + self.step
        progress = self.step / max(settings.steps - 1, 1)
        tau = temperature(progress, settings.temperature)
        generator = torch.Generator().manual_seed(derived_seed(self.setup.seed, "draws", number))
        task = self.task
        cuda = [] if task is None or task.lesson.device.type != "cuda" else [task.lesson.device]
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(derived_seed(self.setup.seed, "step", number))  # of dropout
            if task is not None:
                lr = settings.lr * (1 + math.cos(math.pi * progress)) / 2
                self._train(task, self._drawn(tau, generator, learn=False), number, lr)
            self._learn(self._drawn(tau, generator, learn=True), number)

    def _drawn(self, tau: float, generator: torch.Generator, learn: bool) -> Draw:
        with torch.set_grad_enabled(learn):
            return draw(self.variables, self.logits, tau, generator)

    def _train(self, task: Task, drawn: Draw, number: int, lr: float) -> None:
        loss = task.loss("weights", drawn, number)
        self.trained.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.trained.param_groups[0]["lr"] = lr
        self.trained.step()

    def _learn(self, drawn: Draw, number: int) -> None:
        pushed = self.pushed()
        if not pushed and self.settings.weight and 2 * self.step >= self.settings.steps:
            self.settled = _copied(self.logits)
        loss = self.cost_loss(pushed) * self.settings.weight
        if self.task is not None:
            loss = loss + self.task.loss("architecture", drawn, number).cpu()
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"tas: the loss is {float(loss)} at step {number + 1}; a lower lr may help")
        if loss.requires_grad:
            values = list(self.logits.values())
            for value, grad in zip(values, torch.autograd.grad(loss, values, allow_unused=True), strict=True):
                value.grad = torch.zeros_like(value) if grad is None else grad
            self.adam.step()

    def pushed(self) -> dict[str, int]:
        """Which costs have to move, and where to, for the present logits and level: see ``directions``."""
        limits = self.limits.times(self.setup.levels[len(self.found)]).values
        costs = {name: float(c[0]) for name, c in self.setup.costing(self.argmax(self.logits)[None]).items()}
        return directions(costs, limits, self.largest, self.settings.tolerance)

    def cost_loss(self, pushed: dict[str, int]) -> Tensor:
        """Of the present logits; exactly zero where nothing is pushed."""
        if not pushed:
            return cost_loss({}, {})
        chances = {name: value.softmax(0) for name, value in self.logits.items()}
        return cost_loss(self.expected(self.argmax(self.logits), chances), pushed)

    def argmax(self, logits: dict[str, Tensor]) -> Ints:
        """``(variables,)`` choice indices: the likeliest choice of each; without logits (sparsities) the largest."""
        space = self.setup.space
        best = [int(logits[label(v)].argmax()) if label(v) in logits else len(v.choices) - 1 for v in space.variables]
        return np.array(best, dtype=np.int64)

    @property
    def path(self) -> Path | None:
        """The checkpoint: its name changes with whatever would make it another search."""
        if self.setup.lesson is None:
            return None
        facts = [
            self.setup.space.variables, self.setup.levels, self.setup.seed, sorted(self.limits.values.items()),
            sorted(asdict(self.settings).items()), self.setup.lesson.recipe.augment,
        ]  # fmt: skip
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
        return self.setup.lesson.folder / f"tas-{digest}.safetensors"

    def save(self) -> None:
        """Weights, logits and both optimisers in one file; beside it, readable, what the levels have come to."""
        if self.path is None or self.task is None:
            return
        tensors = {f"net/{k}": v for k, v in self.task.net.tensors.items()}
        tensors |= {f"logits/{k}": v for k, v in self.logits.items()}
        tensors |= {f"settled/{k}": v for k, v in self.settled.items()}
        tensors |= {f"found/{i}/{k}": v for i, logits in enumerate(self.found) for k, v in logits.items()}
        tensors |= optimizer_state("sgd", self.trained) | optimizer_state("adam", self.adam)
        write_tensors_atomic(self.path, tensors | {"at": torch.tensor([len(self.found), self.step])})
        write_json_atomic(self.path.with_suffix(".json"), self.summary())

    def summary(self) -> dict[str, object]:
        """Levels done: the candidate and its costs; training images used so far."""
        space, done = self.setup.space, []
        for level, logits in zip(self.setup.levels, self.found, strict=False):
            candidate = space.canonical(space.decode(self.argmax(logits).tolist()))
            costs = self.setup.costing(np.array([space.encode(candidate)]))
            figures = {k: float(c[0]) for k, c in costs.items()}
            done.append({"level": level, "candidate": candidate.to_json(), **figures})
        return {"levels": done, "images": self.images, "settings": json.loads(json.dumps(asdict(self.settings)))}

    @property
    def images(self) -> int:
        """Training images shown so far: of both halves."""
        steps = len(self.found) * self.settings.steps + self.step
        return 0 if self.task is None else 2 * self.settings.batch_size * steps

    def restore(self) -> None:
        """Go on from the checkpoint, where there is one."""
        if self.path is None or self.task is None or not self.path.is_file():
            return
        tensors = read_tensors(self.path)
        done, self.step = (int(n) for n in tensors["at"])
        for i in range(done):
            self.found.append({label(v): tensors[f"found/{i}/{label(v)}"] for v in self.variables})
        self._begin()
        with torch.no_grad():
            for key, value in self.task.net.tensors.items():
                value.copy_(tensors[f"net/{key}"])
            for name, value in self.logits.items():
                value.copy_(tensors[f"logits/{name}"])
        self.settled = {k.removeprefix("settled/"): v for k, v in tensors.items() if k.startswith("settled/")}
        restore_optimizer("sgd", self.trained, tensors)
        restore_optimizer("adam", self.adam, tensors)


def _copied(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in logits.items()}
