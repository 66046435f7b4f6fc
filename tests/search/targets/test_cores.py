"""Pinning to the idle core, and how much others ran, from made-up counters of the kernel."""

import os
import time

import pytest

from niwaki.search.targets import _cores as cores

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")

STAT = """cpu  999 9 9 9 9 9 9 9 9 9
cpu0 {0[0]} 1 2 {0[1]} 4 5 6 7 8 9
cpu1 {1[0]} 0 0 {1[1]} 0 0 0 0 0 0
cpu3 {2[0]} 0 0 {2[1]} 0 0 0
intr 12 3
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Counters that move by ``(busy, idle)`` ticks a core with every sleep."""

    class Kernel:
        def __init__(self):
            self.steps = ((1, 4), (0, 5), (5, 0))
            self.now = [[0, 0], [0, 0], [0, 0]]

        def move(self, seconds=0.05):
            for now, step in zip(self.now, self.steps, strict=True):
                now[0] += step[0]
                now[1] += step[1]
            (tmp_path / "stat").write_text(STAT.format(*self.now))

    made = Kernel()
    made.move()
    monkeypatch.setattr(cores, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(cores, "_SPEEDS", str(tmp_path / "speed{}"))
    monkeypatch.setattr(time, "sleep", made.move)
    return made


def test_ticks_count_stolen_time_as_busy_and_guests_once(kernel):
    found = cores.ticks()
    assert set(found) == {0, 1, 3}
    assert found[0] == (1 + 1 + 2 + 5 + 6 + 7, 1 + 1 + 2 + 4 + 4 + 5 + 6 + 7)
    assert found[3] == (5, 5)


def test_the_idlest_core_is_taken_the_last_of_equals(kernel):
    assert cores.idlest({0, 1, 3}) == 1
    assert cores.idlest({0, 3}) == 0
    assert cores.idlest({7}) is None
    kernel.steps = ((2, 3), (4, 1), (2, 3))
    assert cores.idlest({0, 1, 3}) == 3


def test_an_idle_core_of_a_slower_kind_is_not_taken(kernel, tmp_path):
    for core, speed in ((0, 5_000_000), (1, 3_000_000), (3, 4_800_000)):
        (tmp_path / f"speed{core}").write_text(f"{speed}\n")
    assert cores.idlest({0, 1, 3}) == 0
    assert cores.idlest({1}) == 1


def test_without_counters_nothing_is_said_or_done(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "_STAT", tmp_path / "none")
    before = os.sched_getaffinity(0)
    assert cores.idlest(before) is None
    with cores.pinned(1) as core:
        assert core is None
        assert os.sched_getaffinity(0) == before
    assert cores.Company().free() == float("inf")


def test_a_thread_alone_is_pinned_and_freed_also_after_errors():
    before = os.sched_getaffinity(0)
    seen = []

    def fail():
        seen.append(os.sched_getaffinity(0))
        raise KeyError

    with pytest.raises(KeyError), cores.pinned(1) as core:
        fail()
    assert seen == [{core}]
    assert core in before
    assert os.sched_getaffinity(0) == before
    with cores.pinned(2) as core:
        assert core is None
        assert os.sched_getaffinity(0) == before


def test_a_system_that_forbids_it_is_left_alone(monkeypatch):
    def forbidden(pid, mask):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    with cores.pinned(1) as core:
        assert core is None


def test_free_cores_are_all_less_what_others_used(kernel, monkeypatch):
    monkeypatch.setattr(cores, "allowed", lambda: {0, 1})
    own = [10.0]
    monkeypatch.setattr(time, "process_time", lambda: own[0])
    company = cores.Company()
    assert company.free() == float("inf"), "too early to tell"
    kernel.steps = ((100, 0), (80, 20), (100, 0))  # core 3 is not ours
    kernel.move()
    own[0] += 120 / os.sysconf("SC_CLK_TCK")
    assert company.free() == pytest.approx(2 - (180 - 120) / 100)
