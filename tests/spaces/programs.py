"""Random small networks: hypothesis draws a list of choices; every list is a valid network and prints as text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.spaces.steps import KINDS, RANK, Kind, Shape, Step, channels, gates, layers, odd, places, sequences, vectors
from tests.zoo import randomise

FAMILIES = (layers, gates, channels, places, odd, sequences, vectors)
"""Importing them fills KINDS; a failing program shrinks towards the first of them."""
NAMES = tuple(sorted(KINDS, key=lambda k: [f.__name__ for f in FAMILIES].index(KINDS[k].make.__module__)))

STEPS = 12
RECENT = 4


@dataclass(frozen=True)
class Choice:
    """One drawn step: the kind, which of the recent values it takes (``b``: the second one), and ``n``, its variant."""

    kind: str
    a: int = 0
    b: int = 0
    n: int = 0


@dataclass(frozen=True)
class Plan:
    """A drawn network. ``head``: how it ends (0: one vector of scores; 1: a tuple; 2: a dict); ``size``: pixels."""

    choices: tuple[Choice, ...]
    size: int = 4
    head: int = 0

    def __repr__(self) -> str:
        calls = ", ".join(f"Choice({c.kind!r}, {c.a}, {c.b}, {c.n})" for c in self.choices)
        return f"Plan(({calls},), {self.size}, {self.head})\n{build(self)[0].text}"


@dataclass(frozen=True)
class Line:
    """One executed step: values are numbered in the order they are made."""

    name: str
    step: Step
    takes: tuple[int, ...]
    gives: tuple[int, ...]
    n: int

    def text(self, shapes: list[tuple[int, ...]]) -> str:
        made, taken = (", ".join(f"v{i}" for i in values) for values in (self.gives, self.takes))
        return f"{made} = {self.name}({taken}, n={self.n})  # {' '.join(_sizes(shapes[i]) for i in self.gives)}"


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


class Program(nn.Module):
    """The interpreter of a plan: ``layers`` holds one module a line."""

    def __init__(self, lines: list[Line], shapes: list[tuple[int, ...]], ends: list[int], head: int) -> None:
        super().__init__()
        self.lines, self.ends, self.head, self.shapes = lines, ends, head, shapes
        self.layers = nn.ModuleDict({f"{line.name}_{line.gives[0]}": line.step.layers for line in lines})
        self.scores = nn.ModuleList(nn.Linear(shapes[e][2 if len(shapes[e]) == 3 else 1], 3) for e in ends)

    @property
    def text(self) -> str:
        """The network as a program, one line a step."""
        first = f"v0 = input  # {_sizes(self.shapes[0])}"
        last = f"return {('sum', 'tuple', 'dict')[self.head]} of scores({', '.join(f'v{e}' for e in self.ends)})"
        return "\n".join([first, *(line.text(self.shapes) for line in self.lines), last])

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        values = [x]
        for line, own in zip(self.lines, self.layers.values(), strict=True):
            result = line.step.run(own, *(values[i] for i in line.takes))
            values.extend(result if isinstance(result, tuple) else (result,))
        outs = [score(_pooled(values[e])) for score, e in zip(self.scores, self.ends, strict=True)]
        if self.head == 0:
            return torch.stack(outs).sum(0)
        return tuple(outs) if self.head == 1 else {f"v{e}": out for e, out in zip(self.ends, outs, strict=True)}


def _pooled(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.mean(1) if x.dim() == 3 else x.mean((2, 3))


@torch.no_grad()
def build(plan: Plan) -> tuple[Program, Tensor]:
    """The network in float64, eval mode, no vector at its trivial start; and an input of two examples."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = torch.randn(2, 3, plan.size, plan.size)
    values, lines = [x], list[Line]()
    for choice in (Choice("conv3"), *plan.choices):
        _perform(choice, values, lines)
    taken = {i for line in lines for i in line.takes}
    ends = [i for i in range(len(values)) if i not in taken]
    program = Program(lines, [tuple(v.shape) for v in values], ends, plan.head)
    return randomise(program).double(), x.double()


def _perform(choice: Choice, values: list[Tensor], lines: list[Line]) -> None:
    """Append the line that a choice makes of the values so far; none where the kind does not suit them."""
    kind = KINDS[choice.kind]
    if not _fitting(kind.takes, values) and not _convert(kind.takes, values, lines):
        return
    fitting = _fitting(kind.takes, values)
    first = fitting[-1 - choice.a % min(len(fitting), RECENT)]
    if kind.values == 1:
        _append(kind, choice.n, (first,), values, lines)
        return
    start = choice.b % len(fitting)
    for second in [*fitting[start:], *fitting[:start]][::-1]:
        if _append(kind, choice.n, (first, second), values, lines):
            return


def _fitting(shape: Shape, values: list[Tensor]) -> list[int]:
    """Values of that rank, oldest first; the input itself only feeds the stem."""
    return [i for i, v in enumerate(values) if v.dim() == RANK[shape] and (i > 0 or len(values) == 1)]


def _convert(shape: Shape, values: list[Tensor], lines: list[Line]) -> bool:
    """Make a value of that rank out of the latest one."""
    ways = {
        (4, "sequence"): "to_sequence",
        (4, "vector"): "flatten_linear",
        (3, "vector"): "attention_pool",
        (3, "image"): "to_square",
        (2, "sequence"): "as_sequence",
        (2, "image"): "vector_to_image",
    }
    return _append(KINDS[ways[values[-1].dim(), shape]], 0, (len(values) - 1,), values, lines)


def _append(kind: Kind, n: int, takes: tuple[int, ...], values: list[Tensor], lines: list[Line]) -> bool:
    given = [values[i] for i in takes]
    step = kind.make(*given, n)
    if step is None:
        return False
    result = step.run(step.layers.eval(), *given)
    results = result if isinstance(result, tuple) else (result,)
    lines.append(Line(kind.name, step, takes, tuple(range(len(values), len(values) + len(results))), n))
    values.extend(results)
    return True


def plans(kinds: tuple[str, ...] | None = None, steps: int = STEPS) -> st.SearchStrategy[Plan]:
    """Networks of 1 to ``steps`` steps; failing ones shrink to few steps of early kinds with small numbers."""
    small = st.integers(0, 7)
    choice = st.builds(Choice, st.sampled_from(kinds or NAMES), small, small, small)
    sizes = st.sampled_from((4, 6, 8, 5))
    return st.builds(Plan, st.lists(choice, min_size=1, max_size=steps).map(tuple), sizes, st.integers(0, 2))
