"""Proposers side by side: the figures recomputed from the runs, and what is there is not done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from niwaki.search.compare import Found, compare, found_by, summary, to_json
from niwaki.search.compress import load
from niwaki.search.controller import search
from niwaki.search.report.compared import figure, write_page
from niwaki.spaces import InputError
from tests.search.tiny import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[Found]:
    return compare(tiny(folder / "unused", "budget.size=null"), ["random", "tpe"], 1, folder)


def test_images_and_hypervolume_are_those_of_the_runs(found: list[Found], folder: Path) -> None:
    assert [(f.proposer, f.seed) for f in found] == [("random", 0), ("tpe", 0)]
    for one in found:
        result = load(folder / f"{one.proposer}-0")
        outcomes = [o for o in result.outcomes() if o.complete]
        assert one.images == sum(o.job.images for o in outcomes) == one.curve[-1][0]
        points = np.array([
            [(o.accuracy - 0.1) / 0.9, 1 - o.cost.macs / result.limits.values["macs"]]
            for o in outcomes if o.job.kind == "final"
        ])  # fmt: skip
        grid = np.linspace(0, 1, 401)  # the area under the stairs, by counting
        covered = [points[points[:, 1] >= y, 0].max(initial=0) for y in grid]
        assert one.hypervolume == pytest.approx(np.mean(covered), abs=0.01)
        volumes = [v for _, v in one.curve]
        assert volumes == sorted(volumes)
        assert volumes[-1] >= one.hypervolume


def test_what_is_there_is_read(found: list[Found], folder: Path) -> None:
    before = (folder / "random-0" / "front.json").stat().st_mtime_ns
    assert compare(tiny(folder / "unused", "budget.size=null"), ["random"], 1, folder) == found[:1]
    assert (folder / "random-0" / "front.json").stat().st_mtime_ns == before


def test_means_and_spread() -> None:
    searches = [Found("a", i, 100 + i, v, 0.9, ()) for i, v in enumerate((0.2, 0.4))] + [Found("b", 0, 7, 0.5, 0.8, ())]
    best, other = summary(searches)
    assert (best["proposer"], best["hypervolume_std"], other["images"]) == ("b", None, 100)
    assert other["hypervolume"] == pytest.approx(0.3)
    assert other["hypervolume_std"] == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert to_json(searches)["searches"][2]["proposer"] == "b"


def test_what_is_trained_before_the_trials_counts(tmp_path: Path, found: list[Found], folder: Path) -> None:
    config = tiny(tmp_path / "supernet-0", "search.proposer=supernet", "search.options={images: 100, middles: 3}")
    one = found_by(search(config), "supernet", 0)
    trials = [o for o in load(tmp_path / "supernet-0").outcomes() if o.job.kind in ("search", "final")]
    assert one.images == 500 + sum(o.job.images for o in trials)
    assert one.curve[0][0] == 500 + trials[0].job.images
    assert found_by(load(folder / "tpe-0"), "tpe", 0) == found[1]


def test_the_page_holds_every_search(found: list[Found], tmp_path: Path) -> None:
    drawn = figure(found)
    assert [list(t.x) for t in drawn.data] == [[x for x, _ in f.curve] for f in found]
    assert "Training images spent" in write_page(found, tmp_path / "compare.html").read_text()


@pytest.mark.parametrize(("names", "message"), [(["ramdom"], "did you mean 'random'"), (["tpe", "tpe"], "each once")])
def test_names_that_mean_nothing_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(tiny(tmp_path / "a"), names, 1, tmp_path)
