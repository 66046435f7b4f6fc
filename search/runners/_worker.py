"""One worker process: does one job after the other in a thread, and tells how it is getting on."""

from __future__ import annotations

import json
import threading
import time
import traceback
from typing import Any

from ray import tune

from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners._base import MakeWork, Pulse, Work
from niwaki.search.runners._courier import Courier
from niwaki.spaces.types import Cost

_IDLE = (0.05, 2.0)
"""Seconds between two looks of an idle worker: at first, and at most."""


class HangingProcessError(RuntimeError):
    """This process can take no more jobs."""


class Worker(tune.Trainable):
    """Tune calls ``setup`` once a process, ``reset_config`` once a job, and ``step`` until the job is done.

    The job runs in a thread: a process that only waits for it can report progress, send files, and notice that the job
    shows no sign of life. Such a job has failed; its thread cannot be stopped, so the process takes no other job.
    """

    def setup(self, config: dict[str, Any], make_work: MakeWork, courier: Courier | None, hang_after: float) -> None:  # type: ignore[override]
        self._make_work, self._courier, self._hang_after = make_work, courier, hang_after
        self._work: Work | None = None
        self._broken = False
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self._broken:  # Tune then makes another process; answering False would lose the job
            raise HangingProcessError("a job of this process hangs")
        self._task, self._began, self._idle = new_config, time.monotonic(), _IDLE[0]
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None
        return True

    def step(self) -> dict[str, Any]:
        if "idle" in self._task:
            time.sleep(self._idle)
            self._idle = min(self._idle * 1.5, _IDLE[1])
            return {"idle": True}
        job = Job.from_json(self._task["job"])
        if self._thread is None:
            time.sleep(self._task["delay"])
            self._pulse = Pulse()
            self._thread = threading.Thread(target=self._do, args=(job,), daemon=True)
            self._thread.start()
        self._thread.join(min(1 + 0.1 * (time.monotonic() - self._began), 20, max(self._hang_after / 4, 0.1)))
        if self._thread.is_alive() and (silent := time.monotonic() - self._pulse.last) > self._hang_after:
            self._broken = True
            self._outcome = _failed(job, f"no sign of life for {silent:.0f} s (run.hang_after)")
        elif self._thread.is_alive():
            if self._courier is not None:
                self._courier.send(job)
            return {"done_steps": self._pulse.done, "total": self._pulse.total}
        outcome = self._outcome or _failed(job, "the job ended without an outcome")
        return {"outcome": json.dumps(outcome.to_json()), "done": True}  # text: Tune would flatten an object

    def _do(self, job: Job) -> None:
        try:
            if self._work is None:
                self._work = self._make_work() if self._courier is None else self._courier.open(self._make_work)
            if self._courier is not None:
                self._courier.bring(job)
            outcome = self._work(job, self._pulse)
            if self._courier is not None:
                self._courier.send(job)
        except Exception:  # whatever the work did not turn into an outcome itself: opening the run folder, the courier
            outcome = _failed(job, traceback.format_exc().strip())
        if not self._broken:
            self._outcome = outcome


def _failed(job: Job, error: str) -> Outcome:
    return Outcome(job, Cost(0, 0, 0), status="failed", error=error)
