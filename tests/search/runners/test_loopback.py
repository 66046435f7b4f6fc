"""A run of one machine opens no port that another machine can reach."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

SCRIPT = """
import json, os
from pathlib import Path
import ray
from niwaki.search.runners._base import RunnerSetup
from niwaki.search.runners._session import session

def listening(pids):
    sockets = {os.readlink(f) for pid in pids for f in Path(f"/proc/{pid}/fd").iterdir() if f.is_symlink()}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return sorted({row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets})

def family():
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found

before = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
with session(RunnerSetup(lambda: None, Path("."), 1)) as workers:
    inside = ray.get(ray.remote(lambda: os.getpid()).remote())
    pids = family()
    print(json.dumps({"worker": inside in pids, "processes": len(pids), "addresses": listening(pids)}))
assert os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == before
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1, as /proc/net writes them."""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux which ports are open")
def test_ray_listens_on_loopback_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=180,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["worker"]  # the worker is among the processes that were looked at
    assert found["processes"] >= 4
    assert found["addresses"]
    assert set(found["addresses"]) <= LOOPBACK
