"""The run as an Optuna study for whatever reads one: ``optuna-dashboard RUN/study.journal`` opens it as it goes."""

from __future__ import annotations

import datetime
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from niwaki.search.costing import FIELDS, Limits, SearchSpace, value_of
from niwaki.search.files import read_json, write_json_atomic
from niwaki.search.outcome import Outcome
from niwaki.search.store import RunStore
from niwaki.search.study_journal import open_journal
from niwaki.search.study_url import expanded
from niwaki.spaces.types import Candidate

JOURNAL = "study.journal"
_UNITS = {"latency": " (ms)", "macs": "", "params": "", "size": " (bytes)", "memory": " (bytes)"}
_METRIC_NAMES = "study:metric_names"  # what Study.set_metric_names writes, with a warning that it is experimental
_REASON = 300  # characters of an error


@dataclass(frozen=True, eq=False)
class StudySetup:
    """What a study is made of.

    Attributes:
        store: of the run, whose journal is the truth.
        name: of the study; see :func:`study_name`.
        url: of a database, as ``run.study`` has it; None: the file ``study.journal`` in the run folder.
    """

    store: RunStore
    space: SearchSpace
    limits: Limits
    name: str
    url: str | None = None


class RunStudy:
    """Every outcome of a run as a finished trial of an Optuna study: made, or topped up, from the run's journal.

    Values are the accuracy (0..1, to be maximised) and every budgeted cost (MACs where there is no budget), constraints
    are ``cost / limit - 1`` by budget, parameters the variables of the space; user attributes say what the job was. A
    job that failed is a FAIL trial, and stays one beside a later success of the same job. What a proposer trains
    before it proposes is no trial.

    One process writes; any number may read meanwhile. Raises whatever the storage raises.

    Example:
        >>> import tempfile, torch, niwaki
        >>> from torch.nn import Linear, Sequential
        >>> space = niwaki.derive(Sequential(Linear(4, 16), Linear(16, 3)), torch.randn(2, 4))
        >>> store = RunStore.create(Path(tempfile.mkdtemp()) / "run", "trials: 8")
        >>> RunStudy(StudySetup(store, space, Limits({"size": 900.0}, {}), "mine")).study.metric_names
        ['accuracy', 'size (bytes)']
    """

    def __init__(self, setup: StudySetup) -> None:
        self._setup = setup
        self._costs = tuple(setup.limits.values) or ("macs",)
        self._distributions = distributions(setup.space)
        self._storage = RDBStorage(expanded(setup.url)) if setup.url else open_journal(setup.store.folder / JOURNAL)
        self.study = self._open()
        trials = self.study.get_trials(deepcopy=False)
        self._told = {(t.user_attrs.get("key"), t.state is TrialState.COMPLETE) for t in trials}
        for outcome in setup.store.outcomes():
            self.tell(outcome)

    def tell(self, outcome: Outcome) -> None:
        """Add an outcome, unless it is there."""
        if outcome.job.kind != "learn" and (outcome.key, outcome.complete) not in self._told:
            self.study.add_trial(self._trial(outcome))
            self._told.add((outcome.key, outcome.complete))

    def close(self) -> None:
        """Let go of the storage."""
        self._storage.remove_session()

    def _open(self) -> optuna.Study:
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            study = optuna.create_study(
                storage=self._storage, study_name=self._setup.name, load_if_exists=True,
                directions=[StudyDirection.MAXIMIZE, *(StudyDirection.MINIMIZE for _ in self._costs)],
            )  # fmt: skip
        finally:
            optuna.logging.set_verbosity(verbosity)
        if study.metric_names is None:
            study.set_user_attr("folder", str(self._setup.store.folder.resolve()))
            study.set_user_attr("budget", dict(self._setup.limits.values))
            names = ["accuracy", *(name + _UNITS[name] for name in self._costs)]
            self._storage.set_study_system_attr(study._study_id, _METRIC_NAMES, names)
        return study

    def _trial(self, outcome: Outcome) -> FrozenTrial:
        limits, cost, done = self._setup.limits, outcome.cost, outcome.complete
        trial = create_trial(
            state=TrialState.COMPLETE if done else TrialState.FAIL,
            values=[outcome.accuracy, *(value_of(cost, name) for name in self._costs)] if done else None,
            params=parameters(self._setup.space, outcome.job.candidate), distributions=self._distributions,
            user_attrs=attributes(outcome), constraints=limits.excess(cost) if done else None,
        )  # fmt: skip
        file = self._setup.store.trial(outcome.key) / "outcome.json"
        end = datetime.datetime.fromtimestamp(file.stat().st_mtime) if file.is_file() else datetime.datetime.now()
        trial.datetime_complete = end
        trial.datetime_start = end - datetime.timedelta(seconds=outcome.seconds)
        return trial


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """``kind name`` of each variable that leaves a choice -> whole numbers, or the tokens of a sparsity.

    Widths lie on the widest even grid that holds all that are on offer, so that plots have an axis of numbers.

    Example:
        >>> import torch, niwaki
        >>> from torch.nn import Linear, Sequential
        >>> distributions(niwaki.derive(Sequential(Linear(4, 20), Linear(20, 3)), torch.randn(2, 4)))
        {'width 0': IntDistribution(high=20, log=False, low=6, step=2)}
    """
    found: dict[str, BaseDistribution] = {}
    for variable in space.variables:
        name, choices = f"{variable.kind} {variable.name}", variable.choices
        if len(choices) > 1 and variable.kind == "sparsity":
            found[name] = CategoricalDistribution(choices)
        elif len(choices) > 1:
            low, *rest = sorted(int(choice) for choice in choices)
            found[name] = IntDistribution(low, rest[-1], step=math.gcd(*(choice - low for choice in rest)))
    return found


def parameters(space: SearchSpace, candidate: Candidate) -> dict[str, int | str]:
    """What ``candidate`` chose, under the names of :func:`distributions`."""
    chosen = zip(space.variables, space.encode(candidate), strict=True)
    return {f"{v.kind} {v.name}": v.choices[i] for v, i in chosen if len(v.choices) > 1}


def attributes(outcome: Outcome) -> dict[str, Any]:
    """What a trial says beside its parameters and values: JSON values by name."""
    job = outcome.job
    facts: dict[str, Any] = {
        "key": outcome.key, "kind": job.kind, "rung": job.rung, "level": job.level, "seed": job.seed,
        "parent": job.parent, "images": outcome.images, "seconds": outcome.seconds, "error": reason(outcome),
    }
    facts |= {name: value for name, value in outcome.metrics.items() if name != "accuracy"}
    facts |= {name: getattr(outcome.cost, name) for name in FIELDS.values()}
    return {name: value for name, value in facts.items() if value is not None}


def reason(outcome: Outcome) -> str | None:
    """The last line of a failure's error, shortened; None where it did not fail."""
    return None if outcome.error is None else (outcome.error.strip().splitlines() or ["?"])[-1][:_REASON]


def study_name(folder: Path, run: str) -> str:
    """``run`` and a few digits that tell it from runs of the same name in one database; kept in ``study.json``."""
    file = folder / "study.json"
    known = read_json(file) if file.is_file() else None
    name = known.get("name") if isinstance(known, Mapping) else None
    if not isinstance(name, str) or not name:
        name = f"{run}-{secrets.token_hex(4)}"
        write_json_atomic(file, {"name": name})
    return name
