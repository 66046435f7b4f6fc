"""Where figures come from."""

from __future__ import annotations

import os
import platform
from typing import Any

from niwaki.search.targets._base import Target
from niwaki.search.targets._spec import spec_of

_SETS = ("avx512f", "avx2", "avx", "sve", "asimd")
"""Vector instructions, widest first: by the widest it has a runtime chooses kernels and layouts."""


def machine(target: Target) -> dict[str, Any]:
    """Where the figures come from: target, runtime version, processor, cores, vector instructions, load, platform.

    ``instructions`` and ``load`` (processes that run or wait, mean of the last minute) are None where the system does
    not tell. Call it before measuring: measuring is load.

    Example:
        >>> from niwaki.search.targets import parse
        >>> machine(parse("torch"))["target"]
        'torch:threads=1,batch=1,layout=contiguous,dtype=float32'
    """
    facts = _processor()
    return {
        "target": spec_of(target), "runtime": target.version(),
        "processor": facts.get("model name") or platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "instructions": _instructions(facts), "load": _load(), "platform": platform.platform(),
        "python": platform.python_version(),
    }


def _instructions(facts: dict[str, str]) -> str | None:
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return next((name.removesuffix("f") for name in _SETS if name in flags), None)


def _load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _processor() -> dict[str, str]:
    """What Linux says of the first core; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
