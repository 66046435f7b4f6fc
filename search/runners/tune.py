"""Jobs as Ray Tune trials: Tune places, counts and retries them; everything that decides stays with the caller."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import ray
from ray import tune
from ray.tune.search import Searcher

from niwaki.search.outcome import Job, Outcome
from niwaki.search.runners._base import Ask, MakeWork, Pause, RunnerSetup, Tell, Work, cpu_count
from niwaki.spaces.types import Cost

_POLL = 0.05  # seconds between two looks of an idle worker
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must raise here, not end in a ResultGrid
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output engine prints tables even at verbose=0
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # our journal is the truth; Tune's snapshot is never read
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of the user keep their meaning
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Tune:
    """A :class:`~niwaki.search.runners.Runner` on Ray: ``workers`` processes, each kept for many jobs.

    Ray is started for the run and stopped after it, unless the caller has already connected to a cluster. An outcome
    reaches ``tell`` within milliseconds of its end; a job whose process died is told as failed after ``retries``.
    """

    def __init__(self, setup: RunnerSetup) -> None:
        self._setup = setup

    def run(self, ask: Ask, tell: Tell) -> None:
        """Do every job; see :class:`~niwaki.search.runners.Runner`. Raises what ``ask`` or ``tell`` raised."""
        scratch = self._setup.scratch.resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        bridge = _Bridge(ask, tell, scratch)
        with _environment(), _quiet(), _cluster(self._setup):
            try:
                self._tuner(bridge, scratch).fit()
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        if bridge.error is not None:
            raise bridge.error
        if bridge.live:
            raise RuntimeError(f"Ray Tune stopped with {len(bridge.live)} jobs unfinished; the run can be resumed")

    def _tuner(self, bridge: _Bridge, scratch: Path) -> tune.Tuner:
        setup = self._setup
        trainable = tune.with_resources(
            tune.with_parameters(_JobTrainable, make_work=setup.make_work), {"cpu": setup.cpus, "gpu": setup.gpus}
        )
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=bridge, num_samples=sys.maxsize, max_concurrent_trials=setup.workers, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="jobs", storage_path=str(scratch), verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=setup.retries),
            ),
        )


class _JobTrainable(tune.Trainable):
    """One worker process; ``setup`` runs once in it, ``step`` once a job."""

    def setup(self, config: dict[str, Any], make_work: MakeWork) -> None:  # type: ignore[override]  # as Tune calls it
        self._task: dict[str, Any] = config
        self._work: Work = make_work()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._task = new_config
        return True

    def step(self) -> dict[str, Any]:
        if "idle" in self._task:
            while not os.path.exists(self._task["idle"]):
                time.sleep(_POLL)
            return {"done": True}
        outcome = self._work(Job.from_json(self._task["job"]))
        return {"outcome": json.dumps(outcome.to_json()), "done": True}  # text: Tune would flatten an object


class _Bridge(Searcher):
    """Tune's view of our controller: suggests what ``ask`` answers and passes results on to ``tell``.

    While there is nothing to do but wait, a worker gets a task that idles until it is woken. Were it given nothing,
    Tune would stop it; the next stage would begin with one worker, and a new one is cancelled as soon as that one is
    free, so that short jobs would run one after another to the end.
    """

    def __init__(self, ask: Ask, tell: Tell, scratch: Path) -> None:
        super().__init__()
        self._ask, self._tell, self._scratch = ask, tell, scratch
        self._idle: dict[str, Path] = {}
        self.live: dict[str, Job] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]  # FINISHED is text
        job = self._next()
        if job is None:
            self._wake()
            return str(Searcher.FINISHED)
        if isinstance(job, Pause):
            self._idle[trial_id] = self._scratch / f"wake-{trial_id}"
            return {"idle": str(self._idle[trial_id])}
        self.live[trial_id] = job
        return {"job": job.to_json()}

    def _next(self) -> Job | Pause | None:
        if self.error is not None:
            return None
        try:
            return self._ask()
        except Exception as error:  # Tune would log it and go on polling: keep it, end the run, raise it there
            self.error = error
            return None

    def _wake(self) -> None:
        """Let idle workers ask again."""
        for path in self._idle.values():
            path.touch()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Everything is told in :meth:`on_trial_complete`; a job reports once, at its end."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self._idle.pop(trial_id, None) is not None:
            return
        job = self.live.pop(trial_id, None)
        if job is None or self.error is not None:
            return
        try:
            if result is None or error or "outcome" not in result:
                message = "the worker process died (out of memory, or killed); see the job's log.txt"
                self._tell(Outcome(job, Cost(0, 0, 0), status="failed", error=message))
            else:
                self._tell(Outcome.from_json(json.loads(result["outcome"])))
        except Exception as failure:
            self.error = failure
        self._wake()

    def __reduce__(self) -> tuple[type[_Bridge], tuple[Any, ...]]:
        """Tune pickles its searchers for a restore that we never ask for; what ours holds stays here."""
        return _Bridge, (_nothing, _nothing, self._scratch)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Bridge:
        return self

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run is continued from our own journal."""

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a run is resumed from its journal, never from Ray Tune's snapshots")


def _nothing(*_: object) -> None:
    return None


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    before = {key: os.environ.get(key) for key in _ENVIRONMENT}
    os.environ.update({key: value for key, value in _ENVIRONMENT.items() if before[key] is None})
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)


class _WithoutRay:
    """A text stream that drops what Ray's listener threads print: a page of hints for every worker that died."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray logs and prints to the terminal that shows our own table: what matters comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray.tune.tune")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(cast(TextIO, _WithoutRay(sys.stdout))):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _cluster(setup: RunnerSetup) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    cpus = max(cpu_count(), setup.workers * setup.cpus)  # more workers than CPUs were asked for: the user's choice
    python = shlex.quote(sys.executable)  # Ray hands it to a shell as it is: a space in the path kills every worker
    ray.init(
        address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL,
        runtime_env={"py_executable": python} if python != sys.executable else None,
    )
    try:
        yield
    finally:
        with contextlib.redirect_stdout(io.StringIO()):  # hints that Ray held back to print them once
            ray.shutdown()
