"""The supernet of a run: trained once before its first trial, inherited by every student."""

from __future__ import annotations

from dataclasses import replace

from niwaki.distill import Answers
from niwaki.search.checks import proposer_needs
from niwaki.search.context import RunFolder, device_of, recipe_of
from niwaki.search.events import Listener, PhaseProgress
from niwaki.search.files import read_json, read_tensors
from niwaki.search.subject import Subject, phase
from niwaki.search.supernet import SupernetPlan, SupernetRun, supernet_weights, train_supernet
from niwaki.search.threads import torch_threads
from niwaki.spaces import Elastic


def prepare_supernet(subject: Subject, folder: RunFolder, listener: Listener) -> None:
    """Train the supernet where the proposer needs one and the folder has none yet; a stopped training goes on."""
    config = subject.config
    if "supernet" not in proposer_needs(config) or supernet_weights(folder.supernet) is not None:
        return
    facts, device = read_json(folder.facts), device_of(config.run.device)
    recipe = replace(recipe_of(config), precision=facts["precision"], layout=facts["layout"])
    answers = Answers.load(folder.answers) if recipe.build_loss().needs_teacher else None
    with phase("supernet", listener) as detail, torch_threads(subject.threads):
        elastic = Elastic(subject.teacher, subject.space, read_tensors(folder.scores)).to(device)
        plan = SupernetPlan.of(config.search.options, config.run.seed)
        train_supernet(elastic, subject.data, recipe, plan, SupernetRun(
            answers, folder.supernet, lambda done, total: listener(PhaseProgress("supernet", done, total)),
        ))  # fmt: skip
        detail.append(f"{plan.images:,} images, each seen by {plan.middles + 2} candidates")
