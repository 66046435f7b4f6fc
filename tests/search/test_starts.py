"""What a search begins with: which, how many, within their level, the same after a resume; and once through a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from niwaki.search.aim import retained
from niwaki.search.budget import Budget
from niwaki.search.compress import compress, resume
from niwaki.search.config import Config
from niwaki.search.context import RunFolder
from niwaki.search.costing import Costing
from niwaki.search.events import Event, PhaseStarted
from niwaki.search.files import read_json, read_tensors, write_json_atomic, write_tensors_atomic
from niwaki.search.knapsack import knapsack
from niwaki.search.magnitude import magnitude
from niwaki.search.sensitivity import Sensitivity, label
from niwaki.search.starts import starts, uniform, wanted, worth_of
from niwaki.spaces import InputError, SpaceOptions, derive
from tests.search.test_magnitude import Residual
from tests.search.tiny import tiny

SPACE = derive(Residual(), torch.randn(2, 6), SpaceOptions(ratios=tuple(i / 16 for i in range(4, 17))))
COSTING = Costing(SPACE)


def subject(config: Config, share: str = "70%") -> Any:
    limits = Budget(macs=share).resolve(COSTING.cost(SPACE.largest()))
    return SimpleNamespace(config=config, space=SPACE, costing=COSTING, aims=limits)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    rng = np.random.default_rng(0)
    found = RunFolder(tmp_path / "run")
    write_tensors_atomic(found.scores, {g.name: torch.rand(g.units) for g in SPACE.groups})
    harms = {label(v): (*np.sort(rng.random(len(v.choices) - 1))[::-1].tolist(), 0.0) for v in SPACE.variables}
    write_json_atomic(found.sensitivity, Sensitivity(harms, harms, 8, 8).to_json())
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["search.trials=4"], [("uniform", 1.0)]),
        (["search.trials=16"], [("uniform", 1.0), ("knapsack", 1.0)]),
        (["search.trials=200"], [("uniform", 1.0), ("knapsack", 1.0), ("magnitude", 0.0), ("uniform", 0.0),
                                 ("magnitude", 1.0), ("uniform", 0.1), ("uniform", 0.3)]),
        (["search.trials=200", "search.starts=[magnitude]"], [("magnitude", 0.0), ("magnitude", 1.0)]),
        (["search.trials=200", "search.starts=[]"], []),
    ],
)  # fmt: skip
def test_kinds_take_turns_within_a_quarter_of_the_trials(
    tmp_path: Path, changes: list[str], expected: list[tuple[str, float]]
) -> None:
    assert list(wanted(tiny(tmp_path, *changes))) == expected


def test_an_unknown_kind_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"search\.starts.*'knapsak'.*did you mean 'knapsack'"):
        tiny(tmp_path, "search.starts=[uniform, knapsak]")


def test_all_kinds_fit_their_level_once_each_and_the_same_again(folder: RunFolder) -> None:
    run = subject(tiny(folder.path, "search.trials=200", "search.levels=[1.0, 0.6]"))
    found = starts(run, folder)
    assert found == starts(run, folder)
    assert list(found) == [1.0, 0.6]
    for level, candidates in found.items():
        limits = run.aims.times(level)
        assert all(SPACE.contains(c) and limits.fits(COSTING.cost(c)) for c in candidates)
        assert len(set(candidates)) == len(candidates) >= 4
        harms = Sensitivity.from_json(read_json(folder.sensitivity))
        assert candidates[0] == uniform(run, limits)
        assert candidates[1] == knapsack(COSTING, limits, harms.worth(SPACE))
        assert magnitude(SPACE, read_tensors(folder.scores), COSTING, limits) in candidates


def test_worth_is_the_harm_where_it_was_judged_else_the_scores(folder: RunFolder) -> None:
    run = subject(tiny(folder.path))
    rows = np.random.default_rng(0).integers(0, [len(v.choices) for v in SPACE.variables], (9, len(SPACE.variables)))
    harms = Sensitivity.from_json(read_json(folder.sensitivity))
    assert (worth_of(run, folder)(rows) == harms.worth(SPACE)(rows)).all()
    folder.sensitivity.unlink()
    assert (worth_of(run, folder)(rows) == retained(SPACE, read_tensors(folder.scores))(rows)).all()


def test_only_what_is_wanted_is_read(folder: RunFolder) -> None:
    folder.sensitivity.unlink()
    run = subject(tiny(folder.path, "search.trials=200", "search.starts=[uniform, magnitude]"))
    assert all(starts(run, folder).values())


def test_a_loose_budget_begins_with_the_largest_and_a_tight_one_with_the_smallest(folder: RunFolder) -> None:
    config = tiny(folder.path, "search.trials=200", "search.levels=[1.0]")
    assert SPACE.largest() in starts(subject(config, "100%"), folder)[1.0]
    tight = subject(config.model_copy(update={"search": config.search.model_copy(update={"starts": ("uniform",)})}))
    least = COSTING.cost(SPACE.smallest()).macs
    tight.aims = replace(tight.aims, values={"macs": float(least)})
    assert starts(tight, folder) == {1.0: (SPACE.smallest(),)}
    tight.aims = replace(tight.aims, values={"macs": least - 1.0})
    assert starts(tight, folder) == {1.0: ()}
    none = tiny(folder.path, "search.starts=[]")
    assert starts(subject(none, "100%"), folder) == {1.0: (), 0.5: ()}


def test_uniform_widths_are_the_largest_that_fit() -> None:
    limits = Budget(macs="50%").resolve(COSTING.cost(SPACE.largest()))
    for power in (0.0, 0.3, 1.0):
        fitting = [r / 100 for r in range(1, 101)
                   if limits.fits(COSTING.cost(SPACE.uniform(r / 100, (r / 100) ** power)))]
        assert uniform(SimpleNamespace(space=SPACE, costing=COSTING), limits, power) == SPACE.uniform(  # type: ignore[arg-type]
            max(fitting), max(fitting) ** power
        )  # fmt: skip


def test_a_run_judges_single_cuts_once_and_begins_with_its_starts(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(),
            nn.Linear(30, 10),
        )  # fmt: skip
    state = {k: v.clone() for k, v in model.state_dict().items()}
    folder, seen = RunFolder(tmp_path / "run"), list[Event]()
    settings = {
        "run.folder": str(folder.path), "run.runner": "local", "train.rungs": [0], "train.final_images": 128,
        "search.members": 1, "search.levels": [1.0], "search.starts": ["knapsack"], "export.formats": [],
        "train.loss": "cross_entropy",
    }  # fmt: skip
    result = compress(model, "digits", {"macs": "55%"}, 4, settings, seen.append)
    assert [e.phase for e in seen if isinstance(e, PhaseStarted)].count("sensitivity") == 1
    kept = read_tensors(folder.teacher)
    assert all(torch.equal(kept[k], v) for k, v in state.items()), "judging cuts left the teacher alone"

    before = folder.sensitivity.read_bytes()
    harms = Sensitivity.from_json(read_json(folder.sensitivity))
    assert harms.images == 64, "512 at most, fewer where final trainings are as short as here"
    assert max(v[0] for v in harms.answers.values()) > 0
    space = derive(model, torch.zeros(2, 1, 8, 8))
    limits = Budget(macs="55%").resolve(space.cost(space.largest()))
    expected = knapsack(Costing(space), limits, harms.worth(space))
    assert expected is not None
    assert space.cost(expected).macs > 0.95 * limits.values["macs"], "else it would be filled up"
    assert next(o.job.candidate for o in result.outcomes() if o.job.kind == "search") == expected

    folder.front.unlink()
    seen.clear()
    resume(folder.path, model, listener=seen.append)
    assert "sensitivity" not in [e.phase for e in seen if isinstance(e, PhaseStarted)]
    assert folder.sensitivity.read_bytes() == before
