"""Budget values as people write them: ``3ms``, ``2MB``, ``500M``, ``60%``; and figures shown in the same units."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from niwaki.spaces.errors import InputError

_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
UNITS: dict[str, dict[str, float]] = {
    "latency": {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "macs": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9},
    "params": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9},
    "size": _BYTES,
    "memory": _BYTES,
}
"""Units of each budget and their worth in ms, units or bytes. 1 MB = 10^6 bytes, 1 MiB = 2^20 bytes."""

EXAMPLES = {
    "latency": "'3ms', '800us', '60%'",
    "macs": "'500M', '1.5G', '60%'",
    "params": "'250k', '4M', '60%'",
    "size": "'2MB' (1 MB = 10^6 bytes), '512KiB', '60%'",
    "memory": "'2MB' (1 MB = 10^6 bytes), '512KiB', '60%'",
}

_COUNTS = ("", "k", "M", "G")
_VALUE = re.compile(r"([0-9_]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9_]+\.)\s*([^\s0-9.]*)")


@dataclass(frozen=True)
class Amount:
    """A parsed budget value: ``number`` in ms, MACs, parameters or bytes, or a fraction of the teacher's figure.

    ``unit`` is the one the user wrote (the base unit for a bare number, ``%`` for a relative value).
    """

    number: float
    unit: str

    @property
    def relative(self) -> bool:
        return self.unit == "%"


def parse(name: str, value: str | float) -> Amount:
    """Read a budget value. A number without a unit counts in ms, MACs, parameters or bytes.

    Raises:
        InputError: unknown unit, not a positive finite number, or more than 100 %; names key, value and examples.

    Example:
        >>> parse("size", "2MB"), parse("macs", "60%")
        (Amount(number=2000000.0, unit='MB'), Amount(number=0.6, unit='%'))
    """
    units = UNITS[name]
    match = _VALUE.fullmatch(value.strip()) if isinstance(value, str) else _VALUE.fullmatch(repr(_plain(name, value)))
    if not match:
        raise _wrong(name, value, "not a number with a unit")
    number, unit = float(match[1].replace("_", "")), match[2]
    if not unit:
        unit = next(u for u, worth in units.items() if worth == 1.0)
    if unit != "%" and unit not in units:
        raise _wrong(name, value, f"unknown unit {unit!r} (valid: {', '.join(u for u in units if u)}, %)")
    number *= 0.01 if unit == "%" else units[unit]
    if not (math.isfinite(number) and number > 0):
        raise _wrong(name, value, "must be a positive number")
    if unit == "%" and number > 1:
        raise _wrong(name, value, "a budget relative to the teacher must be at most 100 %")
    return Amount(number, unit)


def _plain(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, value, "not a number with a unit")
    return float(value)


def _wrong(name: str, value: object, why: str) -> InputError:
    return InputError(f"budget.{name}: {value!r}: {why}; examples: {EXAMPLES[name]}")


def show(name: str, number: float, unit: str | None = None) -> str:
    """``number`` (ms, MACs, parameters or bytes) as text in ``unit``, or in the one that reads best.

    Example:
        >>> show("size", 1_500_000), show("latency", 0.8, "us"), show("macs", 41_000_000), show("params", 270)
        ('1.5 MB', '800 us', '41 M', '270')
    """
    units = UNITS[name]
    if unit not in units:
        usual = ("B", "kB", "MB", "GB") if units is _BYTES else ("us", "ms", "s") if name == "latency" else _COUNTS
        unit = max((u for u in usual if units[u] <= abs(number)), key=lambda u: units[u], default=usual[0])
    return f"{number / units[unit]:.4g} {unit}".strip()
