"""Everything a configuration names is looked up before anything is trained, measured or written."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from niwaki.distill import objects
from niwaki.pruning import Criterion
from niwaki.search.budget import Budget
from niwaki.search.config import Config
from niwaki.search.context import device_of, recipe_of, space_options, teaching_of
from niwaki.search.export import exporter
from niwaki.search.observers import check_observers
from niwaki.search.outcome import Outcome, Proposal
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.runners import Runner, RunnerSetup
from niwaki.search.targets import Target, parse
from niwaki.spaces import InputError, registry
from niwaki.spaces.errors import nearest

DEFAULT_TARGET = "torch:threads=1,batch=1"


class Proposer(Protocol):
    """One file of ``search/proposers``: decides which candidate is tried next."""

    def ask(self) -> Proposal | None: ...
    def tell(self, outcome: Outcome) -> None: ...


def check_choices(config: Config) -> None:
    """InputError for the first name, option or value that no part of Niwaki knows."""
    recipe_of(config)
    _check_teaching(config)
    space_options(config)
    budget_of(config)
    criterion(config)
    proposer_class(config)
    runner_class(config)
    target_of(config)
    device_of(config.run.device)
    check_observers(config)
    for name in config.export.formats:
        try:
            exporter(name)
        except InputError as error:
            raise InputError(f"export.formats: {str(error).removeprefix('export: ')}") from error


def _check_teaching(config: Config) -> None:
    """The recipe of a teacher's own training, which comes long after the run folder is made."""
    try:
        teaching_of(config)
    except InputError as error:
        raise InputError(f"teacher.{error}") from error


def check_folder(folder: Path) -> None:
    """InputError where ``folder`` holds anything: a run never writes over what existed."""
    if "\0" in str(folder):
        raise InputError(f"run.folder: {str(folder)!r} cannot be the name of a folder")
    try:
        there = folder.is_dir() and not any(folder.iterdir())
        above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:  # a name too long, a folder that may not be entered
        raise InputError(f"{folder}: cannot be a run folder: {error.strerror}") from error
    if there:
        return
    if not above.is_dir() and above != folder:
        raise InputError(f"{folder}: cannot be a run folder, because {above} is a file")
    if not os.access(above, os.W_OK):
        raise InputError(f"{folder}: cannot be a run folder, because nothing may be written in {above}")
    if folder.exists():
        hint = f"continue it with `niwaki resume {folder}`, or " if (folder / "config.yaml").is_file() else ""
        raise InputError(
            f"{folder}: this folder exists and is not empty; {hint}choose another one (--to FOLDER). "
            "Nothing in it was changed"
        )


def budget_of(config: Config) -> Budget:
    return Budget(**config.budget.model_dump())


def criterion(config: Config) -> Criterion:
    """The criterion, built from its options."""
    cls = registry.load("niwaki.pruning.criteria", config.criterion.name, "criterion.name")
    made: Criterion = objects.build(cls, config.criterion.options, "criterion.options")
    return made


def proposer_class(config: Config) -> Callable[[ProposerSetup], Proposer]:
    """The proposer with its options bound; call it with the setup of the run."""
    cls = registry.load("niwaki.search.proposers", config.search.proposer, "search.proposer")
    options = _options(cls, config.search.options, "setup", "search.options")

    def make(setup: ProposerSetup) -> Proposer:
        try:
            made: Proposer = cls(setup, **options)
        except ValueError as error:
            raise InputError(f"search.options: {config.search.proposer}: {error}") from error
        return made

    return make


def runner_class(config: Config) -> Callable[[RunnerSetup], Runner]:
    try:
        return registry.load("niwaki.search.runners", config.run.runner, "run.runner")
    except ModuleNotFoundError as error:
        raise InputError(
            f"run.runner: {config.run.runner!r} needs {error.name}, which is not installed; use 'local', or run: "
            f"pip install {error.name}"
        ) from error


def target_of(config: Config) -> Target | None:
    """Where latency is measured; None where neither a budget nor the configuration asks for it."""
    if config.latency.target is None and config.budget.latency is None:
        return None
    try:
        return parse(config.latency.target or DEFAULT_TARGET)
    except InputError as error:
        raise InputError(f"latency.target: {error}") from error


def _options(cls: type, options: Mapping[str, Any], reserved: str, where: str) -> dict[str, Any]:
    fields = [f.name for f in dataclasses.fields(cls) if f.init and f.name != reserved]
    types = typing.get_type_hints(cls)
    found = {}
    for key, value in options.items():
        if key not in fields:
            raise InputError(f"{where}: unknown option {key!r}; {nearest(key, fields) if fields else '(it has none)'}")
        try:
            found[key] = TypeAdapter(types[key]).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{where}.{key}: {value!r}: {error.errors()[0]['msg']}") from error
    return found
