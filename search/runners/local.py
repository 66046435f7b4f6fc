"""Jobs one after the other in this process: for debugging, and for machines without Ray."""

from __future__ import annotations

from niwaki.search.runners._base import Ask, Follow, Pause, Pulse, RunnerSetup, Tell, nobody


class Local:
    """A :class:`~niwaki.search.runners.Runner` without processes: breakpoints and tracebacks are the caller's own.

    Nobody watches over a job here: one that hangs, hangs.
    """

    def __init__(self, setup: RunnerSetup) -> None:
        self._make_work = setup.make_work

    def run(self, ask: Ask, tell: Tell, follow: Follow = nobody) -> None:
        """Do every job; RuntimeError when ``ask`` wants to wait although nothing is running."""
        work = self._make_work()
        while (job := ask()) is not None:
            if isinstance(job, Pause):
                raise RuntimeError("asked to wait for a running job, but none is running")
            tell(work(job, Pulse(lambda done, total, job=job: follow(job, done, total))))  # type: ignore[misc]
