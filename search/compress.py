"""The Python API of a search: the same job as ``niwaki search``, from objects or from names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from niwaki.distill import Data, from_datasets
from niwaki.search import controller
from niwaki.search.budget import Budget
from niwaki.search.config import parse_config
from niwaki.search.context import IN_HAND, InHand
from niwaki.search.events import Listener, ignore
from niwaki.search.result import Result
from niwaki.search.shared import data_spec
from niwaki.spaces import InputError


def compress(
    model: nn.Module | str,
    data: Data | tuple[Any, Any] | str,
    budget: Budget | Mapping[str, str | float],
    trials: int = 32,
    settings: Mapping[str, Any] | None = None,
    listener: Listener = ignore,
) -> Result:
    """Search smaller versions of a trained model within a budget, train them, and export the front.

    Args:
        model: a trained classifier (it is left untouched), or a teacher's name as in ``teacher.name``.
        data: a :class:`niwaki.distill.Data`, a (train, test) pair of ``torch.utils.data.Dataset`` with (image, label)
            items, or the name of a source as in ``data.source``.
        budget: ``Budget(latency="3ms", size="50%")`` or the same as a mapping; all of it holds together.
        trials: candidates trained at the first rung.
        settings: any other key of a configuration, ``{"train.lr": 0.05, "run.folder": "out"}`` or nested as in YAML.
        listener: told what happens (:mod:`niwaki.search.events`).

    Raises:
        InputError: something given is wrong; nothing was trained or written.
        niwaki.search.phases.RunError: the run failed.

    Example:
        >>> import tempfile, niwaki
        >>> quick = {"run.folder": tempfile.mkdtemp(), "run.runner": "local", "teacher.train.images": 256,
        ...          "train.rungs": [128], "train.final_images": 256, "search.members": 1, "search.levels": [1.0],
        ...          "export.formats": ["safetensors"]}
        >>> result = niwaki.compress("small_cnn", "digits", {"macs": "50%"}, trials=1, settings=quick)
        >>> result.front[0].cost.macs <= 0.5 * result.teacher_cost.macs
        True
    """
    budget = budget if isinstance(budget, Budget) else _budget(budget)
    tree = _nested(settings or {})
    _put(tree, "search", "trials", trials)
    tree["budget"] = budget.given
    in_hand = InHand()
    if isinstance(model, str):
        _put(tree, "teacher", "name", model)
    else:
        _put(tree, "teacher", "name", IN_HAND)
        in_hand = InHand(model, in_hand.data)
    if isinstance(data, str):
        _put(tree, "data", "source", data)
    elif not isinstance(data, Data):
        plan = parse_config({**tree, "data": tree.get("data", {})}, "settings").data
        in_hand = InHand(in_hand.model, from_datasets(*_pair(data), data_spec(plan)))
    else:
        in_hand = InHand(in_hand.model, data)
    if in_hand.data is not None:
        _put(tree, "data", "source", IN_HAND)
    return controller.search(parse_config(tree, "settings"), listener, in_hand)


def resume(
    folder: str | Path, model: nn.Module | None = None, data: Data | tuple[Any, Any] | None = None,
    listener: Listener = ignore,
) -> Result:
    """Go on with a run that was stopped, however it was: finished trials are kept, the others are done.

    ``model`` and ``data``: the objects that :func:`compress` was given, where it was given objects.

    Example:
        ``niwaki.resume("runs/mine", model=network)``
    """
    if data is not None and not isinstance(data, Data):
        data = from_datasets(*_pair(data), data_spec(Result(folder).config.data))
    return controller.resume(folder, listener, InHand(model, data))


def load(folder: str | Path, model: nn.Module | None = None) -> Result:
    """The result of a run, from its folder. ``model`` where the run was started from one in hand.

    Example:
        ``niwaki.load("runs/quickstart").best(size="50%").load()``
    """
    result = Result(folder, InHand(model))
    if model is None and result.config.teacher.name == IN_HAND:
        raise InputError(
            f"{folder}: the run was started from a model in hand, which a folder cannot hold; pass it: "
            "niwaki.load(folder, model=...)"
        )
    return result


def _budget(values: Mapping[str, str | float]) -> Budget:
    try:
        return Budget(**values)
    except TypeError:
        raise InputError(f"budget: expected latency, macs, params, size and memory, got {', '.join(values)}") from None


def _pair(data: object) -> tuple[Any, Any]:
    if isinstance(data, tuple | list) and len(data) == 2:
        return data[0], data[1]
    found = type(data).__name__
    raise InputError(f"data: expected Data, a (train, test) pair of datasets or the name of a source, got {found}")


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        place = tree
        *sections, last = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        if isinstance(value, Mapping) and isinstance(place.get(last), dict):
            place[last].update(value)
        else:
            place[last] = dict(value) if isinstance(value, Mapping) else value
    return tree


def _put(tree: dict[str, Any], section: str, key: str, value: Any) -> None:
    tree.setdefault(section, {})[key] = value
