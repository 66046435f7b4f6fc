"""Products of two tensors, with or without a sum beside, and einsum: one dimension per letter."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

from niwaki.spaces import axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.passes import Call, Rule
from niwaki.spaces.rules.linear import broadcast


def matmul(call: Call) -> None:
    """``(..., n, k) @ (..., k, m)``; leading dimensions broadcast."""
    a, b = call.dims(call.arg(0, "self")), call.dims(call.arg(1, "other", call.arg(1, "mat2")))
    if len(a) < 2 or len(b) < 2:
        call.give_up("matmul with a vector")
        return
    call.unify(a[-1], b[-2])
    lead = broadcast(call, a[:-2], b[:-2])
    call.out([*lead, a[-2], b[-1]])
    note_roles(call, call.node.args[1], produces=[len(b) - 1], consumes=[len(b) - 2])
    call.row("matmul", [*lead, a[-2], a[-1], b[-1]], (a[-1], b[-1]), [*lead[1:], a[-2]])


def add_product(call: Call) -> None:
    """``addmm`` and ``baddbmm``: ``(bias, a (..., n, k), b (..., k, m))``, the bias broadcasts to ``(..., n, m)``."""
    args: Any = call.node.args
    bias, b = args[0], args[2]
    ad, bd = call.dims(call.node.args[1]), call.dims(b)
    call.unify(ad[-1], bd[-2])
    lead = broadcast(call, ad[:-2], bd[:-2])
    out = [*lead, ad[-2], bd[-1]]
    added = call.dims(bias)
    broadcast(call, out, added)
    if len(added) == 1:
        call.carries(bias)
    note_roles(call, b, produces=[len(bd) - 1], consumes=[len(bd) - 2])
    call.out(out)
    call.row("matmul", [*lead, ad[-2], ad[-1], bd[-1]], (ad[-1], bd[-1]), [*lead[1:], ad[-2]], weight=call.key(b))


def add_vector(call: Call) -> None:
    """``addmv(bias (n), a (n, k), v (k))``."""
    bias, a, v = (call.dims(call.node.args[i]) for i in range(3))
    call.unify(a[1], v[0])
    broadcast(call, bias, [a[0]])
    call.out([a[0]])


def times_vector(call: Call) -> None:
    """``mv(a (n, k), v (k))`` and ``dot(u (k), v (k))``."""
    a, v = (call.dims(call.node.args[i]) for i in range(2))
    call.unify(a[-1], v[0])
    call.out(a[:-1])


def outer(call: Call) -> None:
    """``outer(u (n), v (m))``."""
    call.out([call.dims(call.node.args[0])[0], call.dims(call.node.args[1])[0]])


def einsum(call: Call) -> None:
    """``(equation, tensors)``: a letter is one dimension wherever it stands; letters that are summed just go."""
    tensors: Any = call.arg(1, "tensors")
    dims = [call.dims(t) for t in tensors]
    parsed = _parse(str(call.arg(0, "equation")), [len(d) for d in dims])
    if parsed is None:
        call.give_up("einsum with a diagonal, or with dots of different ranks")
        return
    terms, result = parsed
    letters: dict[str, Dim] = {}
    for term, shape in zip(terms, dims, strict=True):
        for letter, dim in zip(term, shape, strict=True):
            if axes.dim_size(letters.get(letter, axes.ONE)) == 1:
                letters[letter] = dim
            elif axes.dim_size(dim) != 1:
                call.unify(letters[letter], dim)
    call.out([letters[x] for x in result])
    for i, tensor in enumerate(tensors):
        others = {x for k, t in enumerate(terms) if k != i for x in t}
        made = [k for k, x in enumerate(terms[i]) if x in result and x not in others]
        read = [k for k, x in enumerate(terms[i]) if x in others and x not in result]
        note_roles(call, tensor, made, read)
    _rows(call, terms, result, letters)


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str] | None:
    """Letters of every operand and of the result; dots become letters of their own. None where that is not possible."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    extra = {rank - len(t) + 3 for t, rank in zip(terms, ranks, strict=True) if "..." in t}
    if len(extra) > 1:
        return None
    dots = "".join(x for x in ascii_letters if x not in equation)[: extra.pop() if extra else 0]
    if not arrow:
        once = sorted(x for x in set(left) - set(",.") if left.count(x) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    terms = [t.replace("...", dots) for t in terms]
    if any(len(set(t)) != len(t) for t in terms):
        return None
    return terms, right.replace("...", dots)


def _rows(call: Call, terms: Sequence[str], result: str, letters: dict[str, Dim]) -> None:
    """Pairs are multiplied in the order torch takes: MACs = the sizes of all letters that meet, where one is summed."""
    given: Any = call.node.kwargs.get("path")
    path: list[int] = list(given or [])
    left = list(terms)
    while len(left) > 1:
        i, j = sorted(path[:2]) if path else (0, 1)
        path = path[2:]
        b, a = left.pop(j), left.pop(i)
        later = set(result).union(*left)
        summed = [x for x in a if x in b and x not in later]
        kept = [x for x in dict.fromkeys(a + b) if x in later]
        left.append("".join(kept))
        if summed:
            flow = [letters[x] for x in kept]
            _row(call, flow, [letters[x] for x in summed])


def _row(call: Call, flow: list[Dim], summed: list[Dim]) -> None:
    """A product of two; where all that it sums is one position, torch multiplies instead, which counts nothing."""
    places = [d for d in flow[:-1] if not any(a.batch for a in axes.leaves(d))]
    channels = (summed[0], flow[-1] if flow else axes.ONE)
    call.row("matmul", [*flow, *summed], channels, places, summed=tuple(summed))


def note_roles(call: Call, weight: Any, produces: Sequence[int], consumes: Sequence[int]) -> None:
    """What a parameter makes and reads. No channel is noted: no module gives out what it makes."""
    key = call.key(weight)
    if key is not None:
        call.analysis.producers.extend((call.node, key, i) for i in produces)
        call.analysis.consumers.update((key, i) for i in consumes)


RULES: dict[str, Rule] = {
    "aten.matmul.default": matmul,
    "aten.bmm.default": matmul,
    "aten.mm.default": matmul,
    "aten.addmm.default": add_product,
    "aten.baddbmm.default": add_product,
    "aten.addmv.default": add_vector,
    "aten.mv.default": times_vector,
    "aten.dot.default": times_vector,
    "aten.outer.default": outer,
    "aten.ger.default": outer,
    "aten.einsum.default": einsum,
}
