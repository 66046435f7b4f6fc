"""Another budget from a finished run: nothing is trained again that the budget has no part in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from niwaki.search.controller import search
from niwaki.search.events import Event, PhaseStarted
from niwaki.search.files import read_tensors
from niwaki.search.result import Result
from niwaki.spaces import InputError
from tests.search.tiny import tiny

COMMON = ("search.proposer=supernet", "search.options={images: 1000, middles: 1}", "train.rungs=[0]",
          "search.finish=inherit", "search.trials=6", "budget.size=null")  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return search(tiny(tmp_path_factory.mktemp("base") / "a", *COMMON, "budget.macs=80%"))


def test_a_second_budget_trains_nothing(first: Result, tmp_path: Path) -> None:
    events = list[Event]()
    base = f"run.base={first.folder.path}"
    result = search(tiny(tmp_path / "b", *COMMON, base, "budget.macs=50%"), events.append)
    assert "learn" not in {e.phase for e in events if isinstance(e, PhaseStarted)}
    assert {o.images for o in result.outcomes()} == {0}
    assert all(result.limits.fits(m.cost) for m in result.front)
    for name in ("teacher", "supernet", "scores"):
        ours, theirs = (read_tensors(getattr(r.folder, name)) for r in (result, first))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert result.content["teacher"]["accuracy"] == first.content["teacher"]["accuracy"]
    fitting = {o.job.candidate.key for o in first.outcomes() if o.job.kind == "search" and result.limits.fits(o.cost)}
    assert fitting <= {o.job.candidate.key for o in result.outcomes()}, "what is known and fits is where it begins"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.base=nowhere", "no run folder"),
        ("space.ratios=[0.5, 1.0]", "searched the space"),
        ("data.limit=300", "another section 'data'"),
    ],
)
def test_what_does_not_fit_together_is_refused(first: Result, tmp_path: Path, override: str, message: str) -> None:
    base = f"run.base={first.folder.path}"
    with pytest.raises(InputError, match=message):
        search(tiny(tmp_path / "c", *COMMON, base, override))
