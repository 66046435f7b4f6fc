"""Begin a run with what another one has found out: its teacher, its supernet, its latency model, its untrained scores.

None of it depends on the budget, so another budget costs neither the training of the supernet nor the candidates that
were judged before: those of them that fit it are what the new search begins with.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

from torch import nn

from niwaki.search.config import Config, load_config
from niwaki.search.context import RunFolder
from niwaki.search.files import read_tensors, reading
from niwaki.search.formats import Facts, read_checked
from niwaki.search.links import refuse_links
from niwaki.search.outcome import Outcome
from niwaki.search.subject import Subject
from niwaki.spaces import Candidate, InputError

_FILES = ("teacher", "scores", "sensitivity", "supernet", "latency", "staircase")
_SAME = ("teacher", "data", "criterion")
"""Sections of the configuration that must not differ, or what was found out means something else."""


def check_base(config: Config) -> None:
    """InputError unless ``run.base`` names a run whose findings hold for this configuration."""
    if config.run.base is None:
        return
    base = RunFolder(Path(config.run.base))
    if not base.store.config.is_file() or not base.scores.is_file():
        raise InputError(f"run.base: {config.run.base!r} is no run folder, or its run has not got as far as a search")
    refuse_links(base.path, deep=True)
    theirs = load_config(base.store.config)
    for section in _SAME:
        if getattr(theirs, section) != getattr(config, section):
            raise InputError(f"run.base: {config.run.base!r} was run with another section {section!r}: begin anew")
    read_checked(base.facts, Facts)
    read_tensors(base.teacher)
    judged(base)


def check_findings(config: Config, teacher: nn.Module, digest: str) -> None:
    """InputError where the base run searched another space than ``digest``, or had another teacher."""
    if config.run.base is None:
        return
    base = RunFolder(Path(config.run.base))
    theirs = read_checked(base.facts, Facts)["space"]
    if theirs != digest:
        raise InputError(
            f"run.base: {config.run.base!r} searched the space {theirs}, this run has {digest}: "
            "the options of `space` or the model's code differ"
        )
    with reading(base.teacher):
        copy.deepcopy(teacher).load_state_dict(read_tensors(base.teacher))


def take_over(config: Config, folder: RunFolder, subject: Subject) -> None:
    """Link or copy what the base run has found out, which :func:`check_findings` has seen, into a new run folder."""
    if config.run.base is None:
        return
    base = RunFolder(Path(config.run.base))
    for name in _FILES:
        source, target = getattr(base, name), getattr(folder, name)
        if source.is_file() and not target.is_file():
            _link(source, target)
    subject.teacher.load_state_dict(read_tensors(folder.teacher))
    for outcome in judged(base):
        shutil.copytree(base.store.trial(outcome.key), folder.store.trial(outcome.key), copy_function=_link)


def judged(folder: RunFolder) -> list[Outcome]:
    """Candidates that a run judged untrained: any budget may use them."""
    return [o for o in folder.store.outcomes() if o.job.kind == "search" and not o.job.images and o.complete]


def known_candidates(config: Config, subject: Subject) -> tuple[tuple[Candidate, float], ...]:
    """What the base run judged untrained and fits the budget, each with the lowest level that it fits."""
    if config.run.base is None:
        return ()
    found = []
    for outcome in judged(RunFolder(Path(config.run.base))):
        cost = subject.costing.cost(outcome.job.candidate)
        levels = [level for level in config.search.levels if subject.limits.times(level).fits(cost)]
        if levels:
            found.append((outcome.job.candidate, min(levels)))
    return tuple(found)


def _link(source: str | Path, target: str | Path) -> str:
    """A second name for the same file where the file system has them: no run changes a file, it only replaces them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return str(target)
