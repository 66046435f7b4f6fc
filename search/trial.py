"""One job: select, carve, mask, train with distillation, judge, recount. A function of job and run folder alone."""

from __future__ import annotations

import os
import socket
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from niwaki.distill import FitProgress, FitRun, accuracy, fit, recalibrate
from niwaki.pruning import Chosen, Masks, select
from niwaki.search.checkpoint import StateFile
from niwaki.search.context import Context, InHand, open_context
from niwaki.search.files import DISK_FULL, read_json, read_tensors, write_tensors_atomic
from niwaki.search.lesson import learn
from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners import Pulse, Work
from niwaki.spaces import Candidate, Cost, Kept, carve, count

STUDENT, KEPT, LOG, STATE = "student.safetensors", "kept.safetensors", "log.txt", "training.safetensors"
_TRACEBACK_LINES = 6


@dataclass(frozen=True, eq=False)
class TrialWork:
    """Makes, in each worker process, the function that does its jobs (see ``niwaki.search.runners.MakeWork``).

    Attributes:
        folder: of the run.
        in_hand: the model and data of the caller, where the configuration does not name them.
    """

    folder: Path
    in_hand: InHand | None = None

    def __call__(self) -> Work:
        context = open_context(self.folder, self.in_hand)
        return lambda job, pulse: run_trial(job, context, pulse)

    def at(self, folder: Path) -> TrialWork:
        """The same over a copy of the run folder."""
        return replace(self, folder=folder)


def run_trial(job: Job, context: Context, pulse: Pulse | None = None) -> Outcome:
    """Do ``job`` and write its folder; a job that is done already is only read.

    Never raises for what happens inside a trial: an exception becomes a failed outcome with the last lines of its
    traceback, and the whole of it in ``log.txt``. ``outcome.json`` is written last: with it, the trial counts.
    """
    store = context.folder.store
    done = store.trial(job.key) / "outcome.json"
    if done.is_file():  # a worker that died after its job, or a driver that died before it could record it
        outcome = Outcome.from_json(read_json(done))
        if outcome.complete:
            return outcome
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(context.threads)
    with _Log(store.save_job(job) / LOG, pulse or Pulse()) as log:
        try:
            outcome = learn(job, context, log.steps) if job.kind == "learn" else _train(job, context, log)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise  # no fault of the candidate's: nothing is recorded
            text = traceback.format_exc()
            log.write(text)
            short = "\n".join(text.strip().splitlines()[-_TRACEBACK_LINES:])
            outcome = Outcome(job, context.costing.cost(job.candidate), {}, "failed", short or repr(error))
        finally:
            torch.set_num_threads(threads)
        outcome = replace(outcome, seconds=time.perf_counter() - started)
        log.write(f"{outcome.status} after {outcome.seconds:.1f} s: {dict(outcome.metrics)}")
    store.save_outcome(outcome)
    return outcome


def untrained(candidate: Candidate, context: Context, images: int = 2048) -> nn.Module:
    """The student as a first rung of no images judges it: refit where the run refits, sparse, else recalibrated.

    ``images``: of the recalibration.
    """
    student, _ = _carved(candidate, context)
    Masks.create(student, candidate.sparsity).apply()
    if not _as_the_teacher_computes(student, candidate, context):
        recalibrate(student, context.data, images, recipe=context.recipe)
    return student


