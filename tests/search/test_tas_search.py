"""TAS on real digits: the band is reached at two budgets, and a killed search goes on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from niwaki.distill import Data, DataSpec, Recipe, build, fit, load
from niwaki.search.controller import search
from niwaki.search.costing import Costing, Limits
from niwaki.search.outcome import Job, Outcome
from niwaki.search.proposers._setup import Lesson, ProposerSetup
from niwaki.search.proposers.tas import TAS
from niwaki.search.tas.search import Search
from niwaki.search.tas.settings import Settings
from niwaki.search.tas.task import Task, halves
from niwaki.search.threads import torch_threads
from niwaki.spaces import Space, derive
from tests.search.tiny import tiny

LEVELS = (0.7, 0.4)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small steps on a busy machine wait for their second thread much longer than they work."""
    with torch_threads(1):
        yield


@cache
def taught() -> tuple[nn.Module, Data, Space]:
    """A residual network of 16 layers that has learned a little of the digits."""
    torch.manual_seed(0)
    data, model = load(DataSpec("digits")), build("small_cnn", 10)
    recipe = Recipe(
        images=1500, batch_size=50, lr=0.1, augment="none", loss="cross_entropy", precision="fp32", layout="contiguous"
    )  # fmt: skip
    fit(model, data, recipe)
    return model, data, derive(model, data.example(2))


def prepared(folder: Path, levels: tuple[float, ...] = LEVELS, seed: int = 0) -> ProposerSetup:
    """Levels are shares of the teacher's own MACs."""
    model, data, space = taught()
    lesson = Lesson(model, data, {}, folder, torch.device("cpu"), recipe=Recipe(augment="none"))
    limits = Limits({"macs": float(space.cost(space.largest()).macs)}, {})
    return ProposerSetup(space, Costing(space), limits, levels, seed, lesson=lesson)


class Watched(Search):
    """Remembers the share of the MACs that the likeliest candidate takes, after every step."""

    def one_step(self) -> None:
        super().one_step()
        likeliest = self.argmax(self.logits)[None]
        share = float(self.setup.costing(likeliest)["macs"][0]) / self.largest["macs"]
        self.shares = [*getattr(self, "shares", []), share]


