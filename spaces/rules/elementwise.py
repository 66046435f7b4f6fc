"""Operations that work position by position: activations keep every dimension, arithmetic broadcasts."""

from __future__ import annotations

from niwaki.spaces import axes
from niwaki.spaces.passes import Call, Rule
from niwaki.spaces.rules.linear import broadcast


def unary(call: Call) -> None:
    dims = call.dims(call.arg(0, "self", call.arg(0, "input")))
    call.out(dims)
    call.row("elementwise", [], (dims[1], dims[1]) if len(dims) > 1 else ((), ()), dims[2:])


def unary_like(call: Call) -> None:
    """``(x, other)``: only the type or the device of ``other`` is read."""
    call.dims(call.node.args[1])
    unary(call)


def broadcasting(call: Call) -> None:
    operands = [call.dims(a) for a in (*call.node.args, *call.node.kwargs.values()) if call.is_tensor(a)]
    dims = broadcast(call, *operands)
    call.out(dims)
    call.row("elementwise", [], (dims[1], dims[1]) if len(dims) > 1 else ((), ()), dims[2:])


def prelu(call: Call) -> None:
    """``(x, weight)``: one slope for all channels, or one each."""
    dims, weight = call.dims(call.arg(0, "self")), call.arg(1, "weight")
    slopes = call.dims(weight)[0]
    if axes.dim_size(slopes) > 1:
        call.unify(dims[1], slopes)
        call.carries(weight)
    call.out(dims)


def softmax(call: Call) -> None:
    """Over units it shares one among those that stay: a removed unit weighs nothing, a zero one would weigh ``e^0``."""
    dims = call.dims(call.arg(0, "self"))
    call.over_kept(dims[call.arg(1, "dim")])
    call.out(dims)


def running(call: Call) -> None:
    """``cumsum`` and the like: what comes later reads what came before, so nothing may go."""
    dims = call.dims(call.arg(0, "self"))
    call.pin(dims[call.arg(1, "dim")], f"{call.node.target} runs over it")
    call.out(dims)


def copy(call: Call) -> None:
    """``(into, from)``: what is written holds the units of what it is written into."""
    into = call.dims(call.node.args[0])
    broadcast(call, into, call.dims(call.node.args[1]))
    call.out(into)


def shapeless(call: Call) -> None:
    """Reads sizes or makes new data: no units flow."""
    for value in call.node.all_input_nodes:
        if call.is_tensor(value):
            call.dims(value)


_UNARY = [
    "relu.default",
    "relu_.default",
    "relu6.default",
    "relu6_.default",
    "silu.default",
    "silu_.default",
    "gelu.default",
    "sigmoid.default",
    "sigmoid_.default",
    "tanh.default",
    "hardtanh.default",
    "hardtanh_.default",
    "hardswish.default",
    "hardswish_.default",
    "hardsigmoid.default",
    "hardsigmoid_.default",
    "leaky_relu.default",
    "leaky_relu_.default",
    "elu.default",
    "elu_.default",
    "mish.default",
    "mish_.default",
    "softplus.default",
    "selu.default",
    "selu_.default",
    "celu.default",
    "log_sigmoid.default",
    "exp.default",
    "neg.default",
    "dropout.default",
    "dropout_.default",
    "feature_dropout.default",
    "alpha_dropout.default",
    "contiguous.default",
    "clone.default",
    "alias.default",
    "detach.default",
    "detach_.default",
    "abs.default",
    "sqrt.default",
    "rsqrt.default",
    "square.default",
    "clamp.default",
    "clamp_.default",
    "clamp_min.default",
    "to.dtype",
    "to.device",
    "to.dtype_layout",
    "bernoulli.p",
    "bernoulli_.float",
    "fill_.Scalar",
    "fill.Scalar",
    "zero_.default",
    "zero.default",
    "empty_like.default",
    "rand_like.default",
    "randn_like.default",
    "sin.default",
    "cos.default",
    "erf.default",
    "log.default",
    "log1p.default",
    "expm1.default",
    "reciprocal.default",
    "sign.default",
    "floor.default",
    "round.default",
    "nan_to_num.default",
    "isinf.default",
    "isnan.default",
    "relu6_.default",
    "hardshrink.default",
    "softshrink.default",
    "softsign.default",
    "clamp_max.default",
    "clamp_min_.default",
    "bernoulli.default",
    "bitwise_not.default",
    "native_dropout.default",
    "zeros_like.default",
    "ones_like.default",
    "logical_not.default",
    "pow.Tensor_Scalar",
    "lift_fresh_copy.default",
]
_BINARY = [
    *("add", "sub", "rsub", "mul", "div", "floor_divide", "remainder", "fmod", "pow", "atan2", "maximum", "minimum"),
    *("eq", "ne", "ge", "gt", "le", "lt", "logical_and", "logical_or", "bitwise_and", "bitwise_or"),
]

RULES: dict[str, Rule] = {
    **{f"aten.{name}": unary for name in _UNARY},
    **{
        f"aten.{name}{mark}.{form}": broadcasting
        for name in _BINARY
        for mark in ("", "_")
        for form in ("Tensor", "Scalar", "default")
    },
    "aten.addcmul.default": broadcasting,
    "aten.prelu.default": prelu,
    "aten.where.self": broadcasting,
    "aten.where.ScalarOther": broadcasting,
    "aten.where.ScalarSelf": broadcasting,
    "aten.where.Scalar": broadcasting,
    "aten.lerp.Tensor": broadcasting,
    "aten.lerp.Scalar": broadcasting,
    **{f"aten.masked_fill{mark}.{form}": broadcasting for mark in ("", "_") for form in ("Scalar", "Tensor")},
    "aten.copy_.default": copy,
    "aten.copy.default": copy,
    "aten.type_as.default": unary_like,
    "aten.to.other": unary_like,
    **{f"aten.{name}.default": running for name in ("cumsum", "cumprod", "logcumsumexp")},
    "aten.softmax.int": softmax,
    "aten._softmax.default": softmax,
    "aten.log_softmax.int": softmax,
    **dict.fromkeys(
        (
            "aten.sym_size.int",
            "aten.empty.memory_format",
            "aten.zeros.default",
            "aten.ones.default",
            "aten.arange.default",
            "aten._assert_tensor_metadata.default",
            "aten._assert_scalar.default",
        ),
        shapeless,
    ),
}
