"""The text of ``__init__``: the teacher's module tree with real layers, and how its parts are reached from ``self``."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from niwaki.search.export._py_layers import Tensors

LITERAL = 32
"""Constants of at most so many elements are written into the text, larger ones beside it."""


@dataclass
class Part:
    """A module of the tree. ``layer``: its constructor, where it is one; ``own``: names of its loose tensors."""

    children: dict[str, Part] = field(default_factory=dict)
    own: list[str] = field(default_factory=list)
    layer: str | None = None

    @property
    def kind(self) -> str:
        """How the children are named: ``list`` (0, 1, 2...), ``part`` (attributes) or ``dict`` (anything)."""
        names = list(self.children)
        if names and names == [str(i) for i in range(len(names))]:
            return "list"
        return "part" if all(map(_plain, names)) else "dict"


class Tree:
    """The modules of a model. ``persistent``: the keys of its state dict."""

    def __init__(self, tensors: Tensors, layers: Mapping[str, str], persistent: frozenset[str]) -> None:
        self.tensors, self.persistent = tensors, persistent
        self.root = Part()
        for key in tensors.values:
            path, _, name = key.rpartition(".")
            part = self.root
            for step in path.split(".") if path else ():
                part = part.children.setdefault(step, Part())
            part.layer = layers.get(path)
            if part.layer is None:
                part.own.append(name)
        self.layers = layers
        kinds = {t.dtype for t in self.stored().values() if t.is_floating_point() or t.is_complex()}
        self.dtype = kinds.pop() if len(kinds) == 1 else torch.float32

    @property
    def base(self) -> str:
        """A root whose children are numbered cannot hold them as attributes."""
        return "nn.Module" if self.root.kind == "part" else "nn.ModuleDict"

    def reach(self, path: str) -> str:
        """``self.layer1[0].conv1`` for ``layer1.0.conv1``."""
        text, part = "self", self.root
        for step in path.split(".") if path else ():
            if part.kind == "list" and part is not self.root:
                text += f"[{step}]"
            else:
                text += f".{step}" if part.kind == "part" else f'["{step}"]'
            part = part.children[step]
        return text

    def held(self, key: str) -> str:
        """A parameter or buffer as it is written in a forward."""
        path, _, name = key.rpartition(".")
        if _plain(name):
            return f"{self.reach(path)}.{name}"
        get = "get_parameter" if isinstance(self.tensors.values[key], nn.Parameter) else "get_buffer"
        return f'{self.reach(path)}.{get}("{name}")'

    def section(self, path: str) -> str:
        """The innermost module around ``path`` that has parts."""
        steps, part, best = path.split(".") if path else [], self.root, 0
        for i, step in enumerate(steps):
            if step not in part.children:
                break
            part = part.children[step]
            best = i + 1 if part.children else best
        return ".".join(steps[:best])

    def statements(self) -> list[str]:
        """The body of ``__init__``."""
        lines: list[str] = []
        for name, child in self.root.children.items():
            first, *rest = self._expression(child, name)
            lines += [f"{self.reach(name)} = {first}", *rest]
        loose = [(path, name) for path, part in _walk(self.root, "") for name in part.own]
        lines += [self._tensor(path, name) for path, name in loose if not self._is_literal(_key(path, name))]
        lines += self._ties()
        if self.dtype != torch.float32:
            lines.append(f"self.to({self.dtype})")
        return lines + [self._tensor(path, name) for path, name in loose if self._is_literal(_key(path, name))]

    def needs_part(self) -> bool:
        return any(p.layer is None and p.kind == "part" for path, p in _walk(self.root, "") if path)

    def stored(self) -> dict[str, Tensor]:
        """What lies beside the text: the state dict and the constants that are too large for it."""
        return {k: t for k, t in self.tensors.values.items() if not self._is_literal(k)}

    def _is_literal(self, key: str) -> bool:
        value = self.tensors.values[key]
        small = 0 < value.numel() <= LITERAL and bool(torch.isfinite(value).all()) and not value.is_complex()
        return key not in self.persistent and small

    def _expression(self, part: Part, path: str) -> list[str]:
        if part.layer is not None:
            dtype = self.tensors.values[next(k for k in self.tensors.values if k.startswith(path + "."))].dtype
            return [part.layer if dtype == self.dtype else f"{part.layer[:-1]}, dtype={dtype})"]
        opening, closing = {"list": ("nn.ModuleList([", "])"), "dict": ("nn.ModuleDict({", "})")}.get(
            part.kind, ("Part(", ")")
        )
        if not part.children:
            return [opening + closing]
        lines = [opening]
        for name, child in part.children.items():
            first, *rest = self._expression(child, f"{path}.{name}")
            label = {"list": "", "dict": f'"{name}": '}.get(part.kind, f"{name}=")
            inner = [label + first, *rest]
            inner[-1] += ","
            lines += ["    " + line for line in inner]
        return [*lines, closing]

    def _tensor(self, path: str, name: str) -> str:
        key = _key(path, name)
        value = self.tensors.values[key]
        dtype = "" if value.dtype == self.dtype else f", dtype={value.dtype}"
        zeros = f"torch.zeros({_shape(value)}{dtype})"
        if isinstance(value, nn.Parameter):
            made = f"nn.Parameter({zeros}{'' if value.is_floating_point() else ', requires_grad=False'})"
            if _plain(name):
                return f"{self.reach(path)}.{name} = {made}"
            return f'{self.reach(path)}.register_parameter("{name}", {made})'
        if self._is_literal(key):
            zeros = f"torch.tensor({value.tolist()}, dtype={value.dtype})"
        kept = "" if key in self.persistent else ", persistent=False"
        return f'{self.reach(path)}.register_buffer("{name}", {zeros}{kept})'

    def _ties(self) -> list[str]:
        lines = []
        for key in self.tensors.values:
            first = self.tensors.aliases[key][0]
            if first != key:
                path, _, name = key.rpartition(".")
                if _plain(name):
                    lines.append(f"{self.reach(path)}.{name} = {self.held(first)}")
                else:
                    lines.append(f'setattr({self.reach(path)}, "{name}", {self.held(first)})')
        return lines


def _plain(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _key(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shape(value: Tensor) -> str:
    return ", ".join(map(str, value.shape)) if value.dim() else "()"


def _walk(part: Part, path: str) -> list[tuple[str, Part]]:
    found = [(path, part)]
    for name, child in part.children.items():
        found += _walk(child, f"{path}.{name}" if path else name)
    return found
