"""Forwards as text that reads like hand-written PyTorch, at most 120 columns wide."""

from __future__ import annotations

import keyword
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch.utils import _pytree as pytree

from niwaki.search.export._base import ExportError
from niwaki.search.export._py_graph import Flow, Here, Ref, Step
from niwaki.search.export._py_ops import Names, expression
from niwaki.search.export._py_tree import Tree

WIDTH = 120
_TAKEN = frozenset(keyword.kwlist) | {
    "self", "torch", "nn", "F", "math", "json", "Part", "Path", "load", "OrderedDict", "l", "I", "O",
}


def forward(flow: Flow, tree: Tree, name: str) -> list[str]:
    """The lines of one forward method; a value takes over the name of an operand that is not needed any more."""
    return _Writer(flow, tree).method(name)


class _Writer:
    def __init__(self, flow: Flow, tree: Tree) -> None:
        self.knows_paths = any(s.path and not isinstance(s.target, str) for s in flow.steps)
        self.flow, self.tree = flow, tree
        self.names: dict[int, str] = {}
        self.used: dict[str, int] = {}
        self.at = 0
        self.kinds: dict[int, str] = {}
        self.last: dict[int, int] = {}
        self.readers: dict[int, list[int]] = {}
        for i, step in enumerate(flow.steps):
            for index in set(refs((step.args, step.kwargs))):
                self.last[index] = i
                self.readers.setdefault(index, []).append(i)
        for index in refs(flow.outputs):
            self.last[index] = len(flow.steps)

    def method(self, name: str) -> list[str]:
        for i, given in enumerate(self.flow.inputs):
            self.names[i] = self.fresh(input_name(given), i)
            self.kinds[i] = "tensor"
        signature = ", ".join(["self", *(f"{self.names[i]}: Tensor" for i in range(len(self.flow.inputs)))])
        device = f"{self.names[0]}.device"
        if device_needed(self.flow):
            device = self.fresh("device", None)
        lines = [f"    def {name}({signature}) -> Any:"]
        lines += [f"        {device} = {self.names[0]}.device"] if "." not in device else []
        namer = Names(lambda index: self.names[index], self.tree.held, device)
        section, path = "", ""
        for i, step in enumerate(self.flow.steps):
            self.at = i
            path = self.place(step, path)
            text = self.line(i, step, path, namer)
            if text is None:
                continue
            if path != section:
                lines.append(f"        # {path}" if path else "")
                section = path
            lines += wrapped("        " + text)
        result = rebuilt([namer.text(value) for value in self.flow.outputs], self.flow.spec)
        return [*lines, *wrapped(f"        return {result}")]

    def place(self, step: Step, before: str) -> str:
        """The section of a step; where the trace does not say, that of the layer before it."""
        if not step.path and not isinstance(step.target, str):
            return "" if self.knows_paths else before
        return self.tree.section(step.path)

    def line(self, i: int, step: Step, path: str, namer: Names) -> str | None:
        index = len(self.flow.inputs) + i
        self.kinds[index] = step.kind
        if index in self.names:  # an item that was unpacked
            return None
        if isinstance(step.target, str) and step.target.startswith("call "):
            text = f"{self.tree.reach(step.target[5:])}({namer.text(step.args[0])})"
        else:
            text = expression(step.target, step.args, step.kwargs, namer)
        if index not in self.last:
            return text if _does_more(step) else None
        items = self.unpacked(index, step)
        if items:
            taken = ["_" if n is None else self.fresh(self.base(path, step), n) for n in items]
            for n, called in zip(items, taken, strict=True):
                if n is not None:
                    self.names[n] = called
            return f"{', '.join(taken)}{',' if len(taken) == 1 else ''} = {text}"
        self.names[index] = self.take_over(i, step, index) or self.fresh(self.base(path, step), index)
        return f"{self.names[index]} = {text}"

    def unpacked(self, index: int, step: Step) -> list[int | None]:
        """The values that items of a list become, where nothing else is done with the list."""
        if step.kind != "list" or index in refs(self.flow.outputs):
            return []
        items: dict[int, int] = {}
        for reader in self.readers[index]:
            user = self.flow.steps[reader]
            if "getitem" not in str(user.target) or not isinstance(user.args[1], int) or user.args[1] in items:
                return []
            items[user.args[1]] = len(self.flow.inputs) + reader
        length = step.count
        return [items.get(k) for k in range(length)] if length else []

    def take_over(self, i: int, step: Step, index: int) -> str | None:
        """The oldest name among operands that are not needed any more: so the main stream keeps its name."""
        if step.kind != "tensor":
            return None
        free = {r for r in refs((step.args, step.kwargs)) if self.last[r] == i and self.kinds[r] == "tensor"}
        names = {self.names[r] for r in free}
        name = next((n for n in self.used if n in names), None)
        if name is not None:
            self.used[name] = self.last[index]
        return name

    def base(self, path: str, step: Step) -> str:
        if step.kind == "scalar":
            return "batch" if step.args[1:] == (0,) and "sym_size" in str(step.target) else "size"
        called = str(step.target)[5:] if str(step.target).startswith("call ") else ""
        words = [w for w in (path or called).split(".") if not w.isdigit()]
        return re.sub(r"_\d+$", "", words[-1]) if words else "y"

    def fresh(self, wanted: str, index: int | None) -> str:
        """A name that nobody needs any more, until value ``index`` is last used (None: for good)."""
        name = re.sub(r"\W", "_", wanted) or "y"
        name = f"x{name}" if name[0].isdigit() else name
        number, made = 1, name
        while made in _TAKEN or self.used.get(made, -1) > self.at:
            number += 1
            made = f"{name}_{number}"
        self.used[made] = len(self.flow.steps) + 1 if index is None else self.last.get(index, -1)
        return made