def _train(job: Job, context: Context, log: _Log) -> Outcome:
    folder = context.folder.store.trial(job.key)
    threads, process = torch.get_num_threads(), f"process {os.getpid()} on {socket.gethostname()}"
    log.write(f"job {job.key}: {job.images} images, seed {job.seed}, {threads} threads, {process}")
    student, kept, seen = _student(job, context)
    student.register_forward_pre_hook(log.pulse.beat)
    masks = Masks.create(student, job.candidate.sparsity)
    masks.apply()
    metrics: dict[str, float] = {}
    if job.images:
        if (folder / STATE).is_file():
            log.write("going on from the checkpoint of an earlier try")
        run = FitRun(
            answers=context.answers, seed=job.seed, first_image=seen,
            after_step=masks.apply if job.candidate.sparsity else None, report=log.progress,
            checkpoint=StateFile(folder / STATE, context.config.run.checkpoint_every),
        )
        result = fit(student, context.data, context.recipe.scaled(job.images), run)
        masks.apply()  # a moving average of the weights ends the training, and may not be sparse
        metrics = {"loss": result.loss, "train_seconds": result.seconds}
    numerics = context.recipe.numerics  # float32 would take as long as a short training; the test split gets it
    if not job.images and not _as_the_teacher_computes(student, job.candidate, context):
        recalibrate(student, context.data, seed=job.seed, recipe=context.recipe)
    metrics["accuracy"] = accuracy(student, context.data, "validation", numerics=numerics)
    cost = _recounted(student.cpu(), job, context)
    write_tensors_atomic(folder / KEPT, kept)
    write_tensors_atomic(folder / STUDENT, student.state_dict())
    (folder / STATE).unlink(missing_ok=True)
    return Outcome(job, cost, metrics, images=seen + job.images)


def _student(job: Job, context: Context) -> tuple[nn.Module, Kept, int]:
    """The model to train, the units it keeps, and how many images its weights have seen: a parent's, or none."""
    space, source = context.space, context.source
    if job.parent is None:
        return *_carved(job.candidate, context), 0
    folder = context.folder.store.trial(job.parent)
    parent = Outcome.from_json(read_json(folder / "outcome.json"))
    if parent.job.candidate != job.candidate:
        raise ValueError(f"job {job.key} continues {job.parent}, which is another candidate")
    kept = read_tensors(folder / KEPT)
    student = carve(source, space, job.candidate, kept)
    student.load_state_dict(read_tensors(folder / STUDENT))
    return student, kept, parent.images


def _carved(candidate: Candidate, context: Context) -> tuple[nn.Module, Kept]:
    kept = select(context.space, candidate, context.scores)
    student = carve(context.source, context.space, candidate, kept)
    if context.refitter is not None:
        context.refitter.refit(student, Chosen(context.space, candidate, kept))
    return student, kept


def _as_the_teacher_computes(student: nn.Module, candidate: Candidate, context: Context) -> bool:
    """Whether a refit gave every convolution the teacher's outputs, whose statistics its BatchNorms then still hold."""
    if context.refitter is None or candidate.sparsity:
        return False
    kernels = {k for k, p in student.named_parameters() if p.dim() > 2}
    return kernels <= context.refitter.covered


def _recounted(student: nn.Module, job: Job, context: Context) -> Cost:
    """The cost of the trained model as it is; ValueError where it is not what the search was promised."""
    promised = context.costing.cost(job.candidate)
    counted = count(student, context.example, job.candidate.sparsity)
    if job.candidate.sparsity and counted.bytes < promised.bytes:  # weights that are zero without a mask
        counted = replace(counted, bytes=promised.bytes)
    wrong = [f"{k} {getattr(counted, k)}, expected {getattr(promised, k)}"
             for k in ("macs", "params", "bytes") if getattr(counted, k) != getattr(promised, k)]
    if wrong:
        raise ValueError(f"the trained model does not cost what its candidate does: {'; '.join(wrong)}")
    return promised


class _Log:
    """``log.txt`` of a trial: whole lines, on disk as soon as they are written; a dead worker leaves a trace."""

    def __init__(self, path: Path, pulse: Pulse) -> None:
        self.pulse = pulse
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._next = 0.0

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, text: str) -> None:
        self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def steps(self, done: int, total: int) -> None:
        """A line about every ten percent."""
        self.pulse.progress(done, total)
        if done >= self._next * total or done == total:
            self._next = done / total + 0.1
            self.write(f"{done}/{total}")

    def progress(self, at: FitProgress) -> None:
        """The same with what a training knows of itself."""
        self.pulse.progress(at.images, at.total)
        if at.images >= self._next * at.total or at.images == at.total:
            self._next = at.images / at.total + 0.1
            self.write(f"{at.images}/{at.total} images, loss {at.loss:.4f}, lr {at.lr:.2g}, {at.seconds:.1f} s")
