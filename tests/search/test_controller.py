"""The whole job on digits: in process, through Ray, killed and resumed, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from niwaki.distill import build
from niwaki.search.config import to_yaml
from niwaki.search.controller import resume, search
from niwaki.search.events import (
    BudgetsResolved,
    Event,
    PhaseFinished,
    PhaseStarted,
    RunFinished,
    RunStarted,
    TrialFinished,
)
from niwaki.search.pareto import non_dominated
from niwaki.search.phases import RunError
from niwaki.search.result import Result
from niwaki.search.trial import TrialWork
from niwaki.spaces import InputError
from tests.search.tiny import tiny

LABELS = "train.loss=cross_entropy"
"""The teacher answers in the precision that is fastest at the time, so runs with its answers differ a little."""


def check(result: Result) -> None:
    """What must hold for every finished run."""
    limits = result.limits
    assert result.front
    for member in result.front:
        assert limits.fits(member.cost)
        assert {"accuracy", "accuracy_mean", "test_accuracy", "test_mean"} <= member.metrics.keys()
    points = np.array([[-m.metrics["accuracy_mean"], m.cost.macs, m.cost.bytes] for m in result.front])
    assert non_dominated(points).all()
    for outcome in result.outcomes():
        assert outcome.complete, outcome.error
        assert limits.fits(outcome.cost) or outcome.job.kind == "uniform"
    present = {p.name for p in result.folder.path.iterdir()}
    assert present >= {"config.yaml", "env.json", "space.json", "teacher.safetensors", "scores.safetensors", "trials",
                       "journal.jsonl", "front.json", "front.csv", "report.html", "export"}
    assert not present & {".shared", ".runner"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    config = tiny(tmp_path_factory.mktemp("run") / "a", "search.baselines=[uniform, random]", "search.repeats=2",
                  "search.finish=fresh")
    return search(config, events.append), events


def test_a_run_from_nothing_to_an_exported_front(finished: tuple[Result, list[Event]]) -> None:
    result, _ = finished
    check(result)
    kinds = [o.job.kind for o in result.outcomes()]
    assert kinds.count("search") == 4 + 2, "four at the first rung, the best of each level at the second"
    assert kinds.count("final") == 2 * 2
    assert {m.entry.kind for m in result.baselines} == {"uniform", "random"}
    assert all(len(m.entry.trials) == 2 and "test_std" in m.metrics for m in (*result.front, *result.baselines))
    card = json.loads((result.folder.path / "export" / "m1" / "card.json").read_text())
    assert card["cost"]["macs"] == result.front[0].cost.macs


def test_finals_see_the_images_they_were_promised(finished: tuple[Result, list[Event]]) -> None:
    result, _ = finished
    assert {o.images for o in result.outcomes() if o.job.kind != "search"} == {1024}
    assert [o.images for o in result.outcomes() if o.job.kind == "search"] == [256] * 4 + [512] * 2


def test_events_tell_the_run_in_order(finished: tuple[Result, list[Event]]) -> None:
    result, events = finished
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].members == len(result.front)
    started = [e.phase for e in events if isinstance(e, PhaseStarted)]
    assert started == [e.phase for e in events if isinstance(e, PhaseFinished)]
    assert started == ["data", "space", "teacher", "answers", "search", "search", "finals", "test", "export", "report"]
    assert sum(isinstance(e, TrialFinished) for e in events) == len(result.outcomes())
    budgets = next(e for e in events if isinstance(e, BudgetsResolved))
    assert budgets.limits["macs"] == pytest.approx(0.6 * budgets.teacher.macs)


def test_the_same_configuration_gives_the_same_run(tmp_path: Path) -> None:
    runs = [tiny(tmp_path / name, "search.trials=2", LABELS) for name in ("a", "b")]
    fronts = [search(config).content["members"] for config in runs]
    assert fronts[0] == fronts[1]


def test_resuming_a_finished_run_changes_nothing(finished: tuple[Result, list[Event]]) -> None:
    result, _ = finished
    before = (result.folder.path / "journal.jsonl").read_bytes()
    again = resume(result.folder.path)
    assert (result.folder.path / "journal.jsonl").read_bytes() == before
    assert again.content == result.content


def test_a_run_stopped_between_trials_goes_on_to_the_same_end(tmp_path: Path) -> None:
    straight = search(tiny(tmp_path / "a", LABELS))

    class Stop(Exception):
        pass

    def stop_after_three(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.done == 3:
            raise Stop

    with pytest.raises(Stop):
        search(tiny(tmp_path / "b", LABELS), stop_after_three)
    stopped = Result(tmp_path / "b")
    kept = [o.key for o in stopped.outcomes()]
    assert len(kept) == 3
    with pytest.raises(InputError, match="no front yet"):
        _ = stopped.front
    continued = resume(tmp_path / "b")
    check(continued)
    assert [o.key for o in continued.outcomes()][:3] == kept
    assert straight.content["members"] == continued.content["members"]


DRIVER = """
import sys
from pathlib import Path
from niwaki.search.config import load_config
from niwaki.search.controller import search
if __name__ == "__main__":
    search(load_config(sys.argv[1]))
