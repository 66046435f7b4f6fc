"""Run a ``model.py`` in a Python of its own, in which only torch can be imported."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from niwaki.search.export._base import ExportError

Request = tuple[str, tuple[Tensor, ...]]
"""``eval`` or ``train``, and the inputs."""

BLOCKED = ("niwaki", "safetensors", "torchvision")
_CHILD = """
import importlib.util, sys
root, file, folder = sys.argv[1:]
for name in {blocked!r}:
    sys.modules[name] = None  # importing it raises
if root not in sys.path:
    sys.path.append(root)
import torch
from torch.utils import _pytree as pytree
spec = importlib.util.spec_from_file_location("model", file)
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)
answers = []
for mode, inputs in torch.load(folder + "/in.pt", weights_only=True):
    net = model.load().train(mode == "train")
    torch.manual_seed(0)
    with torch.no_grad():
        leaves = pytree.tree_leaves(net(*inputs))
    answers.append([leaf.clone() for leaf in leaves if isinstance(leaf, torch.Tensor)])
torch.save(answers, folder + "/out.pt")
"""


def run_file(path: Path, requests: Sequence[Request]) -> list[list[Tensor]]:
    """The output tensors for each request, each from a fresh ``model.load()``, random numbers seeded with 0.

    Another process keeps the file's code out of this one; it is no sandbox. Isolated mode (``-I``) keeps the
    environment and the working directory out of its path; what is installed and not torch's is blocked by name.

    Raises:
        ExportError: the process failed, with the last line it wrote.
    """
    root = str(Path(torch.__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as folder:
        torch.save([(mode, [t.clone() for t in inputs]) for mode, inputs in requests], folder + "/in.pt")
        command = [sys.executable, "-I", "-B", "-c", _CHILD.format(blocked=BLOCKED), root, str(path.resolve()), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            where = next((line.strip() for line in reversed(lines) if path.name in line), "")
            raise ExportError(f"python: {path.name} does not run: {lines[-1]} {where}".rstrip())
        answers: list[list[Tensor]] = torch.load(folder + "/out.pt", weights_only=True)
    return answers
