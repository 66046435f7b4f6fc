"""Claim: a space is derived once, then candidates are cheap. ResNet-50, 1 thread, Torch-Pruning 1.6.1 beside it."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
import torch_pruning as tp
import torchvision
from _bench import report, seconds

from niwaki.spaces import carve, derive

BATCH = 8192


def main() -> None:
    torch.set_num_threads(1)
    model = torchvision.models.resnet50(weights=None).eval()
    x = torch.randn(2, 3, 224, 224)
    derive(torchvision.models.resnet18(weights=None), x)  # torch.export imports half of torch at its first call
    derive_s = seconds(lambda: derive(model, x), 3)
    space = derive(model, x)
    generator = torch.Generator().manual_seed(0)
    first_s = seconds(lambda: carve(model, space, space.sample(generator)), 1)
    draws = itertools.cycle([space.sample(generator) for _ in range(20)])
    carve_s = seconds(lambda: carve(model, space, next(draws)), 20)
    rng = np.random.default_rng(0)
    matrix = np.stack([rng.integers(0, len(v.choices), 100_000) for v in space.variables], axis=1)
    costs_s = seconds(lambda: [space.costs(matrix[i : i + BATCH]) for i in range(0, len(matrix), BATCH)], 3)
    peer_s = seconds(lambda: peer(model, x), 5)
    rows = [
        {"what": "derive, once", "figure": derive_s, "unit": "s", "target": "<= 3"},
        {
            "what": "first carve (decides whether the class survives)",
            "figure": first_s * 1e3,
            "unit": "ms",
            "target": "",
        },
        {
            "what": "carve, each further candidate (median of 20)",
            "figure": carve_s * 1e3,
            "unit": "ms",
            "target": "<= 60",
        },
        {"what": "Torch-Pruning, graph + cut, each candidate", "figure": peer_s * 1e3, "unit": "ms", "target": ""},
        {"what": "ratio Torch-Pruning / carve", "figure": peer_s / carve_s, "unit": "x", "target": "> 1"},
        {"what": "space.costs", "figure": len(matrix) / costs_s, "unit": "candidates/s", "target": ">= 100000"},
    ]
    report("spaces", "Spaces of torchvision ResNet-50 at 224x224, 1 thread", rows)


def peer(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Torch-Pruning cuts in place and needs its graph anew for every candidate; the copy is part of the price."""
    twin = copy.deepcopy(model)
    importance = tp.importance.MagnitudeImportance(p=2)
    tp.pruner.MagnitudePruner(twin, x[:1], importance=importance, pruning_ratio=0.5, ignored_layers=[twin.fc]).step()


if __name__ == "__main__":
    main()
