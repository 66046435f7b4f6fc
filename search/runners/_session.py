"""Ray itself: started for a run or joined where it runs already, quiet, and asked what it has."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO, cast

import ray
from ray._private import ray_constants
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from niwaki.search.runners._base import RunnerSetup, cpu_count, default_workers
from niwaki.spaces import InputError

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


@contextlib.contextmanager
def session(setup: RunnerSetup) -> Iterator[int]:
    """A connection to Ray, and how many jobs it can do at once; closed afterwards unless it was there before.

    Raises:
        InputError: nobody answers at the address, no machine of the cluster is large enough for a job, or Niwaki is
            not installed on one of them.
    """
    with _environment(), contextlib.nullcontext() if setup.verbose else _quiet():
        if ray.is_initialized():
            yield _workers(setup)
            return
        _connect(setup)
        try:
            if setup.address is not None:
                _check_installed()
            yield _workers(setup)
        finally:
            with contextlib.redirect_stdout(io.StringIO()):  # hints that Ray held back to print them once
                ray.shutdown()


def fitting(nodes: Sequence[Mapping[str, float]], need: Mapping[str, float]) -> int:
    """How many jobs fit on all nodes together, none reaching over two.

    Example:
        >>> fitting([{"CPU": 4}, {"CPU": 7}], {"CPU": 2}), fitting([{"CPU": 4, "GPU": 1}], {"CPU": 1, "GPU": 0.5})
        (5, 2)
    """
    wanted = {name: amount for name, amount in need.items() if amount > 0}
    return sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in wanted.items()) for node in nodes)


def _workers(setup: RunnerSetup) -> int:
    nodes = [node["Resources"] for node in alive()]
    need = {"CPU": setup.cpus, "GPU": setup.gpus, **setup.resources}
    fit = fitting(nodes, need)
    if not fit:
        have = "; ".join(", ".join(f"{k} {v:g}" for k, v in n.items() if k in {"CPU", "GPU", *setup.resources})
                         or "none of it" for n in nodes)  # fmt: skip
        asked = ", ".join(f"{k} {v:g}" for k, v in need.items() if v)
        raise InputError(f"run: a trial needs {asked}, and no machine of the cluster has that (they have: {have}); "
                         "see run.cpus_per_trial, run.gpus_per_trial, run.resources")  # fmt: skip
    return setup.workers or fit


def _connect(setup: RunnerSetup) -> None:
    python = shlex.quote(sys.executable)  # Ray hands it to a shell as it is: a space in the path kills every worker
    common: dict[str, Any] = {
        "log_to_driver": setup.verbose, "logging_level": logging.INFO if setup.verbose else logging.CRITICAL,
        "runtime_env": {"py_executable": python} if python != sys.executable else None,
    }
    if setup.address is None:
        workers = setup.workers or default_workers(setup.cpus, 0, 0)
        with _on_loopback():
            ray.init(
                address="local", num_cpus=max(cpu_count(), workers * setup.cpus),  # more than there are: user's choice
                resources=dict(setup.resources) or None, include_dashboard=False, **common,
            )
        return
    try:
        _knock(setup.address)
        ray.init(address=setup.address, **common)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"run.address: no Ray cluster at {setup.address!r} ({reason}); start one with "
                         "`ray start --head`, or leave the address out") from error  # fmt: skip


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray's processes listen on 127.0.0.1 alone, as they do on systems where Ray knows of no clusters.

    On Linux they would listen on every interface. Ray reads the variable once, at import, so its value is set, too.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    variable = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        os.environ.update({} if variable is None else {name: variable})


def _knock(address: str) -> None:
    """OSError or ValueError at once where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and "//" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _check_installed() -> None:
    """InputError for the first machine that has no Niwaki, or another version of it."""
    ours = _version()
    for node in alive():
        try:
            theirs = ray.get(remote_on(node["NodeID"], _version).remote(), timeout=120)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"run.address: Niwaki cannot be used on {node['NodeManagerAddress']}: {reason}") from error
        if theirs != ours:
            raise InputError(f"run.address: {node['NodeManagerAddress']} has niwaki {theirs}, this machine {ours}")


def alive() -> list[dict[str, Any]]:
    """What Ray knows of the machines of the cluster that answer."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def remote_on(node: str, what: object) -> Any:
    """A function or class as Ray's remote one, bound to a machine and taking no CPU of it."""
    remote: Any = ray.remote
    return remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(what)


def _version() -> str:
    from importlib.metadata import version

    import niwaki.search.trial  # noqa: F401 - whatever a worker imports

    return version("niwaki")


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