def missed(shares: list[float], target: float) -> float:
    """Mean distance to the band of the last quarter."""
    late = shares[-len(shares) // 4 :]
    return sum(max(s - target, target - 0.05 - s, 0.0) for s in late) / len(late)


@pytest.fixture(scope="module")
def searched(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    setup = prepared(tmp_path_factory.mktemp("steered"))
    search = Watched(setup, setup.limits, Settings(120, 16, every=40))
    search.run()
    return search


def test_the_likeliest_candidate_ends_in_the_band_of_each_budget(searched: Watched) -> None:
    space, full = searched.setup.space, searched.largest["macs"]
    halves_of_run = (searched.shares[:120], searched.shares[120:])
    for level, logits, shares in zip(LEVELS, searched.found, halves_of_run, strict=True):
        candidate = space.canonical(space.decode(searched.argmax(logits).tolist()))
        share = space.cost(candidate).macs / full
        print(f"level {level}: {share:.3f}, missed by {missed(shares, level):.4f} on average in the last quarter")
        assert level - 0.05 <= share <= level
        assert missed(shares, level) < 0.1  # a block is worth 0.12 here, and steps are large in so short a search


def test_widths_differ_between_layers_and_budgets(searched: Watched) -> None:
    space = searched.setup.space
    first, second = (space.decode(searched.argmax(logits).tolist()) for logits in searched.found)
    assert first != second
    for candidate in (first, second):
        shares = {round(w / space.largest().widths[name], 1) for name, w in candidate.widths.items()}
        assert len(shares) >= 3


def test_without_the_cost_loss_it_ends_elsewhere(searched: Watched, tmp_path: Path) -> None:
    setup = prepared(tmp_path, levels=(0.7,))
    search = Watched(setup, setup.limits, Settings(60, 16, weight=0.0, every=1000))
    search.run()
    steered, free = missed(searched.shares[:120], 0.7), missed(search.shares, 0.7)
    print(f"missed by {free:.3f} without the cost loss, {steered:.3f} with it")
    assert free > 0.1
    assert free > 2 * steered


def test_a_search_that_was_stopped_goes_on_as_it_was(tmp_path: Path) -> None:
    def logits_of(search: Search) -> list[dict[str, list[float]]]:
        return [{k: v.tolist() for k, v in logits.items()} for logits in search.found]

    settings = Settings(5, 8, every=2)
    whole = Search(setup := prepared(tmp_path / "a"), setup.limits, settings)
    whole.run()

    class Killed(Search):
        def one_step(self) -> None:
            if len(self.found) == 1 and self.step == 3:
                raise KeyboardInterrupt
            super().one_step()

    with pytest.raises(KeyboardInterrupt):
        Killed(setup := prepared(tmp_path / "b"), setup.limits, settings).run()
    resumed, reports = Search(setup, setup.limits, settings), list[tuple[int, int]]()
    resumed.run(lambda done, total: reports.append((done, total)))
    assert reports[0] == (9, 10)  # went on from step 2 of the second level
    assert logits_of(resumed) == logits_of(whole)
    assert resumed.task is not None
    assert whole.task is not None
    for key, value in whole.task.net.tensors.items():
        assert torch.equal(value, resumed.task.net.tensors[key]), key
    (path,) = (tmp_path / "b").glob("tas-*.json")
    summary = json.loads(path.read_text())
    assert [row["level"] for row in summary["levels"]] == list(LEVELS)
    assert summary["images"] == 2 * 8 * 10
    other = Search(setup, setup.limits, Settings(6, 8, every=2))
    assert other.path != resumed.path


def test_the_halves_share_nothing_and_hold_half_of_each_class() -> None:
    labels = torch.randint(5, (203,), generator=torch.Generator().manual_seed(0))
    first, second = halves(labels, 3)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(203))
    for label in range(5):
        assert 0 <= int((labels[first] == label).sum() - (labels[second] == label).sum()) <= 1
    assert not torch.equal(first, halves(labels, 4)[0])


def test_each_step_reads_its_own_half_and_epochs_show_every_image_once(tmp_path: Path) -> None:
    setup = prepared(tmp_path)
    assert setup.lesson is not None
    task = Task(setup.lesson, taught()[2], 50, 0)
    for half in ("weights", "architecture"):
        rows = set(task.rows[half].tolist())
        assert all(set(r.tolist()) <= rows for k in range(5) for _, r in task.pieces(half, k))  # type: ignore[arg-type]
    count = len(task.rows["weights"])
    read = [i for k in range(count // 50 + 1) for _, r in task.pieces("weights", k) for i in r.tolist()]
    assert sorted(read[:count]) == task.rows["weights"].tolist()
    assert not set(task.rows["weights"].tolist()) & set(task.rows["architecture"].tolist())


def test_proposals_begin_with_the_likeliest_of_each_level(tmp_path: Path) -> None:
    setup, space = prepared(tmp_path, seed=1), taught()[2]
    proposer = TAS(setup, images=2 * 8 * 30 * 2, batch_size=8)
    asked = [proposer.ask() for _ in range(6)]
    assert proposer._found is not None
    for level, logits, proposal in zip(LEVELS, proposer._found, asked, strict=False):
        search = Search(setup, setup.limits, proposer.settings)
        likeliest = space.decode(search.argmax(logits).tolist())
        assert proposal is not None
        assert proposal.level == level
        macs, full = space.cost(likeliest).macs, space.cost(space.largest()).macs
        if 0.95 * level <= macs / full <= level:  # nothing to fit
            assert proposal.candidate == space.canonical(likeliest)
        assert 0.9 * level <= space.cost(proposal.candidate).macs / full <= level
    again = TAS(setup, images=2 * 8 * 30 * 2, batch_size=8)
    for proposal in asked[:3]:
        assert proposal is not None
        job = Job(proposal.candidate, "search", 0, 10, 0, level=proposal.level)
        again.tell(Outcome(job, space.cost(proposal.candidate), {"accuracy": 0.5}))
    assert [again.ask() for _ in range(3)] == asked[3:]


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    setup = prepared(tmp_path)
    for options in ({"images": 1}, {"batch_size": 0}, {"weight": -1.0}, {"arch_lr": 0.0}):
        with pytest.raises(ValueError, match=r"at least|above"):
            TAS(setup, **options)


def test_a_whole_run_with_this_proposer(tmp_path: Path) -> None:
    """From a configuration to a front; the search leaves a checkpoint, from which a resumed run would go on."""
    options = ("search.proposer=tas", "search.options.images=256", "search.options.batch_size=8")
    result = search(tiny(tmp_path / "run", *options))
    assert len(result.front) >= 1
    (learned,) = [o for o in result.outcomes() if o.job.kind == "learn"]
    assert learned.images == 256
    (summary,) = (tmp_path / "run").glob("tas-*.json")
    assert [row["level"] for row in json.loads(summary.read_text())["levels"]] == [1.0, 0.5]
