"""PyTorch eager on a GPU, timed by events on the GPU itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch as pytorch
from torch import Tensor, nn

from niwaki.search.targets._base import Run, Timer, shape_option
from niwaki.search.targets._eager import converted, dtype_option, inference
from niwaki.spaces.errors import InputError


@dataclass(frozen=True)
class Cuda:
    """Spec ``cuda:batch=1,dtype=float32,graphs=off,shape=3x224x224``, on the current GPU.

    Attributes:
        batch: examples a run.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        graphs: ``on`` records the run once as a CUDA graph and replays it: no time goes into launching kernels.
        shape: of one example; empty: as the example that is given.
    """

    batch: int = 1
    dtype: str = dtype_option("float32", "float16", "bfloat16")
    graphs: str = field(default="off", metadata={"valid": ("off", "on")})
    shape: str = shape_option()

    @property
    def threads(self) -> int:
        """One launches the kernels."""
        return 1

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        """See :class:`niwaki.search.targets.Target`; InputError where torch sees no GPU."""
        _check_gpu()
        run = inference(*converted(model, inputs, self.dtype, "cuda"))
        return run if self.graphs == "off" else _recorded(run)

    def timer(self) -> Timer:
        """Seconds between two events around the run, on the GPU's clock."""
        _check_gpu()
        return _events

    def version(self) -> str:
        _check_gpu()
        return f"torch {pytorch.__version__}, CUDA {pytorch.version.cuda}, {pytorch.cuda.get_device_name()}"


def _events(run: Run) -> tuple[float, float]:
    start, end = (pytorch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    seconds: float = start.elapsed_time(end) / 1e3
    return seconds, seconds


def _recorded(run: Run) -> Run:
    side = pytorch.cuda.Stream()  # type: ignore[no-untyped-call]  # a first run sets up what must not be recorded
    side.wait_stream(pytorch.cuda.current_stream())
    with pytorch.cuda.stream(side):
        for _ in range(3):
            run()
    pytorch.cuda.current_stream().wait_stream(side)
    graph = pytorch.cuda.CUDAGraph()
    with pytorch.cuda.graph(graph):
        run()

    def replay(keeps: Run = run) -> None:  # the graph works on the memory of weights and inputs that the run holds
        graph.replay()

    return replay


def _check_gpu() -> None:
    if not pytorch.cuda.is_available():
        raise InputError("target 'cuda': torch sees no GPU on this machine; use a CPU target such as torch:threads=1")