"""


def test_through_ray_killed_in_mid_search_and_resumed(tmp_path: Path) -> None:
    """kill -9 of the driver: finished trials are kept, the search goes on and ends with the number asked for."""
    folder, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(to_yaml(tiny(folder, "run.runner=tune", "run.workers=2", "search.trials=6")))
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, "driver.py", str(config)], cwd=tmp_path, start_new_session=True)
    journal = folder / "journal.jsonl"
    while driver.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.1)
    assert driver.poll() is None, "the driver ended before it could be killed"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = [o.key for o in Result(folder).outcomes()]
    result = resume(folder)
    check(result)
    keys = [o.key for o in result.outcomes()]
    assert keys[: len(before)] == before
    assert len(keys) == len(set(keys))
    assert sum(o.job.kind == "search" and o.job.rung == 0 for o in result.outcomes()) == 6


def npz(path: Path, **changes: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.integers(0, 255, (60, 8, 8), dtype=np.uint8), "y_train": np.arange(60) % 10,
              "x_test": rng.integers(0, 255, (20, 8, 8), dtype=np.uint8), "y_test": np.arange(20) % 10}
    np.savez(path, **(arrays | changes))
    return path


BAD = {
    "unreachable": (["budget.macs=0.1%"], ["macs", "below the smallest candidate"]),
    "missing weights": (["teacher.weights=nowhere.safetensors"], ["teacher.weights", "nowhere.safetensors"]),
    "missing data": (["data.source=npz", "data.path=nowhere.npz"], ["nowhere.npz"]),
    "unknown source": (["data.source=digit"], ["digit", "digits"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    overrides, parts = BAD[case]
    events: list[Event] = []
    with pytest.raises(InputError) as error:
        search(tiny(tmp_path / "run", *overrides), events.append)
    for part in parts:
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()
    assert not any(isinstance(e, PhaseStarted) and e.phase == "teacher" for e in events), "nothing was trained"


@pytest.mark.parametrize(("changes", "message"), [
    ({"x_train": np.full((60, 8, 8), np.nan, dtype=np.float32), "x_test": np.zeros((20, 8, 8), np.float32)}, "NaN"),
    ({"y_train": np.zeros(60, dtype=np.int64), "y_test": np.zeros(20, dtype=np.int64)}, "one class"),
    ({"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, np.int64)}, "empty"),
])
def test_damaged_data_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    path = npz(tmp_path / "data.npz", **changes)
    with pytest.raises(InputError, match=message):
        search(tiny(tmp_path / "run", "data.source=npz", f"data.path={path}", "data.limit=null"))
    assert not (tmp_path / "run").exists()


def test_weights_for_other_classes_are_refused(tmp_path: Path) -> None:
    save_file(build("small_cnn", 7).state_dict(), tmp_path / "seven.safetensors")
    with pytest.raises(InputError, match="7 classes, 10"):
        search(tiny(tmp_path / "run", f"teacher.weights={tmp_path / 'seven.safetensors'}"))


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="Nothing in it was changed"):
        search(tiny(tmp_path / "run"))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_only_one_driver_at_a_time(finished: tuple[Result, list[Event]]) -> None:
    result, _ = finished
    with result.folder.store.lock(), pytest.raises(InputError, match="driving this run"):
        resume(result.folder.path)


def test_a_search_whose_trials_all_fail_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: TrialWork) -> object:
        from niwaki.search.outcome import Job, Outcome
        from niwaki.spaces import Cost

        return lambda job, pulse: Outcome(job, Cost(1, 1, 1), {}, "failed", f"no luck with {Job.__name__}")

    monkeypatch.setattr(TrialWork, "__call__", broken)
    with pytest.raises(RunError, match="no luck with Job"):
        search(tiny(tmp_path / "run"))
    assert torch.get_num_threads() >= 1
