"""Spec strings of targets: ``RUNTIME:key=value,...``."""

from __future__ import annotations

import dataclasses
import re

from niwaki.search.targets._base import Target
from niwaki.spaces import registry
from niwaki.spaces.errors import InputError, nearest

PACKAGE = "niwaki.search.targets"


def runtimes() -> dict[str, str]:
    """Name in a spec -> file of this folder: a hyphen in the one is an underscore in the other."""
    return {name.replace("_", "-"): name for name in registry.names(PACKAGE)}


def parse(spec: str) -> Target:
    """Target of a spec string; InputError names what is unknown or not installed.

    Example:
        >>> spec_of(parse("torch:batch=8,shape=3x224x224"))
        'torch:threads=1,batch=8,layout=contiguous,dtype=float32,shape=3x224x224'
    """
    name, _, options = (part.strip() for part in spec.partition(":"))
    file = runtimes().get(name.replace("_", "-"))
    if file is None:
        raise InputError(f"target {spec!r}: unknown runtime {name!r}; {nearest(name, runtimes())}")
    try:
        cls = registry.load(PACKAGE, file)
    except ModuleNotFoundError as error:
        raise InputError(f"target {spec!r}: {error.name} is not installed; run: pip install {error.name}") from error
    values: dict[str, int | str] = {}
    for text in options.split(","):
        if text.strip():
            key, value = _option(spec, cls, text)
            if key in values:
                raise InputError(f"target {spec!r}: {key} is given twice")
            values[key] = value
    target: Target = cls(**values)
    return target


def spec_of(target: Target) -> str:
    """The full spec string of a target: ``parse(spec_of(t)) == t``."""
    name = type(target).__module__.rsplit(".", 1)[-1].replace("_", "-")
    values = dataclasses.asdict(target)  # type: ignore[call-overload]
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in values.items() if value != "")


def _option(spec: str, cls: type, text: str) -> tuple[str, int | str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if not equals or not value:
        raise InputError(f"target {spec!r}: expected key=value, got {text.strip()!r}; {nearest(key, fields)}")
    if key not in fields:
        raise InputError(f"target {spec!r}: unknown option {key!r}; {nearest(key, fields)}")
    field = fields[key]
    if isinstance(field.default, int):
        return key, _number(spec, key, value)
    if "pattern" in field.metadata:
        if not re.fullmatch(field.metadata["pattern"], value):
            raise InputError(f"target {spec!r}: {key} cannot be {value!r}; write it like {field.metadata['like']}")
        return key, value
    valid = field.metadata.get("valid", ())
    if value not in valid:
        raise InputError(f"target {spec!r}: {key} cannot be {value!r}; {nearest(value, valid)}")
    return key, value


def _number(spec: str, key: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise InputError(f"target {spec!r}: {key} must be a whole number, got {value!r}") from None
    if number < 1:
        raise InputError(f"target {spec!r}: {key} must be at least 1, got {number}")
    return number
