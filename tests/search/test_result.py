import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import niwaki
from niwaki.distill import from_datasets
from niwaki.search.context import InHand
from niwaki.search.controller import resume, search
from niwaki.search.costing import Limits
from niwaki.search.front import COLUMNS, Entry, front_of, join
from niwaki.search.outcome import Job, Outcome
from niwaki.search.result import Result
from niwaki.spaces import Candidate, Cost, InputError, count
from tests.search.tiny import SETTINGS, tiny


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return search(tiny(tmp_path_factory.mktemp("result") / "run", "export.members=0"))


def test_a_member_loads_what_was_trained(result: Result) -> None:
    for member in result.front:
        model = member.load()
        assert not model.training
        assert count(model, result.example, member.candidate.sparsity) == member.cost
        assert model is not member.load()


def test_load_gives_the_same_result(result: Result) -> None:
    again = niwaki.load(result.folder.path)
    assert [m.entry for m in again.front] == [m.entry for m in result.front]


def test_best_is_the_most_accurate_that_fits(result: Result) -> None:
    assert result.best(macs="60%").entry == result.front[0].entry
    least = min(result.front, key=lambda m: m.cost.macs)
    assert result.best(macs=least.cost.macs).cost.macs <= least.cost.macs


def test_best_of_nothing_tells_the_nearest(result: Result) -> None:
    with pytest.raises(InputError, match=r"no model of the front fits macs .* the nearest, m"):
        result.best(macs="1%")
    with pytest.raises(InputError, match="measured none"):
        result.best(latency=1.0)
    with pytest.raises(InputError, match="size"):
        result.best(size="small")


def test_export_on_request(result: Result, tmp_path: Path) -> None:
    card = result.front[0].export(tmp_path / "out", ["safetensors"])
    assert card["formats"]["safetensors"]["error"] == 0.0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["card.json", "model.safetensors"]
    with pytest.raises(InputError, match="exists"):
        result.front[0].export(tmp_path / "out", ["safetensors"])


def test_the_table_has_every_member(result: Result) -> None:
    with (result.folder.path / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [r["name"] for r in rows] == [m.name for m in result.front]
    assert [int(r["macs"]) for r in rows] == [m.cost.macs for m in result.front]


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        niwaki.load(tmp_path)


def an_outcome(width: int, seed: int, accuracy: float, macs: int) -> Outcome:
    return Outcome(Job(Candidate({"a": width}), "final", 1, 5, seed), Cost(macs, 1, 1, 2.0), {"accuracy": accuracy})


def test_repeats_are_joined_and_the_front_is_their_mean() -> None:
    outcomes = [an_outcome(1, 0, 0.8, 50), an_outcome(1, 1, 0.9, 50), an_outcome(2, 0, 0.84, 60),
                an_outcome(3, 0, 0.99, 200), an_outcome(4, 0, 0.5, 10)]
    entries = join(outcomes, {outcomes[0].job.candidate.key: 1.0}, Cost(1, 1, 1, 4.0))
    first = entries[0]
    assert first.trials == (outcomes[1].key, outcomes[0].key), "the better one counts"
    assert first.metrics["accuracy"] == 0.9
    assert first.metrics["accuracy_mean"] == pytest.approx(0.85)
    assert first.metrics["accuracy_std"] == pytest.approx(0.0707, abs=1e-4)
    assert (first.cost.latency_ms, first.predicted_ms, first.speed_up) == (1.0, 2.0, 4.0)
    front = front_of(entries, Limits({"macs": 100}, {"macs": ""}))
    assert [(e.name, e.cost.macs) for e in front] == [("m1", 50), ("m2", 10)], "60 is dominated, 200 is over the budget"
    assert all(Entry.from_json(e.to_json()) == e for e in entries)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 12, 3), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(hidden.mean((2, 3)))


def test_compress_takes_a_model_and_datasets_in_hand(tmp_path: Path) -> None:
    torch.manual_seed(0)
    train, test = (TensorDataset(torch.rand(n, 1, 8, 8), torch.arange(n) % 4) for n in (96, 32))
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settings = {k: SETTINGS[k] for k in ("train", "run", "export")}
    settings |= {"run.folder": str(tmp_path / "run"), "search.levels": [1.0], "search.members": 1}
    result = niwaki.compress(model, (train, test), niwaki.Budget(macs="50%"), trials=2, settings=settings)
    assert isinstance(result.front[0].load(), Net)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(InputError, match="pass it"):
        niwaki.load(tmp_path / "run")
    assert isinstance(niwaki.load(tmp_path / "run", model).front[0].load(), Net)
    with pytest.raises(InputError, match="in hand"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", in_hand=InHand(model, from_datasets(train, test))).content == result.content


@pytest.mark.parametrize(("data", "budget", "message"), [
    (3, {"macs": "50%"}, "a \\(train, test\\) pair"), ("digits", {"mac": "50%"}, "budget: expected latency"),
    ("digits", {"macs": "0%"}, "macs"),
])
def test_compress_refuses_what_it_cannot_mean(
    tmp_path: Path, data: Any, budget: dict[str, str | float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        niwaki.compress("small_cnn", data, budget, settings={"run.folder": str(tmp_path / "run")})
