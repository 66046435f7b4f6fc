"""One Ray session for everything: starting one takes seconds."""

import functools
import os
import time
from pathlib import Path

import pytest

from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners import WAIT, Pause, Pulse, RunnerSetup, Work
from niwaki.search.runners.tune import Tune
from niwaki.spaces import Candidate, Cost, InputError


def job(width: int, rung: int = 0) -> Job:
    return Job(Candidate({"a": width}), "search", rung, 10, 0)


def make(folder: Path) -> Work:
    (folder / f"made-{os.getpid()}").touch()

    def work(job: Job, pulse: Pulse) -> Outcome:
        width, began = job.candidate.widths["a"], time.monotonic()
        if width == 13:  # dies every time
            os._exit(9)
        if width == 15 and not (folder / "died").exists():  # dies once
            (folder / "died").touch()
            os._exit(9)
        if width == 17:  # no sign of life, ever
            time.sleep(10_000)
        if width == 19:  # slow, but alive
            for step in range(30):
                time.sleep(0.1)
                pulse.progress(step, 30)
        if job.rung == 1:
            (folder / f"second-{os.getpid()}").touch()
        while job.rung == 1 and len(list(folder.glob("second-*"))) < 2 and time.monotonic() - began < 60:
            time.sleep(0.05)  # each waits for the other: one worker alone would not get both
        (folder / f"worked-{os.getpid()}").touch()
        while width == 21 and len(list(folder.glob("worked-*"))) < 2:
            time.sleep(0.05)  # one worker must not do it all while the other is being made
        return Outcome(job, Cost(1, 1, 1), {"accuracy": 0.5, "pid": os.getpid()})

    return work


class Source:
    """Five jobs, then a barrier, then two more: what the driver's stages look like to a runner."""

    def __init__(self) -> None:
        self.stages = [[job(i) for i in (21, 2, 3, 4, 5)], [job(i, rung=1) for i in (1, 2)]]
        self.live: set[str] = set()
        self.told: list[Outcome] = []

    def ask(self) -> Job | Pause | None:
        while self.stages and not self.stages[0] and not self.live:
            self.stages.pop(0)
        if not self.stages:
            return None
        if not self.stages[0]:
            return WAIT
        self.live.add(self.stages[0][0].key)
        return self.stages[0].pop(0)

    def tell(self, outcome: Outcome) -> None:
        self.live.remove(outcome.key)
        self.told.append(outcome)


def test_both_workers_are_kept_over_a_barrier(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, scratch = Source(), tmp_path / "scratch"
    Tune(RunnerSetup(functools.partial(make, tmp_path), scratch, workers=2)).run(source.ask, source.tell)
    assert [o.job.rung for o in source.told] == [0] * 5 + [1] * 2
    assert len({o.key for o in source.told}) == 7
    assert len({o.metrics["pid"] for o in source.told[-2:]}) == 2, "after the barrier both go on"
    assert len(list(tmp_path.glob("made-*"))) <= 3, "workers are kept, not made anew for every job"
    assert not scratch.exists()
    assert capfd.readouterr().out == "", "stdout belongs to the caller"


def test_workers_that_die_and_a_caller_that_raises(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs, told = iter([job(1), job(13), job(15), job(2), job(4)]), []

    def tell(outcome: Outcome) -> None:
        told.append(outcome)
        if outcome.job.candidate.widths["a"] == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Tune(RunnerSetup(functools.partial(make, tmp_path), tmp_path / "scratch")).run(lambda: next(jobs, None), tell)
    status = {o.job.candidate.widths["a"]: o.status for o in told}
    assert status == {1: "complete", 13: "failed", 15: "complete", 2: "complete"}
    failed = next(o for o in told if o.status == "failed")
    assert "worker process died" in (failed.error or "")
    assert capfd.readouterr().out == ""


def test_a_job_that_hangs_fails_and_the_others_go_on(tmp_path: Path) -> None:
    """The one with signs of life takes longer than a silent one may, and is followed meanwhile."""
    jobs, told, seen = iter([job(17), job(1), job(19), job(2)]), [], []
    setup = RunnerSetup(functools.partial(make, tmp_path), tmp_path / "scratch", hang_after=1.5)
    Tune(setup).run(lambda: next(jobs, None), told.append, lambda j, done, total: seen.append((j, done, total)))
    status = {o.job.candidate.widths["a"]: o.status for o in told}
    assert status == {17: "failed", 1: "complete", 19: "complete", 2: "complete"}
    assert "no sign of life for" in (told[0].error or "")
    assert len(list(tmp_path.glob("made-*"))) == 2, "the process that hangs takes no other job"
    steps = [done for j, done, total in seen if j == job(19) and total == 30]
    assert steps == sorted(steps)
    assert steps


def test_what_is_asked_for_must_fit_a_machine(tmp_path: Path) -> None:
    setup = RunnerSetup(functools.partial(make, tmp_path), tmp_path / "scratch", cpus=1, gpus=1_000)
    with pytest.raises(InputError, match=r"a trial needs CPU 1, GPU 1000, and no machine of the cluster has that"):
        Tune(setup).run(lambda: None, lambda outcome: None)


def test_nobody_at_the_address(tmp_path: Path) -> None:
    setup = RunnerSetup(functools.partial(make, tmp_path), tmp_path / "scratch", address="127.0.0.1:1")
    with pytest.raises(InputError, match=r"run.address: no Ray cluster at '127.0.0.1:1'"):
        Tune(setup).run(lambda: None, lambda outcome: None)
