"""Promotion: who goes on, per level, and who never does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.search.outcome import Job, Outcome
from niwaki.search.promotion import Ladder, certain, ordered, promote
from niwaki.spaces.types import Candidate, Cost

LADDER = Ladder(images=(100, 300), eta=3, costs=("macs",))


def outcome(
    width: int, accuracy: float, macs: int, *, level: float = 1.0, rung: int = 0, kind: str = "search"
) -> Outcome:
    job = Job(Candidate({"g": width}), kind, rung, 100, 5, level=level)  # type: ignore[arg-type]
    return Outcome(job, Cost(macs, 1, 1), {"accuracy": accuracy}, images=100)


def test_a_job_continues_its_parent() -> None:
    best = outcome(3, 0.9, 50)
    jobs = promote([outcome(1, 0.2, 50), outcome(2, 0.4, 50), best], 0, LADDER)
    assert jobs == [Job(Candidate({"g": 3}), "search", 1, 300, 5, parent=best.key, level=1.0)]


def test_one_in_eta_of_each_level_and_at_least_one() -> None:
    large = [outcome(i, i / 10, 50) for i in range(1, 8)]
    small = [outcome(i, i / 100, 20, level=0.5) for i in range(11, 13)]
    jobs = promote(small + large, 0, LADDER)
    assert [(j.level, j.candidate.widths["g"]) for j in jobs] == [(1.0, 7), (1.0, 6), (0.5, 12)]


def test_cheap_and_accurate_both_rank_first_and_accuracy_breaks_the_tie() -> None:
    cheap, accurate, beaten = outcome(1, 0.5, 10), outcome(2, 0.9, 90), outcome(3, 0.8, 95)
    assert ordered([beaten, cheap, accurate], ["macs"]) == [accurate, cheap, beaten]


def test_failed_other_rungs_and_baselines_are_passed_over() -> None:
    failed = Outcome(Job(Candidate({"g": 9}), "search", 0, 1, 5), Cost(1, 1, 1), status="failed", error="x")
    others = [outcome(1, 0.9, 1, rung=1), outcome(2, 0.9, 1, kind="uniform")]
    assert promote([failed, *others], 0, LADDER) == []
    assert promote([outcome(1, 0.9, 1, rung=1)], 1, LADDER) == []
    assert ordered([failed], ["macs"]) == []


def test_asking_again_gives_the_same_keys_in_any_order_of_outcomes() -> None:
    outcomes = [outcome(i, 0.5, 50) for i in range(1, 10)]
    first, second = promote(outcomes, 0, LADDER), promote(outcomes[::-1], 0, LADDER)
    assert first == second
    assert len(first) == 3


@pytest.mark.parametrize(("images", "eta"), [((), 3), ((-1, 1), 3), ((0, 0), 3), ((1,), 0.5)])
def test_wrong_ladders_are_refused(images: tuple[int, ...], eta: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Ladder(images, eta)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_certain_is_promoted_however_the_running_jobs_end(data: st.DataObject) -> None:
    """Any accuracies (ties included) and any failures; all of them ending ahead leaves exactly what is certain."""
    ladder = Ladder((10, 10), eta=data.draw(st.sampled_from([1.0, 1.5, 2.0, 3.0, 7.0])), costs=())
    grid = st.one_of(st.none(), st.sampled_from([0.1, 0.3, 0.5, 0.7]))

    def end(width: int, accuracy: float | None) -> Outcome:
        job = Job(Candidate({"a": width}), "search", 0, 10, 0, level=(1.0, 0.5)[width % 2])
        if accuracy is None:
            return Outcome(job, Cost(1, 1, 1), status="failed", error="boom")
        return Outcome(job, Cost(1, 1, 1), {"accuracy": accuracy})

    values = data.draw(st.lists(grid, max_size=14))
    done = [end(i + 1, value) for i, value in enumerate(values)]
    running = [end(i + 101, None).job for i in range(data.draw(st.integers(0, 6)))]
    found = {job.key for job in certain(done, running, 0, ladder)}
    last = [end(job.candidate.widths["a"], data.draw(grid)) for job in running]
    assert found <= {job.key for job in promote([*done, *last], 0, ladder)}
    ahead = [end(job.candidate.widths["a"], 0.9) for job in running]
    safe = {job.key for job in promote([*done, *ahead], 0, ladder)} - {_next(o) for o in ahead}
    best = [o.accuracy for o in done if o.complete]
    if len(best) == len(set(best)):  # without ties it gives up nothing
        assert found == safe


def _next(outcome: Outcome) -> str:
    return outcome.key.replace("search-0", "search-1")


def test_nothing_is_certain_where_costs_count_or_no_rung_follows() -> None:
    done = [Outcome(Job(Candidate({"a": i}), "search", 0, 10, 0), Cost(i, 1, 1), {"accuracy": i / 10})
            for i in range(1, 9)]  # fmt: skip
    assert len(certain(done, [], 0, Ladder((10, 10), 2.0, ()))) == 4
    assert certain(done, [], 0, Ladder((10, 10), 2.0, ("macs",))) == []
    assert certain(done, [], 0, Ladder((10,), 2.0, ())) == []
