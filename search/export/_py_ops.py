"""How an operator is written by hand; what is not listed is written as ``torch.ops.aten...``, which does the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from niwaki.search.export._base import ExportError
from niwaki.search.export._py_graph import Either, Held, Here, Ref
from niwaki.search.export._py_layers import bind, short, text_of_target

INFIX = {
    "aten.add.Tensor": "+", "aten.add.Scalar": "+", "aten.sub.Tensor": "-", "aten.sub.Scalar": "-",
    "aten.mul.Tensor": "*", "aten.mul.Scalar": "*", "aten.div.Tensor": "/", "aten.div.Scalar": "/",
    "aten.matmul.default": "@", "aten.pow.Tensor_Scalar": "**", "aten.pow.Tensor_Tensor": "**",
    "aten.eq.Tensor": "==", "aten.eq.Scalar": "==", "aten.ne.Tensor": "!=", "aten.ne.Scalar": "!=",
    "aten.lt.Tensor": "<", "aten.lt.Scalar": "<", "aten.le.Tensor": "<=", "aten.le.Scalar": "<=",
    "aten.gt.Tensor": ">", "aten.gt.Scalar": ">", "aten.ge.Tensor": ">=", "aten.ge.Scalar": ">=",
}
SYMBOLIC: dict[Any, str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.truediv: "/",
    operator.mod: "%", operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=",
    operator.gt: ">", operator.ge: ">=",
}
_F = """relu silu gelu hardswish hardsigmoid hardtanh relu6 leaky_relu elu selu celu softplus mish glu dropout
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d pad linear prelu pixel_shuffle pixel_unshuffle
    scaled_dot_product_attention conv1d conv2d conv3d one_hot softsign hardshrink softshrink"""
_INPLACE = "relu silu hardswish hardsigmoid hardtanh relu6 leaky_relu elu selu celu mish dropout"
_TORCH = """cat stack sigmoid tanh exp log sqrt rsqrt sin cos erf floor ceil round bmm where einsum maximum minimum
    clamp cumsum addmm baddbmm outer isnan logical_not logical_and logical_or tril triu zeros ones full empty arange
    zeros_like ones_like full_like square reciprocal sign log1p expm1 argmax topk meshgrid"""
_METHODS = """view reshape permute transpose contiguous flatten unflatten mean sum unsqueeze squeeze expand repeat chunk
    split split_with_sizes unbind clone detach masked_fill roll amax amin abs flip expand_as type_as repeat_interleave
    index_select gather new_empty new_zeros new_ones new_full add_ mul_ div_ sub_ fill_ masked_fill_ detach_ to softmax
    log_softmax t movedim swapaxes std var max min prod bernoulli_ copy_ add sub mul div"""
_RENAMED = {"split_with_sizes": "split"}
_SPREAD = frozenset({"view", "reshape", "permute", "expand", "repeat"})
_EVEN = frozenset({"kernel_size", "stride", "padding", "dilation", "output_size"})
_NAMED = _EVEN | {"dim", "value", "keepdim", "mode", "end_dim", "eps", "max"}
_QUIET = frozenset({"layout", "pin_memory", "implicit"})
"""Arguments that torch.export spells out and nobody writes."""
_KEYWORDS = {"train": "training", "split_sizes": "split_size"}
FORMS: dict[str, tuple[str, str]] = {
    **{name: ("F", name) for name in _F.split()},
    **{f"{name}_": ("F", name) for name in _INPLACE.split()},
    **{name: ("torch", name) for name in _TORCH.split()},
    **{name: ("method", _RENAMED.get(name, name)) for name in _METHODS.split()},
}
OVERLOADS = frozenset({
    "default", "Tensor", "Scalar", "int", "dim", "dims", "dim_IntList", "using_ints", "self", "self_int", "dim_int",
    "start", "start_step", "device", "dtype", "other", "float", "correction", "ScalarOther", "ScalarSelf", "sizes",
    "Tensor_mode", "indices", "memory_format",
})  # fmt: skip


@dataclass(frozen=True)
class Names:
    """How values and held tensors are called in the text, and what may stand for the device of the data."""

    value: Callable[[int], str]
    held: Callable[[str], str]
    device: str

    def text(self, value: Any) -> str:
        """An argument as Python."""
        if isinstance(value, Ref):
            return self.value(value.index)
        if isinstance(value, Held):
            return self.held(value.key)
        if isinstance(value, Here):
            return self.device
        if isinstance(value, Either):
            if value.train is True and value.eval is False:
                return "self.training"
            return f"({self.text(value.train)} if self.training else {self.text(value.eval)})"
        if isinstance(value, (list, tuple)):
            inner = ", ".join(map(self.text, value))
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
        return _literal(value)

    def operand(self, value: Any) -> str:
        text = self.text(value)
        return f"({text})" if text.startswith("-") else text


def _literal(value: Any) -> str:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return f'float("{value}")'
    if isinstance(value, str):
        return '"' + repr(value)[1:-1].replace('"', '\\"') + '"'
    return repr(value)  # numbers, None, dtypes, layouts and memory formats are written as they print


def expression(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Names) -> str:
    """One operation as a Python expression."""
    name = text_of_target(target)
    if target in SYMBOLIC:
        return f"{names.operand(args[0])} {SYMBOLIC[target]} {names.operand(args[1])}"
    if target is operator.getitem:
        return f"{names.text(args[0])}[{names.text(args[1])}]"
    if target is operator.neg:
        return f"-{names.text(args[0])}"
    if name == "[]":
        return _index(args, names)
    if not name.startswith("aten."):
        raise ExportError(f"python: operation {name} is not torch's own, and the file needs torch alone")
    if name in INFIX and len(args) == 2 and not kwargs:
        return f"{names.operand(args[0])} {INFIX[name]} {names.operand(args[1])}"
    special = SPECIAL.get(name)
    text = special(bind(target, args, kwargs), names) if special else None
    return text or _listed(target, args, kwargs, names) or _plain(name, args, kwargs, names)


def _plain(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Names) -> str:
    given = [*map(names.text, args), *(f"{k}={names.text(v)}" for k, v in kwargs.items())]
    return f"torch.ops.{name}({', '.join(given)})"


def _listed(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Names) -> str | None:
    _, op, overload = text_of_target(target).split(".")
    if op not in FORMS or overload not in OVERLOADS:
        return None
    home, called = FORMS[op]
    given: list[str] = []
    first, skipped = "", False
    for i, argument in enumerate(target._schema.arguments):
        present = i < len(args) or argument.name in kwargs
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        if i == 0 and home == "method":
            first = names.operand(value)
            continue
        if not present or argument.name in _QUIET or (argument.has_default_value() and _is(value, argument)):
            skipped = True
            continue
        if argument.name in _EVEN:
            value = short(value)
        if called in _SPREAD and i == 1 and isinstance(value, (list, tuple)) and value:
            given.extend(map(names.text, value))
            continue
        named = argument.kwarg_only or skipped or isinstance(value, (bool, Either))
        named = named or (i >= 2 and argument.name in _NAMED and not isinstance(value, Ref))
        label = f"{_KEYWORDS.get(argument.name, argument.name)}=" if named else ""
        given.append(label + names.text(value))
    if home == "F" and op.endswith("_"):
        given.append("inplace=True")
    return f"{first if home == 'method' else home}.{called}({', '.join(given)})"


def _is(value: Any, argument: Any) -> bool:
    default = argument.default_value
    return type(value) is type(default) and bool(value == default)


def _index(args: tuple[Any, ...], names: Names) -> str:
    base, taken = args
    items = [":"] * (max(dim for dim, _ in taken) + 1)
    for dim, item in taken:
        if isinstance(item, tuple):
            start, end, step = ("" if v is None else names.text(v) for v in item[1:])
            items[dim] = f"{start}:{end}" + (f":{step}" if step != "1" else "")
        else:
            items[dim] = names.text(item)
    return f"{names.operand(base)}[{', '.join(items)}]"


def _size(a: Mapping[str, Any], names: Names) -> str:
    return f"{names.text(a['self'])}.shape[{names.text(a['dim'])}]"


def _fancy(a: Mapping[str, Any], names: Names) -> str:
    items = [":" if v is None else names.text(v) for v in a["indices"]]
    return f"{names.operand(a['self'])}[{', '.join(items)}]"


def _layer_norm(a: Mapping[str, Any], names: Names) -> str:
    weight = "".join(f", {k}={names.text(a[k])}" for k in ("weight", "bias") if a[k] is not None)
    return f"F.layer_norm({names.text(a['input'])}, {names.text(a['normalized_shape'])}{weight}, eps={a['eps']!r})"


def _batch_norm(a: Mapping[str, Any], names: Names) -> str:
    given = [names.text(a[k]) for k in ("input", "running_mean", "running_var")]
    named = [f"{k}={names.text(a[k])}" for k in ("weight", "bias", "training", "momentum", "eps")]
    return f"F.batch_norm({', '.join(given + named)})"


def _group_norm(a: Mapping[str, Any], names: Names) -> str:
    named = "".join(f", {k}={names.text(a[k])}" for k in ("weight", "bias", "eps"))
    return f"F.group_norm({names.text(a['input'])}, {names.text(a['num_groups'])}{named})"


def _embedding(a: Mapping[str, Any], names: Names) -> str | None:
    if (a["padding_idx"], a["scale_grad_by_freq"], a["sparse"]) != (-1, False, False):
        return None
    return f"F.embedding({names.text(a['indices'])}, {names.text(a['weight'])})"


def _upsample(mode: str) -> Callable[[Mapping[str, Any], Names], str]:
    def text(a: Mapping[str, Any], names: Names) -> str:
        scale = a.get("scale_factors")
        size = f"size={names.text(a['output_size'])}" if a["output_size"] is not None else ""
        size = size or f"scale_factor={names.text(short(scale))}"
        align = f", align_corners={names.text(a['align_corners'])}" if "align_corners" in a else ""
        return f'F.interpolate({names.text(a["input"])}, {size}, mode="{mode}"{align})'

    return text


SPECIAL: dict[str, Callable[[Mapping[str, Any], Names], str | None]] = {
    "aten.sym_size.int": _size,
    "aten.index.Tensor": _fancy,
    "aten.layer_norm.default": _layer_norm,
    "aten.batch_norm.default": _batch_norm,
    "aten.group_norm.default": _group_norm,
    "aten.embedding.default": _embedding,
    "aten.feature_dropout.default": lambda a, n: (
        f"torch.feature_dropout({n.text(a['input'])}, {n.text(a['p'])}, {n.text(a['train'])})"
    ),
    "aten.lift_fresh_copy.default": lambda a, n: f"{n.operand(a['self'])}.clone()",
    "aten.neg.default": lambda a, n: f"-{n.operand(a['self'])}",
    "aten.upsample_nearest1d.vec": _upsample("nearest"),
    "aten.upsample_nearest2d.vec": _upsample("nearest"),
    "aten.upsample_nearest3d.vec": _upsample("nearest"),
    "aten.upsample_bilinear2d.vec": _upsample("bilinear"),
    "aten.upsample_bicubic2d.vec": _upsample("bicubic"),
}
