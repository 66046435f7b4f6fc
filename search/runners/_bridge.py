"""Tune's view of our controller: what it is to run next, and what came of it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners._base import Ask, Follow, Pause, Tell
from niwaki.search.runners._reasons import Reason, reason_of
from niwaki.spaces.types import Cost


class Bridge(Searcher):
    """Suggests what ``ask`` answers, passes results on to ``tell``, and asks again for jobs whose process died.

    While there is nothing to do but wait, a worker gets a task that idles until it is woken. Were it given nothing,
    Tune would stop it; the next stage would begin with one worker, and a new one is cancelled as soon as that one is
    free, so that short jobs would run one after another to the end.
    """

    def __init__(self, ask: Ask, tell: Tell, follow: Follow, retries: int) -> None:
        super().__init__()
        self._ask, self._tell, self._follow, self._retries = ask, tell, follow, retries
        self._idle: set[str] = set()
        self._woken: set[str] = set()
        self._again: deque[tuple[Job, float]] = deque()
        self._ready: deque[tuple[Job, float]] = deque()
        self._tried: dict[str, int] = {}
        self.reasons: dict[str, Reason] = {}
        self.live: dict[str, Job] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # FINISHED is text
        task = self._ready.popleft() if self._ready else self._take()
        if task is None and not self.live:
            self._wake()
            return str(Searcher.FINISHED)
        if task is None or isinstance(task, Pause):  # of the jobs that run one may die, and be asked for again
            self._idle.add(trial_id)
            return {"idle": True}
        self.live[trial_id], delay = task
        return {"job": self.live[trial_id].to_json(), "delay": delay}

    def _take(self) -> tuple[Job, float] | Pause | None:
        """The next job and how long to wait before it: one whose process died, else a new one."""
        if self._again and self.error is None:
            return self._again.popleft()
        job = self._next()
        return job if job is None or isinstance(job, Pause) else (job, 0.0)

    def _next(self) -> Job | Pause | None:
        if self.error is not None:
            return None
        try:
            return self._ask()
        except Exception as error:  # Tune would log it and go on polling: keep it, end the run, raise it there
            self._failed(error)
            return None

    def _failed(self, error: BaseException) -> None:
        """The caller's own failure ends the run: nobody waits for the jobs that still run."""
        self.error = error
        self.live.clear()
        self._again.clear()
        self._ready.clear()
        self._woken |= self._idle

    def _wake(self) -> None:
        """Have as many idle workers ask again as there are jobs for, or all of them where no job will come any more."""
        while sleeping := self._idle - self._woken:
            task = self._take()
            if isinstance(task, Pause):
                return
            if task is None:
                self._woken |= set() if self.live else sleeping
                return
            self._ready.append(task)
            self._woken.add(sleeping.pop())

    def stops(self, trial_id: str) -> bool:
        """Whether this trial is to end now, which those that idle never do of themselves."""
        return trial_id in self._woken

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """How far a job is."""
        job = self.live.get(trial_id)
        if job is not None and "total" in result:
            self._guarded(lambda: self._follow(job, result["done_steps"], result["total"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._idle:
            self._idle.discard(trial_id)
            self._woken.discard(trial_id)
            return
        job = self.live.pop(trial_id, None)
        if job is None or self.error is not None:
            return
        if result is not None and not error and "outcome" in result:
            self._guarded(lambda: self._tell(Outcome.from_json(json.loads(result["outcome"]))))
        else:
            self._died(job, self.reasons.pop(trial_id, reason_of("")))
        self._wake()

    def _died(self, job: Job, reason: Reason) -> None:
        """Its process did, that is: once more, after a while where memory was short, until the retries are used up."""
        tried = self._tried[job.key] = self._tried.get(job.key, 0) + int(reason.counts)
        if tried <= self._retries:
            self._again.append((job, reason.wait * tried))
            return
        times = f", {tried} times" if tried > 1 else ""
        text = f"{reason.text}{times}; see the job's log.txt"
        self._guarded(lambda: self._tell(Outcome(job, Cost(0, 0, 0), status="failed", error=text)))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as failure:
            self._failed(failure)

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune pickles its searchers for a restore that we never ask for; what ours holds stays here."""
        return Bridge, (_nothing, _nothing, _nothing, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Bridge:
        return self

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run is continued from our own journal."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a run is resumed from its journal, never from Ray Tune's snapshots")


class Order(FIFOScheduler):
    """First come, first served; ends idle trials that were woken, and hears first why a trial failed."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(TrialScheduler.STOP if self._bridge.stops(trial.trial_id) else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        path = trial.error_file
        text = Path(path).read_text(encoding="utf-8", errors="replace") if path and Path(path).is_file() else ""
        self._bridge.reasons[trial.trial_id] = reason_of(text)


def _nothing(*_: object) -> None:
    return None
