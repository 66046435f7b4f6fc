"""One Ray session for everything: starting one takes seconds."""

import functools
import os
import time
from pathlib import Path

import pytest

from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners import WAIT, Pause, RunnerSetup, Work
from niwaki.search.runners.tune import Tune
from niwaki.spaces import Candidate, Cost


def job(width: int, rung: int = 0) -> Job:
    return Job(Candidate({"a": width}), "search", rung, 10, 0)


def make(folder: Path) -> Work:
    (folder / f"made-{os.getpid()}").touch()

    def work(job: Job) -> Outcome:
        width = job.candidate.widths["a"]
        if width == 3:  # dies every time
            os._exit(9)
        if width == 5 and not (folder / "died").exists():  # dies once
            (folder / "died").touch()
            os._exit(9)
        if job.rung == 1:
            time.sleep(0.3)  # so that both workers get one of the two
        return Outcome(job, Cost(1, 1, 1), {"accuracy": 0.5, "pid": os.getpid(), "rung": job.rung})

    return work


class Source:
    """Eight jobs, then a barrier, then two more: what the driver's stages look like to a runner."""

    def __init__(self) -> None:
        self.first = [job(i) for i in range(1, 9)]
        self.second = [job(i, rung=1) for i in (1, 2)]
        self.live: set[str] = set()
        self.told: list[Outcome] = []

    def ask(self) -> Job | Pause | None:
        queue = self.first or (None if self.live and len(self.told) < 8 else self.second)
        if queue is None:
            return WAIT
        if not queue:
            return None if not self.live else WAIT
        self.live.add(queue[0].key)
        return queue.pop(0)

    def tell(self, outcome: Outcome) -> None:
        self.live.remove(outcome.key)
        self.told.append(outcome)


def test_jobs_crashes_and_barriers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, scratch = Source(), tmp_path / "scratch"
    Tune(RunnerSetup(functools.partial(make, tmp_path), scratch, workers=2)).run(source.ask, source.tell)
    told = {o.key: o for o in source.told}
    assert len(source.told) == len(told) == 10
    failed = [o for o in source.told if not o.complete]
    assert [o.job.candidate.widths["a"] for o in failed] == [3]
    assert "worker process died" in (failed[0].error or "")
    assert [o.job.rung for o in source.told] == [0] * 8 + [1] * 2
    last = [o.metrics["pid"] for o in source.told[-2:]]
    assert len(set(last)) == 2, "after the barrier both workers go on"
    assert len(list(tmp_path.glob("made-*"))) <= 2 + 3, "a worker is made once, and again only after a crash"
    assert not scratch.exists()
    assert capfd.readouterr().out == "", "stdout belongs to the caller"


def test_what_tell_raises_comes_out(tmp_path: Path) -> None:
    def tell(outcome: Outcome) -> None:
        raise OSError("disk full")

    jobs = iter([job(1), job(2), job(4)])
    with pytest.raises(OSError, match="disk full"):
        Tune(RunnerSetup(functools.partial(make, tmp_path), tmp_path / "scratch", workers=1)).run(
            lambda: next(jobs, None), tell
        )
