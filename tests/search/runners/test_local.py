import pytest

from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners import WAIT, RunnerSetup, Work
from niwaki.search.runners.local import Local
from niwaki.spaces import Candidate, Cost


def job(width: int) -> Job:
    return Job(Candidate({"a": width}), "search", 0, 10, 0)


def make() -> Work:
    return lambda job, pulse: Outcome(job, Cost(1, 1, 1), {"accuracy": job.candidate.widths["a"] / 10})


def test_every_job_is_done_and_told_in_order(tmp_path) -> None:
    jobs, told = [job(1), job(2), job(3)], []
    pending = iter(jobs)
    Local(RunnerSetup(make, tmp_path)).run(lambda: next(pending, None), told.append)
    assert [o.job for o in told] == jobs
    assert [o.accuracy for o in told] == [0.1, 0.2, 0.3]


def test_an_outcome_is_told_before_the_next_job_is_asked_for(tmp_path) -> None:
    told: list[Outcome] = []

    def ask() -> Job | None:
        return job(len(told) + 1) if len(told) < 3 else None

    Local(RunnerSetup(make, tmp_path)).run(ask, told.append)
    assert [o.job.candidate.widths["a"] for o in told] == [1, 2, 3]


def test_waiting_for_nothing_is_an_error_not_a_hang(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="none is running"):
        Local(RunnerSetup(make, tmp_path)).run(lambda: WAIT, lambda outcome: None)
