"""Outcomes: JSON both ways, checked reading, and no NaN that gets past."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwaki.search.outcome import KEY, Job, Outcome, cost_from_json
from niwaki.spaces.types import Candidate, Cost

JOB = Job(Candidate({"a": 4}, frozenset({"b.1"}), {"a": "2:4"}), "search", 1, 500, 3, "search-0-abc-3", 0.8)
COST = Cost(100, 20, 80, 1.25)
DONE = Outcome(JOB, COST, {"accuracy": 0.5, "loss": 1.5}, images=900, seconds=2.5)


def test_json_both_ways() -> None:
    assert Outcome.from_json(json.loads(json.dumps(DONE.to_json(), allow_nan=False))) == DONE
    failed = Outcome(JOB, Cost(1, 2, 3), status="failed", error="Traceback: boom")
    assert Outcome.from_json(json.loads(json.dumps(failed.to_json()))) == failed


@given(
    kind=st.sampled_from(["search", "uniform", "random", "final"]), rung=st.integers(0, 9),
    seed=st.integers(0, 2**63), width=st.integers(1, 9999), level=st.floats(0.01, 2),
)
def test_job_round_trip_and_key_is_a_safe_name(kind: Any, rung: int, seed: int, width: int, level: float) -> None:
    job = Job(Candidate({"g": width}), kind, rung, 10, seed, None, level)
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert KEY.fullmatch(job.key)


def test_key_tells_apart_what_is_trained_anew() -> None:
    base = Job(Candidate({"a": 4}), "search", 0, 10, 1)
    others = [
        Job(Candidate({"a": 5}), "search", 0, 10, 1), Job(Candidate({"a": 4}), "final", 0, 10, 1),
        Job(Candidate({"a": 4}), "search", 1, 10, 1), Job(Candidate({"a": 4}), "search", 0, 10, 2),
    ]
    assert len({base.key, *(o.key for o in others)}) == 5
    assert base.key == Job(Candidate({"a": 4}), "search", 0, 99, 1, "search-0-x-1", 0.5).key


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_not_finite_fail_with_a_reason(value: float) -> None:
    outcome = Outcome(JOB, COST, {"accuracy": value, "loss": 1.0})
    assert not outcome.complete
    assert "accuracy" in (outcome.error or "")
    assert outcome.metrics == {"loss": 1.0}
    json.dumps(outcome.to_json(), allow_nan=False)


@pytest.mark.parametrize("metrics", [{}, {"loss": 1.0}, {"accuracy": 91.7}, {"accuracy": -0.1}])
def test_complete_needs_an_accuracy_between_0_and_1(metrics: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="accuracy"):
        Outcome(JOB, COST, metrics)


def test_failed_always_has_a_reason() -> None:
    assert Outcome(JOB, COST, status="failed").error


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("job", "rung"), "0", "rung"), (("job", "rung"), True, "rung"), (("job", "kind"), "other", "kind"),
        (("job", "seed"), -1, "seed"), (("job", "level"), 0, "level"), (("job", "parent"), "../up", "parent"),
        (("job", "key"), "search-0-other-3", "key"), (("job", "candidate"), {"widths": {"a": 0}}, "widths"),
        (("cost", "bytes"), None, "bytes"), (("cost", "latency_ms"), "fast", "latency_ms"),
        (("metrics", "accuracy"), "0.5", "accuracy"), (("status",), "done", "status"), (("images",), 1.5, "images"),
        (("seconds",), None, "seconds"), (("error",), 5, "error"), (("job",), [], "job"),
    ],
)
def test_wrong_json_names_the_key(path: tuple[str, ...], value: Any, named: str) -> None:
    data = copy.deepcopy(DONE.to_json())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=named):
        Outcome.from_json(data)


@pytest.mark.parametrize("key", ["job", "cost", "metrics", "status", "images", "seconds"])
def test_missing_json_names_the_key(key: str) -> None:
    data = DONE.to_json()
    del data[key]
    with pytest.raises(ValueError, match=key):
        Outcome.from_json(data)


def test_cost_from_json() -> None:
    assert cost_from_json(COST.to_json()) == COST
    with pytest.raises(ValueError, match="expected an object"):
        cost_from_json([1])


def test_outcomes_hash_by_job() -> None:
    assert len({DONE, DONE.with_cost(Cost(1, 1, 1))}) == 2
    assert hash(DONE) == hash(DONE.with_cost(Cost(1, 1, 1)))
