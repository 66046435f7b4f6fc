"""Who is trained to the end."""

from __future__ import annotations

from niwaki.search.finalists import ranking
from niwaki.search.outcome import Job, Outcome
from niwaki.spaces import Candidate, Cost


def outcome(width: int, level: float, accuracy: float, rung: int = 0, macs: int | None = None) -> Outcome:
    job = Job(Candidate({"a": width}), "search", rung, 100, 0, level=level)
    return Outcome(job, Cost(macs or width, width, width), {"accuracy": accuracy}, "complete", None, 100, 1.0)


def widths(outcomes: list[Outcome]) -> list[int]:
    return [o.job.candidate.widths["a"] for o in outcomes]


def test_best_of_each_level_then_the_front_then_the_rest() -> None:
    found = [
        outcome(10, 1.0, 0.90),
        outcome(9, 1.0, 0.89),  # cheaper than the best of its level: on the front
        outcome(11, 1.0, 0.88),  # dominated
        outcome(5, 0.5, 0.80),
        outcome(3, 0.5, 0.70),  # on the front
        outcome(6, 0.5, 0.79),  # dominated by 5
    ]
    chosen = widths(ranking(found, (1.0, 0.5), ("macs",)))
    assert chosen[:2] == [10, 5]
    assert set(chosen[2:4]) == {9, 3}
    assert set(chosen[4:]) == {11, 6}


def test_promotion_counts_before_accuracy_and_failures_not_at_all() -> None:
    promoted = [outcome(10, 1.0, 0.95), outcome(9, 1.0, 0.90), outcome(9, 1.0, 0.91, rung=1)]
    failed = Outcome(Job(Candidate({"a": 4}), "search", 0, 1, 0, level=1.0), Cost(1, 1, 1), {}, "failed", "broke")
    chosen = ranking([*promoted, failed], (1.0,), ("macs",))
    assert widths(chosen) == [9, 10]
    assert chosen[0].accuracy == 0.91
    assert ranking([failed], (1.0,), ("macs",)) == []
