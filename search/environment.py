"""``env.json``: where and with what a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import torch

from niwaki.search.export import versions
from niwaki.search.runners import cpu_count


def environment() -> dict[str, Any]:
    """Versions, hardware, command line, and the git commit of the current directory where it is in a repository."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions(), "platform": platform.platform(), "processor": _processor(),
        "cpus": cpu_count(), "cpus_of_host": os.cpu_count(), "gpus": gpus, "command": sys.argv, "commit": _commit(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
