"""The one training loop of Niwaki: teachers, students, finalists and baselines all go through it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn

from niwaki.distill.answers import Answers
from niwaki.distill.augment import derived_seed
from niwaki.distill.checkpoint import Checkpoint, optimizer_state, random_state, restore_optimizer, restore_random
from niwaki.distill.data import Data
from niwaki.distill.ema import Average
from niwaki.distill.evaluate import device_of, main_logits
from niwaki.distill.losses import Loss
from niwaki.distill.numerics import Numerics
from niwaki.distill.precision import resolve
from niwaki.distill.recipe import Recipe
from niwaki.distill.stream import Batch, Plan, Reader

_LOOK = 16  # steps between two looks at the losses: on a GPU each look waits for the device


@dataclass(frozen=True)
class FitProgress:
    """Where a training stands: ``images`` of ``total`` seen, mean ``loss`` of the latest steps, ``seconds`` so far."""

    images: int
    total: int
    loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class FitRun:
    """What belongs to one training and not to the recipe.

    Attributes:
        answers: the teacher's stored answers; they also say which augmented images are shown.
        teacher: a live teacher, asked where ``answers`` is None and the loss needs one: normalised images -> logits.
        seed: of the order of the images, of dropout, and (without answers) of the augmentation.
        after_step: called after every optimizer step (masks put their zeros back).
        report: called about every 16 steps and at the end.
        first_image: number of the first image to see: a continued training goes on with the views and the
            order that follow.
        schedule: images of the whole schedule of the learning rate, where this training is a part of it that begins at
            ``first_image``; 0: it is the whole.
        also: more loss, from (normalised images, logits), both with a batch in front.
        checkpoint: where the state of the training is kept while it runs. One that is begun again with the same
            arguments and a state of its own goes on from there, and ends with the same weights; what ``also`` draws at
            random is not part of it.
    """

    answers: Answers | None = None
    teacher: Callable[[Tensor], Tensor] | None = None
    seed: int = 0
    after_step: Callable[[], None] | None = None
    report: Callable[[FitProgress], None] | None = None
    first_image: int = 0
    schedule: int = 0
    also: Callable[[Tensor, Tensor], Tensor] | None = None
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class FitResult:
    """Images seen, wall-clock seconds, and the mean training loss of the last tenth of the steps."""

    images: int
    seconds: float
    loss: float


def fit(student: nn.Module, data: Data, recipe: Recipe, run: FitRun | None = None) -> FitResult:
    """Train ``student`` in place; it is left in eval mode, contiguous, on its device, in float32.

    The same arguments give the same weights, bit for bit, on one machine with one number of threads (on a GPU: as
    far as its kernels are deterministic). The global random state is put back.

    Raises:
        FloatingPointError: the loss or a weight stopped being finite; the step is named.
        ValueError: the loss needs a teacher and the run has none, or the answers belong to other data or another
            augmentation.

    Example:
        >>> from niwaki.distill import DataSpec, build, load
        >>> recipe = Recipe(images=128, batch_size=64, augment="shift", loss="cross_entropy")
        >>> fit(build("small_cnn", 10), load(DataSpec("digits")), recipe).images
        128
    """
    run = run or FitRun()
    recipe = resolve(recipe, student, data)
    loop = _Loop(student, data, recipe, run)
    device = device_of(student)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derived_seed(run.seed, "fit", run.first_image))
        try:
            student.train()
            loop.train()
        finally:
            Numerics().arrange(student)
            student.eval()
    return loop.result()


class _Loop:
    """The state of one training while it runs."""

    def __init__(self, student: nn.Module, data: Data, recipe: Recipe, run: FitRun) -> None:
        _agree(recipe, run, data)
        self.student, self.data, self.recipe, self.run = student, data, recipe, run
        self.criterion: Loss = recipe.build_loss()
        self.device = device_of(student)
        self.numerics = recipe.numerics
        split = data.train.to(self.device)
        self.plan = Plan(len(split), recipe.images, recipe.batch_size, run.seed, run.first_image)
        answers = run.answers
        self.reader = (
            Reader(split, recipe.augment, run.seed, None)
            if answers is None
            else Reader(split, recipe.augment, answers.seed, answers.views)
        )
        self.logits = None if answers is None else answers.logits.to(self.device)
        self.losses: list[float] = []
        self.pending: list[Tensor] = []
        self.seen = 0
        self.start = time.perf_counter()

    def train(self) -> None:
        recipe, steps = self.recipe, len(self.plan)
        ahead = self.run.first_image // recipe.batch_size if self.run.schedule else 0
        whole = max(self.run.schedule // recipe.batch_size, ahead + steps)
        self.numerics.arrange(self.student)
        optimizer = recipe.build_optimizer(self.student)
        average = Average(self.student, recipe.ema) if recipe.ema > 0 else None
        done = self.restore(optimizer, average)
        for step, batch in enumerate(self.reader.batches(islice(self.plan, done, None)), start=done):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(ahead + step, whole)
            loss = self.loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if self.run.after_step is not None:
                self.run.after_step()
            if average is not None:
                average.update(self.student)
            self.pending.append(loss.detach())
            self.seen += len(batch.labels)
            if len(self.pending) == _LOOK or step == steps - 1:
                self.look(recipe.lr_at(ahead + step, whole))
                self.keep(optimizer, average)
        if average is not None:
            average.copy_to(self.student)
        self.check_weights()

    def loss(self, batch: Batch) -> Tensor:
        images = self.numerics.arranged(self.data.normalise(batch.images))
        with self.numerics.autocast(self.device):
            logits = main_logits(self.student(images))
            more = self.run.also(images, logits) if self.run.also is not None else 0.0
        return self.criterion.loss(logits.float(), self.teach(batch, images), batch.labels) + more

    def teach(self, batch: Batch, images: Tensor) -> Tensor | None:
        if not self.criterion.needs_teacher:
            return None
        if self.logits is not None:
            return self.logits[batch.views, batch.indices].float()
        # no_grad, not inference_mode: the loss keeps the answers for its backward pass
        with torch.no_grad(), self.numerics.autocast(self.device):
            return main_logits(cast(Callable[[Tensor], Tensor], self.run.teacher)(images)).float()

    def look(self, lr: float) -> None:
        """Read the losses of the latest steps off the device, refuse those that are not finite, report."""
        values = torch.stack(self.pending).tolist()
        first = len(self.losses)
        self.losses += values
        self.pending.clear()
        for offset, value in enumerate(values):
            if not abs(value) < float("inf"):
                raise FloatingPointError(
                    f"loss {value} at step {first + offset + 1} of {len(self.plan)} (lr {lr:.3g}): a lower "
                    "train.lr, a longer train.warmup or train.precision 'fp32' may help"
                )
        if self.run.report is not None:
            mean = sum(values) / len(values)
            self.run.report(FitProgress(self.seen, self.plan.images, mean, lr, time.perf_counter() - self.start))

    def keep(self, optimizer: torch.optim.Optimizer, average: Average | None) -> None:
        """Write the state down, where it is time to; only between looks, so that no loss is pending."""
        checkpoint = self.run.checkpoint
        if checkpoint is None or not checkpoint.due:
            return
        state = {f"model/{k}": v for k, v in self.student.state_dict().items()}
        if average is not None:
            state |= {f"average/{k}": v for k, v in average.values.items()}
        state |= optimizer_state("optimizer", optimizer) | random_state(self.device)
        losses = torch.tensor(self.losses, dtype=torch.float64)
        checkpoint.write({**state, "losses": losses, "seen": torch.tensor(self.seen), "identity": self.identity})

    def restore(self, optimizer: torch.optim.Optimizer, average: Average | None) -> int:
        """Go on from the state that is kept, where there is one of this training; the steps it has behind it."""
        state = self.run.checkpoint.read() if self.run.checkpoint is not None else None
        if state is None or not torch.equal(state["identity"], self.identity):
            return 0
        self.student.load_state_dict({k.removeprefix("model/"): v for k, v in state.items() if k.startswith("model/")})
        self.losses, self.seen = state["losses"].tolist(), int(state["seen"])
        if average is not None:
            average.steps = len(self.losses)
            average.values = {k: state[f"average/{k}"].to(v.device) for k, v in average.values.items()}
        restore_optimizer("optimizer", optimizer, state)
        restore_random(self.device, state)
        return len(self.losses)

    @property
    def identity(self) -> Tensor:
        """What would make this another training, as a number."""
        facts = (self.recipe, self.run.seed, self.run.first_image, self.run.schedule, len(self.data.train))
        return torch.tensor(int.from_bytes(hashlib.sha256(repr(facts).encode()).digest()[:7], "big"))

    def check_weights(self) -> None:
        for name, tensor in self.student.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise FloatingPointError(f"{name!r} is not finite after step {len(self.plan)}, loss {self.losses[-1]}")

    def result(self) -> FitResult:
        last = self.losses[-max(len(self.losses) // 10, 1) :]
        return FitResult(self.seen, time.perf_counter() - self.start, sum(last) / len(last))


def _agree(recipe: Recipe, run: FitRun, data: Data) -> None:
    answers = run.answers
    if answers is None:
        if recipe.build_loss().needs_teacher and run.teacher is None:
            raise ValueError(f"loss {recipe.loss!r} needs the teacher's answers, or a live teacher")
        return
    if answers.augment != recipe.augment:
        raise ValueError(
            f"the answers belong to images augmented by {answers.augment!r}, the recipe says {recipe.augment!r}"
        )
    if answers.logits.shape[1:] != (len(data.train), data.classes):
        raise ValueError(
            f"the answers are for {tuple(answers.logits.shape[1:])} (images, classes), "
            f"the training data have {(len(data.train), data.classes)}"
        )
