"""What workers need, written into the run folder: the teacher (trained if need be), its answers, scores, numerics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from niwaki.distill import Answers, FitProgress, FitRun, accuracy, answers, fit, resolve
from niwaki.distill.augment import derived_seed
from niwaki.distill.splits import chunks
from niwaki.pruning import score_groups
from niwaki.search.checkpoint import StateFile
from niwaki.search.checks import criterion
from niwaki.search.context import IN_HAND, Context, RunFolder, device_of, recipe_of, teaching_of
from niwaki.search.events import Listener, PhaseProgress
from niwaki.search.files import as_os_error, read_tensors, write_json_atomic, write_tensors_atomic
from niwaki.search.formats import Facts, read_checked
from niwaki.search.sensitivity import sensitivity, students
from niwaki.search.shared import share_data
from niwaki.search.starts import wanted
from niwaki.search.subject import Subject, phase
from niwaki.search.threads import torch_threads
from niwaki.search.trial import untrained
from niwaki.spaces.latency import LatencyModel

_TEACHING = "teaching.safetensors"
"""The teacher's checkpoint while the run trains it."""
_LEAST_IMAGES = 64
"""On which a single cut is judged, however many cuts there are."""


def equip(subject: Subject, folder: RunFolder, listener: Listener) -> None:
    """Train the teacher if need be, and write all that workers read. What is there already is kept."""
    config, device = subject.config, device_of(subject.config.run.device)
    write_json_atomic(folder.space, subject.space.to_json())
    if isinstance(subject.costing.latency, LatencyModel) and not folder.latency.is_file():
        write_json_atomic(folder.latency, subject.costing.latency.to_json())
    if subject.staircase is not None and not folder.staircase.is_file():
        write_json_atomic(folder.staircase, subject.staircase.to_json())
    with phase("teacher", listener) as detail, torch_threads(subject.threads):
        subject.teacher.to(device)
        if not folder.teacher.is_file():
            if config.teacher.weights is None and config.teacher.name != IN_HAND:
                _teach(subject, folder, listener)
            write_tensors_atomic(folder.teacher, subject.teacher.state_dict())
            (folder.path / _TEACHING).unlink(missing_ok=True)
        validation = accuracy(subject.teacher, subject.data, "validation")
        detail.append(f"{validation:.2%} on validation")
    _write_facts(subject, folder, validation)
    with phase("answers", listener) as detail, torch_threads(subject.threads):
        share_data(subject.data, folder.shared)
        detail.append(_write_answers(subject, folder, listener))
        if not folder.scores.is_file():
            scores = score_groups(subject.teacher, subject.space, criterion(config), _batches(subject, device))
            write_tensors_atomic(folder.scores, scores)
    if any(kind == "knapsack" for kind, _ in wanted(config)) and not folder.sensitivity.is_file():
        with phase("sensitivity", listener) as detail, torch_threads(subject.threads):
            detail.append(_write_sensitivity(subject, folder, listener))
    subject.teacher.cpu()


def driver_context(subject: Subject, folder: RunFolder) -> Context:
    """What workers read from the folder, for the driver, which has most of it in hand."""
    facts, recipe = read_checked(folder.facts, Facts), recipe_of(subject.config)
    return Context(
        folder, subject.teacher, subject.space, subject.example, subject.data, subject.costing,
        replace(recipe, precision=facts["precision"], layout=facts["layout"]),
        Answers.load(folder.answers) if recipe.build_loss().needs_teacher else None,
        read_tensors(folder.scores), subject.threads, subject.config,
    )  # fmt: skip


def _teach(subject: Subject, folder: RunFolder, listener: Listener) -> None:
    """Train the teacher itself, where it is given without weights."""
    config = subject.config

    def report(at: FitProgress) -> None:
        listener(PhaseProgress("teacher", at.images, at.total))

    kept = StateFile(folder.path / _TEACHING, config.run.checkpoint_every)
    run = FitRun(seed=derived_seed(config.run.seed, "teach"), report=report, checkpoint=kept)
    fit(subject.teacher, subject.data, teaching_of(config), run)


def _write_facts(subject: Subject, folder: RunFolder, validation: float) -> None:
    if folder.facts.is_file():
        return
    with torch_threads(subject.config.run.cpus_per_trial):  # what pays depends on the threads a trial will have
        recipe = resolve(recipe_of(subject.config), subject.teacher, subject.data)
    write_json_atomic(folder.facts, {
        "space": subject.space.digest, "precision": recipe.precision, "layout": recipe.layout,
        "data": subject.data.name, "classes": subject.data.classes, "shape": list(subject.data.shape),
        "mean": list(subject.data.mean), "std": list(subject.data.std),
        "teacher": {"name": subject.config.teacher.name, "cost": subject.cost.to_json(), "accuracy": validation},
        "limits": dict(subject.limits.values),
        "target": None if subject.costing.latency is None else subject.config.latency.target,
    })


def _write_answers(subject: Subject, folder: RunFolder, listener: Listener) -> str:
    recipe = recipe_of(subject.config)
    if not recipe.build_loss().needs_teacher:
        return "the loss needs no teacher"
    folder.shared.mkdir(exist_ok=True)
    if not folder.answers.is_file():
        found = answers(
            subject.teacher, subject.data, recipe, derived_seed(subject.config.run.seed, "views"),
            lambda done, total: listener(PhaseProgress("answers", done, total)),
        )
        draft = folder.answers.with_suffix(".tmp")
        with as_os_error(draft):
            found.save(draft)
        draft.replace(folder.answers)
    return f"{recipe.views} views of {len(subject.data.train)} images"


def _write_sensitivity(subject: Subject, folder: RunFolder, listener: Listener) -> str:
    """On the training images that come last in the order in which refits take their own: the two hardly ever meet.

    No more images than make it take about half as long as one final training, whose images are three passes each:
    judging one is two, its refit or recalibration included.
    """
    config, data = subject.config, subject.data
    context = driver_context(subject, folder)
    affordable = 3 * config.train.final_images // (4 * students(subject.space))
    images = min(config.criterion.sensitivity, max(affordable, _LEAST_IMAGES))
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[-images:]
    batches = [(data.normalise(x), y) for x, y in map(data.train.batch, chunks(rows, 128))]
    found = sensitivity(
        subject.space, lambda candidate: untrained(candidate, context, images), batches,
        progress=lambda done, total: listener(PhaseProgress("sensitivity", done, total)),
    )
    write_json_atomic(folder.sensitivity, found.to_json())
    return f"{found.judged} students on {found.images} training images each"


def _batches(subject: Subject, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images for the criterion, drawn by the run's seed, not augmented."""
    train, seed = subject.data.train, derived_seed(subject.config.run.seed, "criterion")
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: subject.config.criterion.images]
    for chunk in chunks(rows, 128):
        images, labels = train.batch(chunk)
        yield subject.data.normalise(images.to(device)), labels.to(device)
