"""torch.compile on this machine's processor."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from niwaki.search.targets._base import Run, shape_option
from niwaki.search.targets._eager import converted, dtype_option, inference
from niwaki.search.threads import torch_threads
from niwaki.spaces.errors import InputError

_LIMITS: dict[str, Any] = {
    "recompile_limit": 2**16, "accumulated_recompile_limit": 2**16, "fail_on_recompile_limit_hit": True,
}
"""All candidates of a space are of one class and share its code. By default only eight of them would be compiled, and
the others run eagerly without a word."""


@dataclass(frozen=True)
class TorchCompile:
    """Spec ``torch-compile:threads=1,batch=1,dtype=float32,shape=3x224x224``: the default mode, static shapes.

    Attributes:
        threads: intra-op threads.
        batch: examples a run.
        dtype: ``float32`` or ``bfloat16``.
        shape: of one example; empty: as the example that is given.
    """

    threads: int = 1
    batch: int = 1
    dtype: str = dtype_option("float32", "bfloat16")
    shape: str = shape_option()

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        """See :class:`niwaki.search.targets.Target`. Compiles, which takes seconds.

        Compiled code is bound to torch's number of threads: under another one than ``threads`` (which measuring sees
        to) the model would be compiled again, or run eagerly.

        Raises:
            InputError: no C++ compiler.
        """
        _check_compiler()
        ready, inputs = converted(model, inputs, self.dtype)
        run = inference(torch.compile(ready, dynamic=False), inputs)
        with torch_threads(self.threads), torch._dynamo.config.patch(_LIMITS):  # compiled code has its threads fixed
            run()
            run()
        return run

    def version(self) -> str:
        return f"torch {torch.__version__}"


def _check_compiler() -> None:
    """The one that torch will call: ``$CXX``, or the usual name on this system."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        raise InputError(
            f"target 'torch-compile': needs the C++ compiler {compiler!r}, which is not on the PATH; install it "
            "(Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), "
            "or name another one in the environment variable CXX"
        )
