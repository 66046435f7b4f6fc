"""A model and an example become two ATen graphs, one per mode, over the model's own parameter names (torch.export)."""

from __future__ import annotations

import copy
import inspect
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from niwaki.spaces.errors import InputError
from niwaki.spaces.regions import inline_regions

Mode = Literal["eval", "train"]
BATCH = 2
"""Batch size of every trace: the smallest that torch.export does not bake in as a constant."""
Example = Tensor | tuple[Tensor, ...]
_TORCH = str(Path(torch.__file__).parent) + os.sep


@dataclass(frozen=True, eq=False)
class Program:
    """One exported graph.

    Attributes:
        mode: ``eval`` or ``train``.
        graph: the ATen graph; parameters, buffers and constants are placeholders.
        keys: placeholder name -> state-dict key, for parameters, buffers and lifted constants.
        inputs: placeholder names of the model's own inputs, in order.
        constants: tensors that are neither parameters nor persistent buffers, by key.
        out_spec: how the flat outputs nest.
        ties: every state-dict key -> the first name of the same tensor (shared weights have several).
    """

    mode: Mode
    graph: fx.Graph
    keys: dict[str, str]
    inputs: tuple[str, ...]
    constants: dict[str, Tensor]
    out_spec: Any
    ties: dict[str, str] = field(default_factory=dict)


def as_tuple(example: Example) -> tuple[Tensor, ...]:
    return example if isinstance(example, tuple) else (example,)


def trace(model: nn.Module, example: Example) -> dict[Mode, Program]:
    """Export ``model`` in eval and in train mode with a dynamic batch dimension.

    The model is left as it was. The train graph is absent where the model cannot be exported in train mode; an
    InputError says why when eval mode fails too.
    """
    args = on_device(model, example)
    programs: dict[Mode, Program] = {}
    with restored_modes(model):
        model.eval()
        try:
            programs["eval"] = _export(model, args, "eval")
        except Exception as error:  # torch.export raises many kinds; the user needs the first line of any of them
            raise InputError(
                f"model {type(model).__name__}: torch.export cannot trace it on inputs of shape "
                f"{[tuple(a.shape) for a in args]}: {str(error).strip().splitlines()[0]}"
            ) from error
        model.train()
        try:
            programs["train"] = _export(model, args, "train")
        except Exception:  # e.g. BatchNorm(momentum=None): eval alone still serves, and `Space.fixed` says so
            return programs
    return programs


def on_device(model: nn.Module, example: Example) -> tuple[Tensor, ...]:
    """Two examples, where the model's parameters are."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return tuple(batch_of_two(t).to(device) for t in as_tuple(example))


@contextmanager
def restored_modes(model: nn.Module) -> Iterator[None]:
    """Give every submodule back the train/eval flag it had."""
    flags = [(m, m.training) for m in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def batch_of_two(t: Tensor) -> Tensor:
    """The first two examples, or the only one twice."""
    return t[:BATCH] if t.shape[0] >= BATCH else t.expand(BATCH, *t.shape[1:]).contiguous()


def _export(model: nn.Module, args: tuple[Tensor, ...], mode: Mode) -> Program:
    ep = _exported(model, args)
    inline_regions(ep.graph)
    keys: dict[str, str] = {}
    inputs: list[str] = []
    constants: dict[str, Tensor] = {}
    for spec in ep.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
            continue
        assert spec.target is not None
        keys[spec.arg.name] = spec.target
        if spec.kind == InputKind.CONSTANT_TENSOR or spec.persistent is False:
            constants[spec.target] = ep.constants[spec.target]
    out_spec = ep.call_spec.out_spec
    return Program(mode, ep.graph, keys, tuple(inputs), constants, copy.deepcopy(out_spec), tied_names(model))


def exported(model: nn.Module, args: tuple[Any, ...], dynamic: Any = None) -> torch.export.ExportedProgram:
    """torch.export without the graph that it prints to stderr where data decide on shapes."""
    with redirect_stderr(io.StringIO()):
        return torch.export.export(model, args, strict=False, dynamic_shapes=dynamic)


def _exported(model: nn.Module, args: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """With a dynamic batch where that is possible: batches that must be equal (AUTO) come before fixed ones."""
    for dim in (torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO):
        try:
            return exported(model, args, dynamic_batch(model, args, dim))
        except Exception:  # a model that fixes its batch size can still be carved for that size
            continue
    return exported(model, args)


def dynamic_batch(model: nn.Module, args: tuple[Tensor, ...], dim: Any) -> tuple[Any, ...]:
    """``dynamic_shapes`` of torch.export with dimension 0 of every input as ``dim``; what ``*args`` takes is nested."""
    specs = tuple({0: dim} for _ in args)
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return specs
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*specs[:named], specs[named:]) if len(specs) > named else specs


def tied_names(model: nn.Module) -> dict[str, str]:
    """Every parameter's and buffer's name -> the first name of the same tensor."""
    first: dict[int, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def hint(value: Any) -> int:
    """The size seen while tracing, of an int or a symbolic int."""
    return value if isinstance(value, int) else int(value.node.hint)


def shape_of(value: Any) -> list[int]:
    return [hint(s) for s in value.shape]


def module_path(node: fx.Node) -> str:
    """Path of the innermost module the node was traced in ('' for the root)."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path.split("@")[0]


def source_line(node: fx.Node) -> str:
    """``file:line`` of the user's code behind a node: the innermost line outside torch itself, '' where unknown."""
    lines = [x.strip() for x in (node.meta.get("stack_trace") or "").splitlines() if x.strip().startswith("File ")]
    if not lines:
        return ""
    own = [x for x in lines if not x.split('"')[1].startswith(_TORCH)]
    parts = (own or lines)[-1].split('"')
    number = parts[2].split("line ")[1].split(",")[0]
    return f"{parts[1].rsplit('/', 1)[-1]}:{number}"
