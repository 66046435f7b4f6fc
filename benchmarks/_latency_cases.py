"""Networks whose latency is predicted, aimed at and measured, untrained: time does not depend on weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from niwaki.distill import build
from niwaki.search.bench import Bench
from niwaki.search.costing import Costing, Limits
from niwaki.search.latency import CalibrationPlan, calibrate
from niwaki.search.repair import fit_to
from niwaki.search.targets import parse
from niwaki.spaces import Candidate, Space, SpaceOptions, derive
from niwaki.spaces.latency import LatencyModel

NAMES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "cifar_resnet20", "small_vit")
ANY_INTEGER = SpaceOptions(ratios=tuple(i / 64 for i in range(20, 65)))
"""ResNet-20 is judged at any integer width, where the stairs of the target are hardest to predict."""


@dataclass(frozen=True, eq=False)
class Case:
    """One network on one target."""

    name: str
    target: str
    options: SpaceOptions | None = None

    @cached_property
    def example(self) -> Tensor:
        sizes = {"cifar_resnet20": 32, "small_vit": 64}
        side = sizes.get(self.name, 224)
        return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))

    @cached_property
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        if self.name == "small_vit":
            return VisionTransformer(64, 8, num_layers=6, num_heads=4, hidden_dim=128, mlp_dim=256).eval()
        if self.name == "cifar_resnet20":
            return build(self.name, 10, {}).eval()
        made: nn.Module = torchvision.models.get_model(self.name, weights=None)
        return made.eval()

    @cached_property
    def space(self) -> Space:
        return derive(self.model, self.example, self.options)

    @cached_property
    def bench(self) -> Bench:
        return Bench(self.model, self.space, parse(self.target), self.example)

    @cached_property
    def calibrated(self) -> LatencyModel:
        """With the defaults of a search."""
        return calibrate(self.bench, CalibrationPlan())

    @property
    def costing(self) -> Costing:
        return Costing(self.space, self.calibrated)

    def limits(self, share: float, name: str = "latency") -> Limits:
        """``share`` of the teacher's latency in ms, or of its MACs."""
        full = self.calibrated.anchor_ms if name == "latency" else float(self.space.cost(self.space.largest()).macs)
        return Limits({name: full * share}, {})

    def near(self, limits: Limits, seed: int) -> Candidate | None:
        """A random candidate at the edge of the limits."""
        rng = np.random.default_rng(seed)
        sizes = [len(v.choices) for v in self.space.variables]
        costing = self.costing if "latency" in limits.values else Costing(self.space)
        point = fit_to(rng.integers(0, sizes), costing, limits, 1.0, rng)
        return None if point is None else self.space.canonical(self.space.decode(point.tolist()))
