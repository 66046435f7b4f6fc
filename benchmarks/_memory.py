"""Row e of the latency benchmark: activation peaks computed from the graph against peaks measured on carved models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from niwaki.spaces import Candidate, Space, carve, derive
from niwaki.spaces.memory import library_overhead, measured_peak, settle

SIDE = 64
NAMES = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "vgg11", "alexnet",
    "squeezenet1_1", "shufflenet_v2_x1_0", "mnasnet0_5", "densenet121", "regnet_x_400mf", "convnext_tiny", "googlenet",
)  # fmt: skip


@dataclass(frozen=True)
class MemoryRow:
    """One model: ``candidate`` is ``teacher``, ``smallest`` or ``random``; all figures in bytes."""

    model: str
    candidate: str
    skipped: int
    predicted: int
    measured: int
    libraries: int


def rows(randoms: int = 4, models: Mapping[str, Callable[[], nn.Module]] | None = None) -> Iterator[MemoryRow]:
    """The teacher, the smallest and ``randoms`` random candidates of every model, every other one at full depth."""
    torch.manual_seed(0)
    for name, build in (models or _models()).items():
        model, example = build().eval(), torch.zeros(2, 3, SIDE, SIDE)
        space = derive(model, example)
        settle(model, space)
        for label, candidate in _candidates(space, randoms):
            student = carve(model, space, candidate)
            yield MemoryRow(
                name, label, len(candidate.skipped), int(space.memory([candidate])[0]),
                measured_peak(student, example), library_overhead(student, example),
            )  # fmt: skip


def _models() -> dict[str, Callable[[], nn.Module]]:
    def maker(name: str) -> Callable[[], nn.Module]:
        more = {"init_weights": False} if name == "googlenet" else {}
        return lambda: torchvision.models.get_model(name, weights=None, **more)

    return {name: maker(name) for name in NAMES} | {
        "vit_small": lambda: torchvision.models.VisionTransformer(
            image_size=SIDE, patch_size=8, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128
        ),
        "swin_small": lambda: torchvision.models.SwinTransformer(
            patch_size=[4, 4], embed_dim=32, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4]
        ),
    }


def _candidates(space: Space, randoms: int) -> Iterator[tuple[str, Candidate]]:
    yield "teacher", space.largest()
    yield "smallest", space.smallest()
    generator = torch.Generator().manual_seed(0)
    for number in range(randoms):
        candidate = space.sample(generator)
        if number % 2:
            chosen = zip(space.variables, space.encode(candidate), strict=True)
            candidate = space.decode([len(v.choices) - 1 if v.kind == "depth" else i for v, i in chosen])
        yield "random", candidate
