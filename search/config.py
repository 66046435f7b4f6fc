"""Read a configuration: YAML file or packaged name, overrides, errors that name the key and the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from niwaki.search.settings import Config
from niwaki.spaces.errors import InputError, nearest

__all__ = ["Config", "load_config", "parse_config", "packaged_configs", "to_yaml"]


def load_config(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration and apply ``--set`` overrides.

    Args:
        path_or_name: a YAML file; a name without suffix is one of the configurations that come with the package.
        overrides: ``"section.key=value"`` texts, the value read as YAML; later ones win.

    Raises:
        InputError: the file is missing or not YAML, a key is unknown or a value is wrong.

    Example:
        >>> load_config("quickstart", ["search.trials=8"]).search.trials
        8
    """
    source, text = _read(path_or_name)
    data = _parsed(text, source)
    if not isinstance(data, dict):
        raise InputError(f"{source}: expected sections such as 'teacher:' and 'budget:', got {type(data).__name__}")
    return parse_config(data, source, overrides)


def parse_config(data: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """Check a mapping as if it had been read from a file called ``source``; InputError as in :func:`load_config`."""
    tree = _copy(data)
    origins: dict[tuple[str, ...], str] = {}
    for override in overrides:
        key, value = _parse_override(override)
        _assign(tree, key, value, override)
        origins[key] = f"--set {_short(override)}"
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        messages = [_describe(detail, source, origins) for detail in error.errors()]
        raise InputError("\n".join(messages)) from None


def to_yaml(config: Config) -> str:
    """The resolved configuration, every key written out; :func:`load_config` reads it back to the same value."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def packaged_configs() -> list[str]:
    """Names of the configurations that come with the package.

    Example:
        >>> "quickstart" in packaged_configs()
        True
    """
    return sorted(f.name.removesuffix(".yaml") for f in resources.files("niwaki.configs").iterdir()
                  if f.name.endswith(".yaml"))


_LARGEST, _DEEPEST, _LONGEST = 20_000, 32, 400
"""Values in a configuration with aliases written out, sections within sections, characters of a value in a message."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; a configuration with two is a mistake."""

    def compose_document(self) -> yaml.Node | None:
        node: yaml.Node | None = super().compose_document()
        if node is not None and _size(node, {}, _DEEPEST) > _LARGEST:
            raise yaml.composer.ComposerError(None, None, f"too large: more than {_LARGEST:,} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is no name (line {line})")
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice (line {line})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a tree has with its aliases written out; few lines can make a billion, or a tree in itself."""
    if not depth:
        raise RecursionError
    if id(node) not in known and isinstance(node, yaml.CollectionNode):
        pairs = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if pairs else node.value
        known[id(node)] = 1 + sum(_size(child, known, depth - 1) for child in children)
    return known.get(id(node), 1)


def _parsed(text: str, source: str) -> Any:
    """What YAML says; its scalars raise ValueError where they look like a date or a number and are none."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except RecursionError:
        raise InputError(f"{source}: not a configuration: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{source}: not valid YAML: {_short(str(error))}") from error


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _read(path_or_name: str | Path) -> tuple[str, str]:
    path = Path(path_or_name)
    if path.suffix or path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except FileNotFoundError:
            near = difflib.get_close_matches(path.stem, packaged_configs(), n=1)
            hint = f"; a configuration called {near[0]!r} comes with the package: use its name" if near else ""
            raise InputError(f"{path}: no such configuration file{hint}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a configuration: {error}") from error
    names = packaged_configs()
    if str(path_or_name) not in names:
        raise InputError(f"configuration: unknown name {str(path_or_name)!r}; {nearest(str(path_or_name), names)}")
    return f"{path_or_name} (packaged)", resources.files("niwaki.configs").joinpath(f"{path_or_name}.yaml").read_text()


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = text.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise InputError(f"--set {text}: expected section.key=value, such as --set train.lr=0.05")
    return parts, _parsed(value, f"--set {_short(text)}")


def _assign(tree: dict[str, Any], key: tuple[str, ...], value: Any, override: str) -> None:
    for i, part in enumerate(key[:-1]):
        child = tree.setdefault(part, {})
        if child is None:  # an empty section in YAML
            child = tree[part] = {}
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: {'.'.join(key[: i + 1])} is {child!r}, not a section")
        tree = child
    tree[key[-1]] = value


def _describe(detail: ErrorDetails, source: str, origins: Mapping[tuple[str, ...], str]) -> str:
    loc = tuple(str(part) for part in detail["loc"])
    where = next((o for k, o in origins.items() if loc[: len(k)] == k or k[: len(loc)] == loc), source)
    key = ".".join(loc) or "configuration"
    if detail["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key; {nearest(loc[-1], _valid_keys(loc[:-1]))}"
    if detail["type"] == "missing":
        return f"{where}: {key}: this key is required"
    reason = detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    shown = "" if isinstance(value, dict) else f" {_short(repr(value))}:"
    return f"{where}: {key}:{shown} {reason[:1].lower()}{reason[1:]}"


def _valid_keys(loc: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in loc:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