def _does_more(step: Step) -> bool:
    """Whether a step whose result nobody reads still matters: it writes into a tensor."""
    schema = getattr(step.target, "_schema", None)
    return isinstance(step.target, str) or (schema is not None and bool(schema.is_mutable))


def input_name(given: str) -> str:
    """``input`` is a function of Python's own."""
    return "x" if given == "input" else given


def device_needed(flow: Flow) -> bool:
    return any(isinstance(leaf, Here) for s in flow.steps for leaf in pytree.tree_leaves((s.args, dict(s.kwargs))))


def refs(value: Any) -> Iterator[int]:
    if isinstance(value, Ref):
        yield value.index
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from refs(item)
    elif isinstance(value, dict):
        yield from refs(list(value.values()))


class _Text(str):
    pass


def rebuilt(outputs: list[str], spec: Any) -> str:
    """The text of what the model returns, of the text of its tensors."""
    return _structure(pytree.tree_unflatten([_Text(o) for o in outputs], spec))


def _structure(value: Any) -> str:
    if isinstance(value, _Text):
        return str(value)
    if type(value) in (dict, OrderedDict):
        inner = "{" + ", ".join(f'{_key(k)}: {_structure(v)}' for k, v in value.items()) + "}"
        return inner if type(value) is dict else f"OrderedDict({inner})"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(map(_structure, value))})"
    if type(value) is tuple:
        return f"({', '.join(map(_structure, value))}{',' if len(value) == 1 else ''})"
    if type(value) is list:
        return f"[{', '.join(map(_structure, value))}]"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise ExportError(f"python: the model returns a {type(value).__name__}, which a file without its class cannot")


def _key(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) and re.fullmatch(r"[\w .-]*", key) else repr(key)


def named_tuples(spec: Any) -> dict[str, tuple[str, ...]]:
    """Name and fields of the named tuples in an output."""
    found: dict[str, tuple[str, ...]] = {}

    def look(value: Any) -> None:
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            found[type(value).__name__] = value._fields
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        for item in items:
            look(item)

    look(pytree.tree_unflatten([_Text("")] * spec.num_leaves, spec))
    return found


def wrapped(line: str) -> list[str]:
    """A line, or the same with what is inside its last outer bracket on lines of its own."""
    if len(line) <= WIDTH:
        return [line]
    indent = len(line) - len(line.lstrip())
    spans = list(_brackets(line))
    if not spans:
        return [line]
    start, end, commas = max(spans, key=lambda s: s[1] - s[0])
    pieces = [line[a + 1 : b].strip() for a, b in zip([start, *commas], [*commas, end], strict=True)]
    rows, row = [], " " * (indent + 4)
    for piece in filter(None, pieces):
        if row.strip() and len(row) + len(piece) + 1 > WIDTH:
            rows.append(row.rstrip())
            row = " " * (indent + 4)
        row += piece + ", "
    call = len(pieces) > 1 or line[start - 1].isalnum()
    rows.append(row.rstrip() if call else row.rstrip().removesuffix(","))
    inner = [out for r in rows for out in wrapped(r)]
    return [line[: start + 1], *inner, " " * indent + line[end:]]


def _brackets(line: str) -> Iterator[tuple[int, int, list[int]]]:
    """Outermost brackets outside of strings: where they open and close, and the commas directly inside."""
    depth, start, quote = 0, 0, ""
    commas: list[int] = []
    for i, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote and line[i - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
            if depth == 1:
                start, commas = i, []
        elif letter in ")]}":
            depth -= 1
            if depth == 0:
                yield start, i, commas
        elif letter == "," and depth == 1:
            commas.append(i)
