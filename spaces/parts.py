"""Models that torch.export refuses as a whole (detectors): the submodules that it takes, side by side as one module."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from niwaki.spaces.errors import InputError
from niwaki.spaces.trace import BATCH, exported, restored_modes


@dataclass(frozen=True, eq=False)
class Part:
    """One submodule: its ``path``, how many input tensors it takes, and how they nest."""

    path: str
    inputs: int
    spec: Any


class Parts(nn.Module):
    """Submodules of a model under their own paths; takes the inputs of all, one after another, and returns all outputs.

    State-dict keys are the model's. What lies between the parts (anchors, proposals, sorting) is not here.
    """

    def __init__(self, model: nn.Module, parts: Iterable[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        for part in self.parts:
            *path, name = part.path.split(".")
            home: nn.Module = self
            for step in path:
                if step not in home._modules:
                    home.add_module(step, nn.Module())
                home = home.get_submodule(step)
            home.add_module(name, model.get_submodule(part.path))
        self.training = model.training

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        for part in self.parts:
            mine, tensors = tensors[: part.inputs], tensors[part.inputs :]
            result = self.get_submodule(part.path)(*pytree.tree_unflatten(list(mine), part.spec))
            found.extend(t for t in pytree.tree_leaves(result) if isinstance(t, Tensor))
        return tuple(found)

    def grafted(self, model: nn.Module) -> nn.Module:
        """A copy of ``model`` with these parts in the place of its own."""
        memo: dict[int, object] = {
            id(model.get_submodule(part.path)): self.get_submodule(part.path) for part in self.parts
        }
        with restored_modes(model):
            return copy.deepcopy(model, memo)


def find_parts(model: nn.Module, example: tuple[Tensor, ...], why: InputError) -> tuple[Parts, tuple[Tensor, ...]]:
    """The largest submodules that run once, on tensors of the example's batch, and that torch.export takes.

    Returns:
        The parts, and what they were given when the whole model ran on the example.

    Raises:
        InputError: ``why`` (what torch.export said of the whole model), where the model does not run or has no part.
    """
    calls = _watched(model, example, why)
    found = list(_take(model, "", calls))
    if not found:
        raise why
    tensors = tuple(t for part in found for t in pytree.tree_leaves(calls[part.path][0]))
    return Parts(model, found), tensors


def _watched(model: nn.Module, example: tuple[Tensor, ...], why: InputError) -> dict[str, list[Any]]:
    """Module path -> the arguments of each of its calls in one run on the example."""
    calls: dict[str, list[Any]] = {}
    hooks = []
    for path, module in model.named_modules():

        def note(_: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            calls.setdefault(path, []).append(None if kwargs else args)

        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with restored_modes(model), torch.no_grad():
            model.eval()(*example)
    except Exception as error:
        raise why from error
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _take(model: nn.Module, path: str, calls: dict[str, list[Any]]) -> Iterable[Part]:
    """Depth first; a module that was called several times is not looked into: what it holds is shared."""
    for name, child in model.get_submodule(path).named_children():
        inner = f"{path}.{name}" if path else name
        if next(child.parameters(), None) is None:
            continue
        mine = calls.get(inner, [])
        part = _part(child, inner, mine[0]) if len(mine) == 1 else None
        if part is not None:
            yield part
        elif len(mine) <= 1:
            yield from _take(model, inner, calls)


def _part(module: nn.Module, path: str, args: Any) -> Part | None:
    if args is None:
        return None
    leaves, spec = pytree.tree_flatten(args)
    if not leaves or not all(isinstance(t, Tensor) and t.dim() and t.shape[0] == BATCH for t in leaves):
        return None
    return Part(path, len(leaves), spec) if _exports(module, args) else None


def _exports(module: nn.Module, args: Any) -> bool:
    with restored_modes(module):
        try:
            exported(module.eval(), args)
        except Exception:  # torch.export raises many kinds; all mean that its children are to be tried
            return False
    return True
