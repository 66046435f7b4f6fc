"""All hooks of pruning, and the promise that nothing of them stays behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node

from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.types import Group


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout, running statistics used and not updated; every module's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True, eq=False)
class Output:
    """A tapped output: ``value`` as the module returned it, ``node`` the point of the graph where it is passed on."""

    value: Tensor
    node: Node


@dataclass
class Watch:
    """Hooks on the taps' outputs and the consumers' inputs, for the length of a ``with`` block."""

    model: nn.Module
    groups: Sequence[Group]
    outputs: dict[str, list[Output]] = field(default_factory=dict)
    inputs: dict[str, list[Node]] = field(default_factory=dict)
    handles: list[Any] = field(default_factory=list)

    def __enter__(self) -> Watch:
        try:
            for name in dict.fromkeys(tap.module for group in self.groups for tap in group.taps):
                self.handles.append(self._module(name).register_forward_hook(self._tap(name)))
            for name in dict.fromkeys(layer for group in self.groups for layer in consumers(group)):
                self.handles.append(self._module(name).register_forward_pre_hook(self._read(name)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.clear()

    def clear(self) -> None:
        self.outputs.clear()
        self.inputs.clear()

    def _module(self, name: str) -> nn.Module:
        try:
            return self.model.get_submodule(name)
        except AttributeError:
            names = [n for n, _ in self.model.named_modules() if n]
            raise InputError(f"space: the model has no module {name!r}; {nearest(name, names)}") from None

    def _tap(self, name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return None
            value = output if output.requires_grad else output.detach().requires_grad_()  # a frozen teacher
            passed = value.clone()  # in-place ops downstream (relu_, +=) must not change what was seen here
            assert passed.grad_fn is not None
            self.outputs.setdefault(name, []).append(Output(value, passed.grad_fn))
            return passed

        return hook

    def _read(self, name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            nodes = [a.grad_fn for a in args if isinstance(a, Tensor) and a.grad_fn is not None]
            self.inputs.setdefault(name, []).extend(nodes)

        return hook


def consumers(group: Group) -> list[str]:
    """Modules that hold a tensor in which the units are input channels."""
    return list(dict.fromkeys(s.tensor.rpartition(".")[0] for s in group.slices if s.side == "consumes"))
