"""Which core is idle, staying on it, and how much other processes ran meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STAT = Path("/proc/stat")
_SPEEDS = "/sys/devices/system/cpu/cpu{}/cpufreq/cpuinfo_max_freq"
_LOOK = 0.05  # seconds; the kernel counts in hundredths
_ALIKE = 0.9  # cores whose top clock rate is at least this share of the fastest one's are of the same kind

Ticks = dict[int, tuple[int, int]]


@contextmanager
def pinned(threads: int) -> Iterator[int | None]:
    """Keep the calling thread on the core that is idlest now, if it computes alone; afterwards it is free again.

    Left to itself a thread may sit beside a busy process while another core is free. Yields the core, or None where
    nothing was done: more threads than one, or a system without a say in this.
    """
    before = allowed() if threads == 1 else set()
    core = idlest(before) if before else None
    if core is None:
        yield None
        return
    try:
        os.sched_setaffinity(0, {core})
    except OSError:  # a sandbox may forbid it; measuring goes on as well as it can
        yield None
        return
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)


def allowed() -> set[int]:
    """Cores that the calling thread may use; empty where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def idlest(cores: set[int]) -> int | None:
    """The one of ``cores`` that did the least in the next 50 ms, the last of equals; slower kinds are left out.

    None where the system does not tell.
    """
    before = ticks()
    time.sleep(_LOOK)
    after = ticks()
    speeds = {core: _speed(core) for core in cores if core in before and core in after}
    fast = [core for core, speed in speeds.items() if speed >= _ALIKE * max(speeds.values())]
    return min(fast, key=lambda core: (after[core][0] - before[core][0], -core)) if fast else None


def ticks() -> Ticks:
    """Core -> (busy, all) hundredths of a second since the start of the machine; empty where the system does not tell.

    What a hypervisor took away counts as busy, waiting for disks as idle.
    """
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = {}
    for name, *counts in (line.split() for line in lines):
        if name.startswith("cpu") and name[3:].isdigit():
            user, nice, system, idle, wait, *rest = (int(count) for count in counts[:8])
            busy = user + nice + system + sum(rest)
            found[int(name[3:])] = busy, busy + idle + wait
    return found


class Company:
    """CPU time of other processes on the cores of this one, from its making on.

    With several threads no single run shows that it was interrupted; fewer free cores than threads do.
    """

    def __init__(self) -> None:
        self._cores, self._ticks, self._own = allowed(), ticks(), time.process_time()

    def free(self) -> float:
        """Cores that other processes left free, on average; infinite where too little was seen to tell."""
        now = {core: count for core, count in ticks().items() if core in self._cores and core in self._ticks}
        busy = sum(count[0] - self._ticks[core][0] for core, count in now.items())
        passed = sum(count[1] - self._ticks[core][1] for core, count in now.items())
        if passed < 10 * len(now) or not now:  # a tenth of a second
            return float("inf")
        own = (time.process_time() - self._own) * os.sysconf("SC_CLK_TCK")
        return len(now) * (1 - max(0.0, busy - own) / passed)


def _speed(core: int) -> int:
    """Top clock rate in kHz; 0 where the system does not tell."""
    try:
        return int(Path(_SPEEDS.format(core)).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
