"""From names and options in a configuration to objects: ``package.module:function`` and a class with checked fields."""

from __future__ import annotations

import dataclasses
import importlib
import traceback
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from niwaki.spaces.errors import InputError, nearest

T = TypeVar("T")


def resolve_object(spec: str, where: str) -> Callable[..., Any]:
    """The callable that ``spec`` (``package.module:function``) names.

    Args:
        spec: module path, a colon, the name of a callable (dots reach into classes).
        where: the key of the configuration, for messages.

    Raises:
        InputError: the text has no colon, the module or the name does not exist, or it is not callable.

    Example:
        >>> resolve_object("math:sqrt", "teacher.name")(9)
        3.0
    """
    module_name, colon, attribute = spec.partition(":")
    if not (colon and module_name and attribute):
        raise InputError(f"{where}: {spec!r} is not of the form 'package.module:function'")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a module of the user's may raise anything
        raise InputError(f"{where}: cannot import {module_name!r} of {spec!r}: {told(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise InputError(f"{where}: {spec!r}: no {part!r} in it; {nearest(part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{where}: {spec!r} is a {type(found).__name__}, not something that can be called")
    return typing.cast(Callable[..., Any], found)


def told(error: BaseException) -> str:
    """An exception in the user's own code: what, and the line that raised it.

    Example:
        >>> told(KeyError("a"))
        "KeyError: 'a'"
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def build(cls: type[T], options: Mapping[str, Any], where: str) -> T:
    """Build dataclass ``cls`` from ``options``: unknown names, missing ones and wrong types are InputErrors.

    Values are read as a configuration file means them: ``"1e-3"`` (which YAML 1.1 reads as text) is a number.

    Example:
        >>> from niwaki.distill.augment import Augmentation
        >>> build(Augmentation, {"shift": "0.125"}, "train.augment")
        Augmentation(shift=0.125, flip=False)
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in options:
        if key not in fields:
            hint = nearest(key, fields) if fields else "(it has no options)"
            raise InputError(f"{where}: unknown option {key!r} = {options[key]!r}; {hint}")
    types = typing.get_type_hints(cls)
    values = {key: _converted(types[key], value, f"{where}.{key}") for key, value in options.items()}
    needed = (dataclasses.MISSING, dataclasses.MISSING)
    missing = [n for n, f in fields.items() if (f.default, f.default_factory) == needed and n not in values]
    if missing:
        raise InputError(f"{where}: option {missing[0]!r} is missing ({cls.__name__} needs {', '.join(missing)})")
    return cls(**values)


def _converted(kind: Any, value: Any, where: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{where}: {value!r}: {error.errors()[0]['msg']}") from error
