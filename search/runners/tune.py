"""Jobs as Ray Tune trials: Tune places and counts them; everything that decides stays with the caller."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import tune

from niwaki.search.runners._base import Ask, Follow, RunnerSetup, Tell, nobody
from niwaki.search.runners._bridge import Bridge, Order
from niwaki.search.runners._courier import Courier, Depot, copy_of
from niwaki.search.runners._session import remote_on, session
from niwaki.search.runners._worker import Worker


class Tune:
    """A :class:`~niwaki.search.runners.Runner` on Ray: ``workers`` processes, each kept for many jobs.

    Ray is started for the run and stopped after it, unless the caller has connected to a cluster already or the setup
    names one. An outcome reaches ``tell`` within milliseconds of its end; a job whose process died is asked for again,
    and told as failed, with the reason, after ``retries``.
    """

    def __init__(self, setup: RunnerSetup) -> None:
        self._setup = setup

    def run(self, ask: Ask, tell: Tell, follow: Follow = nobody) -> None:
        """Do every job; see :class:`~niwaki.search.runners.Runner`. Raises what ``ask`` or ``tell`` raised."""
        setup, scratch = self._setup, self._setup.scratch.resolve()
        bridge = Bridge(ask, tell, follow, setup.retries)
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            with session(setup) as workers, _courier(setup) as courier:
                self._tuner(bridge, courier, workers).fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if bridge.error is not None:
            raise bridge.error
        if bridge.live:
            raise RuntimeError(f"Ray Tune stopped with {len(bridge.live)} jobs unfinished; the run can be resumed")

    def _tuner(self, bridge: Bridge, courier: Courier | None, workers: int) -> tune.Tuner:
        setup = self._setup
        trainable = tune.with_resources(
            tune.with_parameters(Worker, make_work=setup.make_work, courier=courier, hang_after=setup.hang_after),
            {"cpu": setup.cpus, "gpu": setup.gpus, **setup.resources},
        )
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=bridge, scheduler=Order(bridge), num_samples=sys.maxsize, max_concurrent_trials=workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="jobs", storage_path=str(setup.scratch.resolve()), verbose=1 if setup.verbose else 0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )


@contextmanager
def _courier(setup: RunnerSetup) -> Iterator[Courier | None]:
    """Only for work over a run folder, where a machine may not see it."""
    folder = getattr(setup.make_work, "folder", None)
    if folder is None or (setup.share == "auto" and setup.address is None and not ray.is_initialized()):
        yield None
        return
    token = secrets.token_hex(8)
    (setup.scratch / token).touch()
    depot = remote_on(ray.get_runtime_context().get_node_id(), Depot).remote(str(folder))
    try:
        yield Courier(depot, folder, token, setup.share)
    finally:
        ray.kill(depot)
        shutil.rmtree(copy_of(token), ignore_errors=True)
