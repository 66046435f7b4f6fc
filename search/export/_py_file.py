"""The whole text of ``model.py``, and the tensors that go beside it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from niwaki.search.export._base import ExportError, Subject
from niwaki.search.export._py_graph import Flow, flow_of, join
from niwaki.search.export._py_layers import Tensors, find_layers
from niwaki.search.export._py_text import forward, input_name, named_tuples, wrapped
from niwaki.search.export._py_tree import Tree
from niwaki.spaces.errors import InputError
from niwaki.spaces.source import SourceModule
from niwaki.spaces.trace import Mode, Program, trace

EVAL_ONLY = "this network could only be traced in eval mode"
_HEAD = '''"""{name}: a network as plain PyTorch. Written by a program from traced graphs; needs torch alone.

    import model
    net = model.load()  # with the weights of {weights} beside this file, in eval mode
    net.train()         # trains like any other module

{name}() is the same network before its weights are loaded.
"""

'''
_PART = '''

class Part(nn.Module):
    """A module that only holds others under their names."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
'''
_TAIL = '''

_DTYPES = {{
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: 8 bytes of header length, a JSON header, little-endian data."""
    size = Path(path).stat().st_size
    tensors = {{}}
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > size:
            raise ValueError(f"{{path}}: not a safetensors file")
        for key, entry in json.loads(file.read(start - 8)).items():
            if key == "__metadata__":
                continue
            dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            if not 0 <= begin <= end <= size - start or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{{path}}: tensor {{key!r}} does not lie within the file")
            file.seek(start + begin)
            data = bytearray(file.read(end - begin))
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            tensors[key] = flat.reshape(shape)
    return tensors


def load(path: str | Path | None = None) -> {name}:
    """The network in eval mode with the weights of a safetensors file: by default the one beside this file."""
    path = Path(__file__).with_name("{weights}") if path is None else path
    net, tensors = {name}(), read_tensors(path)
    own = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers(remove_duplicate=False))
    for key in {literals}:
        own.pop(key)  # constants that are written above
    if own.keys() != tensors.keys():
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise ValueError(f"{{path}}: missing {{missing}}, not of this network {{unknown}}")
    with torch.no_grad():
        for key, tensor in own.items():
            if tensor.shape != tensors[key].shape:
                raise ValueError(f"{{path}}: {{key}} is {{list(tensors[key].shape)}}, not {{list(tensor.shape)}}")
            tensor.copy_(tensors[key])
    return net.eval()
'''


@dataclass(frozen=True)
class Written:
    """``text`` of the file and the ``tensors`` beside it (keys as in the model; constants too large for the text)."""

    text: str
    tensors: dict[str, Tensor]


def write_source(subject: Subject, weights: str) -> Written:
    """The model of ``subject`` as a file; ``weights``: name of the file its tensors will be read from."""
    programs = _trace(subject)
    keys, tensors, persistent = _gather(subject.model, programs)
    layers, calls = find_layers(programs, keys, tensors)
    tree = Tree(tensors, layers, persistent)
    flows = {mode: flow_of(program, keys[mode], calls[mode]) for mode, program in programs.items()}
    name = _class_name(subject.model)
    body = _forwards(flows, tree)
    classes = {k: v for f in flows.values() for k, v in named_tuples(f.spec).items()}
    stored = tree.stored()
    literals = [k for k in tensors.values if k not in stored]
    init = [w for line in tree.statements() for w in wrapped("        " + line)]
    text = _HEAD.format(name=name, weights=weights) + _imports("\n".join(body), bool(classes))
    for called, fields in classes.items():
        text += "\n".join(wrapped(f'{called} = namedtuple("{called}", {list(fields)})'.replace("'", '"'))) + "\n"
    text += _PART if tree.needs_part() else ""
    text += f"\n\nclass {name}({tree.base}):\n    def __init__(self) -> None:\n        super().__init__()\n"
    text += "\n".join([*init, "", *body]) + "\n"
    text += _TAIL.format(name=name, weights=weights, literals=repr(literals).replace("'", '"'))
    return Written(text, stored)


def _trace(subject: Subject) -> dict[Mode, Program]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return trace(subject.model, subject.inputs)
    except InputError as error:
        raise ExportError(f"python: {error}") from error


def _gather(
    model: nn.Module, programs: dict[Mode, Program]
) -> tuple[dict[Mode, dict[str, str]], Tensors, frozenset[str]]:
    """Placeholder -> key for each mode, every tensor of the model, and the keys of its state dict.

    Constants of the two graphs may have the same name and different values: then that of train mode is renamed.
    """
    state = dict(model.state_dict(keep_vars=True))
    values: dict[str, Tensor] = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    values |= {k: b for k, b in model.named_buffers(remove_duplicate=False) if k not in values}
    keys: dict[Mode, dict[str, str]] = {}
    for mode, program in programs.items():
        keys[mode] = dict(program.keys)
        for holder, key in program.keys.items():
            constant = program.constants.get(key)
            if constant is None or (key in values and torch.equal(values[key].cpu(), constant.cpu())):
                continue
            renamed = key if key not in values else f"{key}_{mode}"
            values[renamed], keys[mode][holder] = constant.detach(), renamed
    known: dict[int, list[str]] = {}
    for key, value in values.items():
        known.setdefault(id(value), []).append(key)
    aliases = {key: tuple(known[id(value)]) for key, value in values.items()}
    return keys, Tensors(values, aliases), frozenset(state)


def _forwards(flows: dict[Mode, Flow], tree: Tree) -> list[str]:
    both = join(flows["eval"], flows["train"]) if "train" in flows else None
    if both is not None:
        return forward(both, tree, "forward")
    given = ", ".join(map(input_name, flows["eval"].inputs))
    typed = ", ".join(f"{n}: Tensor" for n in given.split(", "))
    lines = [f"    def forward(self, {typed}) -> Any:", "        if self.training:"]
    if "train" in flows:
        lines += [f"            return self._forward_train({given})"]
    else:
        lines += [f'            raise RuntimeError("{EVAL_ONLY}")']
    lines += [f"        return self._forward_eval({given})"]
    for mode, flow in flows.items():
        lines += ["", *forward(flow, tree, f"_forward_{mode}")]
    return lines


def _imports(body: str, tuples: bool) -> str:
    ordered = "OrderedDict(" in body
    names = [n for n, used in (("OrderedDict", ordered), ("namedtuple", tuples)) if used]
    lines = ["from __future__ import annotations", "", "import json", "import math"]
    lines += [f"from collections import {', '.join(names)}"] if names else []
    lines += ["from pathlib import Path", "from typing import Any", "", "import torch"]
    lines += ["import torch.nn.functional as F"] if "F." in body else []
    return "\n".join([*lines, "from torch import Tensor, nn", ""]) + ("\n" if tuples else "")


def _class_name(model: nn.Module) -> str:
    name = type(model).__name__
    own = isinstance(model, SourceModule) or type(model).__module__.startswith("torch.nn")
    taken = name in {"Part", "Tensor", "Path", "Any", "F"} or not name.isidentifier() or "niwaki" in name.lower()
    return "Model" if own or taken else name
