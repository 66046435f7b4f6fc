"""Peak memory of activations, measured on a model as it is; :mod:`niwaki.spaces.peaks` predicts it for candidates.

Counted is what Python sees: every tensor that an operation returns, for one example, in eval mode, without gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from niwaki.spaces.keeps_class import keeps_class
from niwaki.spaces.space import Space
from niwaki.spaces.trace import Example, as_tuple, restored_modes
from niwaki.spaces.watch import Watch, unfused_attention


def measured_peak(model: nn.Module, example: Example) -> int:
    """Run one example and find the largest sum of bytes of live activation tensors.

    Inputs, outputs and every tensor in between count as long as anything holds their memory (views share it, operations
    in place reuse it); parameters, buffers and constants do not, nor does scratch memory inside an operation
    (:func:`library_overhead`).

    Args:
        model: any module; it is left untouched.
        example: tensor or tuple of tensors, batch first; only the first example is run.

    Returns:
        Bytes.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(inplace=True))
        >>> measured_peak(net, torch.zeros(2, 8))  # 8 inputs and 4 outputs of 4 bytes
        48
    """
    args = _one(model, example)
    known = [*model.parameters(), *model.buffers()]
    with restored_modes(model), torch.no_grad(), unfused_attention():
        model.eval()
        watch = Watch(args, known)
        with watch:
            result = model(*args)
        watch.finish()
    del result
    return watch.peak()


def library_overhead(model: nn.Module, example: Example) -> int:
    """Bytes at the peak of torch's allocator beyond :func:`measured_peak`: scratch memory of convolutions and the like.

    From the profiler's memory events on the CPU, from the allocator's own figures on CUDA. What libraries allocate past
    torch's allocator is not seen. A first run is not counted: libraries keep some memory from then on.

    Example:
        >>> library_overhead(nn.ReLU(), torch.zeros(2, 8))
        0
    """
    tensors = measured_peak(model, example)
    args = _one(model, example)
    inputs = sum(a.untyped_storage().nbytes() for a in args)
    with restored_modes(model), torch.no_grad(), unfused_attention():
        model.eval()
        model(*args)
        peak = _cuda_peak(model, args) if args and args[0].is_cuda else _cpu_peak(model, args)
    return max(0, inputs + peak - tensors)


def settle(model: nn.Module, space: Space) -> None:
    """Find out whether the user's class survives a cut, so that ``space.memory`` is exact for what :func:`carve` makes.

    Costs what the first :func:`carve` would cost, which then is spared.
    """
    if space.peaks is not None:
        removable = {b for s, blocks in space.stages.items() for b in blocks[space.least[s] :]}
        shallow = removable & space.peaks.whole
        kept = keeps_class(model, space)
        space.peaks.keeps = (kept, keeps_class(model, space, shallow) if shallow else kept)


def _one(model: nn.Module, example: Example) -> tuple[torch.Tensor, ...]:
    """The first example in memory of its own, where the model is."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
    return tuple(a[:1].detach().clone().to(device or a.device) for a in as_tuple(example))


def _cuda_peak(model: nn.Module, args: tuple[torch.Tensor, ...]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model(*args)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler's own library tells stderr when it starts, stops and finds no GPU; it reads this when first used."""
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "99"
    try:
        yield
    finally:
        del os.environ[name]


def _cpu_peak(model: nn.Module, args: tuple[torch.Tensor, ...]) -> int:
    """Running sum of the allocator's events."""
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = model(*args)
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    del result
    return peak
