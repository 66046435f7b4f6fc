import csv
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import niwaki
from niwaki.distill import from_datasets
from niwaki.search.context import InHand
from niwaki.search.controller import resume, search
from niwaki.search.costing import Limits
from niwaki.search.export import exporter
from niwaki.search.files import write_json_atomic
from niwaki.search.front import COLUMNS, Entry, front_of, join
from niwaki.search.outcome import Job, Outcome
from niwaki.search.result import Member, Result
from niwaki.search.staircase import KINDS, Staircase
from niwaki.spaces import Candidate, Cost, InputError, count
from niwaki.spaces.pad import pad
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


def padable(result: Result) -> Member:
    """A member with a width that is no multiple of 5 and not whole."""
    units = {g.name: g.units for g in result.models.space.groups}
    return next(m for m in result.front if any(w % 5 and w < units[n] for n, w in m.candidate.widths.items()))


@pytest.mark.parametrize("formats", [["safetensors", "onnx"], ["torch_export"]])
def test_a_padded_export_answers_as_the_model_that_was_trained(
    result: Result, tmp_path: Path, formats: list[str]
) -> None:
    member = padable(result)
    card = member.export(tmp_path / "out", formats, pad=5)
    units = {g.name: g.units for g in result.models.space.groups}
    assert card["padded"]
    for group, (kept, wide) in card["padded"].items():
        assert kept == member.candidate.widths[group] < wide
        assert wide in (units[group], -(-kept // 5) * 5)
    assert set(card["padded"]) == {n for n, w in member.candidate.widths.items() if w % 5 and w < units[n]}
    with torch.no_grad():
        expected = member.load()(result.example)
    if "onnx" in formats:
        session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
        got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: result.example.numpy()})[0])
        state = exporter("safetensors").read(tmp_path / "out" / "model.safetensors")
        assert sum(t.numel() for t in state.values()) > sum(t.numel() for t in member.load().state_dict().values())
        stored = load_file(tmp_path / "out" / "model.safetensors")
        assert sum(t.numel() * t.element_size() for t in stored.values()) == card["padded_cost"]["bytes"]
    else:
        got = torch.export.load(tmp_path / "out" / "model.pt2").module()(result.example)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert card["cost"] == member.cost.to_json()
    assert card["kept"] == dict(member.candidate.widths)
    models, kept = result.models, member.kept()
    widths = {n: w for n, (_, w) in card["padded"].items()}
    again = pad(models.teacher, member.load(), models.space, member.candidate, kept, widths)
    counted = count(again, result.example, member.candidate.sparsity)
    assert all(card["padded_cost"][key] == getattr(counted, key) for key in ("macs", "params", "bytes"))


def test_padding_to_widths_that_are_there_changes_nothing(result: Result, tmp_path: Path) -> None:
    card = result.front[0].export(tmp_path / "out", ["safetensors"], pad=1)
    assert card["padded"] == {}
    assert "padded_cost" not in card


@pytest.mark.parametrize("step", [0, "16x", "-1", True, ""])
def test_a_pad_that_means_nothing_is_refused(result: Result, tmp_path: Path, step: int | str) -> None:
    with pytest.raises(InputError, match="pad: expected a whole number of at least 1"):
        result.front[0].export(tmp_path / "out", ["safetensors"], pad=step)
    assert not (tmp_path / "out").exists()


def test_auto_needs_a_target_or_a_staircase(result: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no latency.target; give a number"):
        Result(result.folder.path).front[0].export(tmp_path / "out", ["safetensors"], pad="auto")
    steps = dict.fromkeys(KINDS, 5)
    write_json_atomic(result.folder.staircase, Staircase(steps, steps, {}, {}, {}).to_json())
    try:
        again = Result(result.folder.path)
        card = padable(again).export(tmp_path / "out", ["safetensors"], pad="auto")
    finally:
        result.folder.staircase.unlink()
    assert card["padded"] == padable(result).export(tmp_path / "five", ["safetensors"], pad=5)["padded"]


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
