"""What Tune is told to run, without Tune: retries, their reasons, and waiting."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners import WAIT, Pause, nobody
from niwaki.search.runners._bridge import Bridge
from niwaki.search.runners._reasons import reason_of
from niwaki.spaces import Candidate, Cost


def job(width: int) -> Job:
    return Job(Candidate({"a": width}), "search", 0, 10, 0)


def done(job: Job) -> dict[str, object]:
    return {"outcome": json.dumps(Outcome(job, Cost(1, 1, 1), {"accuracy": 0.5}).to_json()), "done": True}


def test_a_job_whose_process_died_is_asked_again_with_patience_where_memory_was_short() -> None:
    jobs, told = iter([job(1)]), list[Outcome]()
    bridge = Bridge(lambda: next(jobs, None), told.append, nobody, retries=2)
    delays = []
    for trial in "abc":
        task = bridge.suggest(trial)
        assert isinstance(task, dict)
        delays.append(task["delay"])
        bridge.reasons[trial] = reason_of("ray.exceptions.OutOfMemoryError: killed")
        bridge.on_trial_complete(trial, None, error=True)
    assert delays == [0, 10, 20]
    (failed,) = told
    assert failed.status == "failed"
    assert "ran out of memory" in (failed.error or "")
    assert "3 times" in (failed.error or "")
    assert bridge.suggest("d") == "FINISHED"


def test_a_worker_that_is_in_the_way_is_no_try() -> None:
    jobs, told = iter([job(1)]), list[Outcome]()
    bridge = Bridge(lambda: next(jobs, None), told.append, nobody, retries=0)
    bridge.suggest("a")
    bridge.reasons["a"] = reason_of("HangingProcessError: a job of this process hangs")
    bridge.on_trial_complete("a", None, error=True)
    bridge.suggest("b")
    bridge.on_trial_complete("b", done(job(1)))
    assert [o.status for o in told] == ["complete"]


def test_what_idles_is_woken_by_every_end_and_a_caller_that_fails_ends_the_run() -> None:
    told = list[Outcome]()
    answers = iter([job(1), WAIT, job(2)])

    def tell(outcome: Outcome) -> None:
        told.append(outcome)
        if len(told) == 2:
            raise OSError("disk full")

    bridge = Bridge(lambda: next(answers, None), tell, nobody, retries=0)
    bridge.suggest("a")
    assert bridge.suggest("b") == {"idle": True}
    assert not bridge.stops("b")
    bridge.on_trial_complete("a", done(job(1)))
    assert bridge.stops("b")
    bridge.on_trial_complete("b", {"idle": True})
    bridge.suggest("c")
    bridge.on_trial_complete("c", done(job(2)))
    assert isinstance(bridge.error, OSError)
    assert bridge.suggest("d") == "FINISHED"


@given(st.lists(st.sampled_from(["done", "died"]), max_size=40), st.integers(0, 2), st.integers(1, 4))
def test_every_job_is_told_once_whatever_dies(ends: list[str], retries: int, slots: int) -> None:
    """Trials end in any way; each job is told as often as it was asked for: once."""
    waiting, told, live = [job(i) for i in range(1, 9)], list[Outcome](), dict[str, dict[str, object]]()
    asked = set[str]()

    def ask() -> Job | Pause | None:
        if waiting:
            asked.add(waiting[0].key)
            return waiting.pop(0)
        return WAIT if len(told) < len(asked) else None

    bridge, number, endings = Bridge(ask, told.append, nobody, retries), 0, iter(ends)
    for _ in range(400):
        while len(live) < slots:
            number += 1
            task = bridge.suggest(str(number))
            if task == "FINISHED":
                break
            assert isinstance(task, dict)
            live[str(number)] = task
        if not live:
            break
        for name in [n for n, t in live.items() if "idle" in t and bridge.stops(n)]:
            bridge.on_trial_complete(name, live.pop(name))
        working = [n for n, t in live.items() if "job" in t]
        if working:
            task = live.pop(working[0])
            if next(endings, "done") == "done":
                bridge.on_trial_complete(working[0], done(Job.from_json(task["job"])))
            else:
                bridge.on_trial_complete(working[0], None, error=True)
    assert sorted(o.key for o in told) == sorted(job(i).key for i in range(1, 9))
