"""Which operations of a traced program are calls of ordinary layers, and the constructors of those layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from niwaki.spaces.trace import Mode, Program, module_path

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Tensors:
    """Every tensor of a model by key, and the keys that name the same tensor."""

    values: Mapping[str, Tensor]
    aliases: Mapping[str, tuple[str, ...]]


@dataclass
class Calls:
    """What of one program is done by calling layers: node -> (path, input node), and nodes that vanish with it."""

    layers: dict[fx.Node, tuple[str, Any]] = field(default_factory=dict)
    absorbed: set[fx.Node] = field(default_factory=set)


@dataclass(frozen=True)
class _Use:
    """One operation that could be a layer's. ``right``: the layer would do just this in this mode."""

    mode: Mode
    node: fx.Node
    data: Any
    path: str
    text: str
    right: bool


def text_of_target(target: Any) -> str:
    """``aten.conv2d.default`` of an operator."""
    return str(target)


def bind(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """Arguments by their names in the operator's schema, defaults included."""
    given: Arguments = {}
    for i, argument in enumerate(target._schema.arguments):
        if i < len(args):
            given[argument.name] = args[i]
        else:
            given[argument.name] = kwargs.get(argument.name, argument.default_value)
    return given


def find_layers(
    programs: Mapping[Mode, Program], keys: Mapping[Mode, Mapping[str, str]], tensors: Tensors
) -> tuple[dict[str, str], dict[Mode, Calls]]:
    """Path -> constructor of each layer, and the calls of each program.

    A path is a layer where its tensors are exactly those of the layer and every operation of this kind on them is
    what the layer does in that mode. Another kind of operation on the same tensors just reads them.
    """
    uses = [use for mode, program in programs.items() for use in _uses(mode, program, keys[mode], tensors)]
    layers: dict[str, str] = {}
    for use in uses:
        layers.setdefault(use.path, use.text)
    counters = {m: _counters(p, keys[m]) for m, p in programs.items()}
    for path, text in list(layers.items()):
        same = [u for u in uses if u.path == path and u.text == text]
        counted = path + ".num_batches_tracked" in tensors.values
        calls = sum(u.mode == "train" for u in same) if counted else 0
        if not all(u.right for u in same) or sum(len(c.get(path, [])) for c in counters.values()) != calls:
            del layers[path]
    made = {mode: Calls() for mode in programs}
    for use in uses:
        if layers.get(use.path) == use.text:
            made[use.mode].layers[use.node] = (use.path, use.data)
            made[use.mode].absorbed.update(counters[use.mode].get(use.path, []))
    return layers, made


def _uses(mode: Mode, program: Program, keys: Mapping[str, str], tensors: Tensors) -> Iterator[_Use]:
    for node in program.graph.nodes:
        kind = LAYERS.get(text_of_target(node.target)) if node.op == "call_function" else None
        if kind is None:
            continue
        given = bind(node.target, node.args, node.kwargs)
        roles, data = {}, given[kind.data]
        for role in kind.roles:
            value = given.get(role)
            if value is not None:
                roles[role] = keys.get(value.name, "") if isinstance(value, fx.Node) else ""
        path = _path(node, roles, tensors)
        if path is None or not isinstance(data, fx.Node):
            continue
        shapes = {role: list(tensors.values[f"{path}.{role}"].shape) for role in roles}
        rank = len(data.meta["val"].shape)
        text = kind.text(given, shapes, rank)
        right = text is not None and (kind.right is None or kind.right(given, mode))
        if text is not None:
            yield _Use(mode, node, data, path, text, right)


def _path(node: fx.Node, roles: Mapping[str, str], tensors: Tensors) -> str | None:
    """The module whose tensors are exactly those in their roles; the one being traced where tied ones compete."""
    found = []
    first = next(iter(roles), None)
    for key in tensors.aliases.get(roles[first], ()) if first else ():
        path, _, name = key.rpartition(".")
        if name != first or not path:
            continue
        wanted = {f"{path}.{role}" for role in roles}
        own = {k for k in tensors.values if k.startswith(path + ".")} - {f"{path}.num_batches_tracked"}
        if own == wanted and all(f"{path}.{r}" in tensors.aliases.get(k, ()) for r, k in roles.items()):
            found.append(path)
    here = module_path(node)
    return here if here in found else found[0] if found else None


def _counters(program: Program, keys: Mapping[str, str]) -> dict[str, list[fx.Node]]:
    """Path -> the operations that count its batches (BatchNorm in train mode)."""
    found: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if text_of_target(node.target) == "aten.add_.Tensor" and isinstance(node.args[0], fx.Node):
            path, _, name = keys.get(node.args[0].name, "").rpartition(".")
            if name == "num_batches_tracked" and node.args[1:] == (1,) and not node.users:
                found.setdefault(path, []).append(node)
    return found


Shapes = Mapping[str, list[int]]
_Text = Callable[[Arguments, Shapes, int], "str | None"]


@dataclass(frozen=True)
class _Kind:
    """How one operator reads as a layer. ``right``: does the layer do this in this mode?"""

    data: str
    roles: tuple[str, ...]
    text: _Text
    right: Callable[[Arguments, Mode], bool] | None = None


def short(value: Any) -> Any:
    """``[3, 3]`` as 3; other lists as tuples."""
    if isinstance(value, (list, tuple)) and value:
        return value[0] if all(v == value[0] for v in value) else tuple(value)
    return value


def _call(name: str, given: tuple[Any, ...], **options: tuple[Any, Any]) -> str | None:
    """Text of a constructor; options (value, default) only where they differ. None where a size is symbolic."""
    more = [(k, v) for k, (v, default) in options.items() if v != default]
    if any(isinstance(v, (fx.Node, torch.SymInt)) for v in (*given, *(v for _, v in more))):
        return None
    return f"nn.{name}({', '.join([*map(repr, given), *(f'{k}={v!r}' for k, v in more)])})"


def _conv(a: Arguments, s: Shapes, rank: int) -> str | None:
    weight = s["weight"]
    if rank != len(weight):
        return None
    sizes = (weight[1] * a["groups"], weight[0], short(weight[2:]))
    return _call(
        f"Conv{rank - 2}d", sizes, stride=(short(a["stride"]), 1), padding=(short(a["padding"]), 0),
        dilation=(short(a["dilation"]), 1), groups=(a["groups"], 1), bias=("bias" in s, True),
    )


def _conv_transpose(a: Arguments, s: Shapes, rank: int) -> str | None:
    weight = s["weight"]
    if rank != len(weight):
        return None
    sizes = (weight[0], weight[1] * a["groups"], short(weight[2:]))
    return _call(
        f"ConvTranspose{rank - 2}d", sizes, stride=(short(a["stride"]), 1), padding=(short(a["padding"]), 0),
        output_padding=(short(a["output_padding"]), 0), dilation=(short(a["dilation"]), 1),
        groups=(a["groups"], 1), bias=("bias" in s, True),
    )


def _linear(a: Arguments, s: Shapes, rank: int) -> str | None:
    return _call("Linear", (s["weight"][1], s["weight"][0]), bias=("bias" in s, True))


def _batch_norm(a: Arguments, s: Shapes, rank: int) -> str | None:
    affine, tracked = ("weight" in s, "bias" in s), ("running_mean" in s, "running_var" in s)
    if len(set(affine)) > 1 or len(set(tracked)) > 1 or rank not in (2, 3, 4, 5):
        return None
    return _call(
        f"BatchNorm{max(rank - 2, 1)}d", (next(iter(s.values()))[0],), eps=(a["eps"], 1e-5),
        momentum=(a["momentum"], 0.1), affine=(affine[0], True), track_running_stats=(tracked[0], True),
    )


def _batch_norm_right(a: Arguments, mode: Mode) -> bool:
    return bool(a["training"]) == (mode == "train" or a["running_mean"] is None)


def _layer_norm(a: Arguments, s: Shapes, rank: int) -> str | None:
    shape = a["normalized_shape"]
    return _call("LayerNorm", (shape[0] if len(shape) == 1 else tuple(shape),), eps=(a["eps"], 1e-5),
                 bias=("bias" in s, True))


def _rms_norm(a: Arguments, s: Shapes, rank: int) -> str | None:
    shape = a["normalized_shape"]
    return _call("RMSNorm", (shape[0] if len(shape) == 1 else tuple(shape),), eps=(a["eps"], None))


def _group_norm(a: Arguments, s: Shapes, rank: int) -> str | None:
    if len(s) != 2:
        return None
    return _call("GroupNorm", (a["num_groups"], s["weight"][0]), eps=(a["eps"], 1e-5))


def _embedding(a: Arguments, s: Shapes, rank: int) -> str | None:
    padding = None if a["padding_idx"] == -1 else a["padding_idx"]
    return _call("Embedding", tuple(s["weight"]), padding_idx=(padding, None),
                 scale_grad_by_freq=(a["scale_grad_by_freq"], False), sparse=(a["sparse"], False))


def _prelu(a: Arguments, s: Shapes, rank: int) -> str | None:
    return _call("PReLU", (s["weight"][0],)) if len(s["weight"]) == 1 else None


_WB = ("weight", "bias")
LAYERS: dict[str, _Kind] = {
    **{f"aten.conv{n}d.{o}": _Kind("input", _WB, _conv) for n in (1, 2, 3) for o in ("default", "padding")},
    "aten.conv_transpose1d.default": _Kind("input", _WB, _conv_transpose),
    "aten.conv_transpose2d.input": _Kind("input", _WB, _conv_transpose),
    "aten.conv_transpose3d.input": _Kind("input", _WB, _conv_transpose),
    "aten.linear.default": _Kind("input", _WB, _linear),
    "aten.batch_norm.default": _Kind("input", (*_WB, "running_mean", "running_var"), _batch_norm, _batch_norm_right),
    "aten.layer_norm.default": _Kind("input", _WB, _layer_norm),
    "aten.rms_norm.default": _Kind("input", ("weight",), _rms_norm),
    "aten.group_norm.default": _Kind("input", _WB, _group_norm),
    "aten.embedding.default": _Kind("indices", ("weight",), _embedding),
    "aten.prelu.default": _Kind("self", ("weight",), _prelu),
}
