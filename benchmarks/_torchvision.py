"""Every model family of torchvision, built without downloads, with inputs small enough to prove on."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

FAMILIES: dict[str, str] = {
    "classification": "torchvision.models",
    "segmentation": "torchvision.models.segmentation",
    "video": "torchvision.models.video",
    "optical_flow": "torchvision.models.optical_flow",
    "detection": "torchvision.models.detection",
}
LARGE = ("vit_h_14", "regnet_y_128gf")
"""Derived on meta tensors, too, and proven in float32 alone: their weights in float64 would take 5 GB each."""
ONLY_FLOAT32 = ("raft_small", "raft_large")
"""Their own code makes float32 tensors."""


def names(family: str) -> list[str]:
    return list(torchvision.models.list_models(import_module(FAMILIES[family])))


def family_of(name: str) -> str:
    return next(f for f in FAMILIES if name in names(f))


def shape(name: str) -> tuple[int, ...]:
    """Shape of one example; the smallest round one that the model takes, as proofs run in float64."""
    if name.startswith("mvit") or name == "s3d":
        return (3, 16, 224, 224)
    if name.startswith("swin3d"):
        return (3, 8, 64, 64)
    if family_of(name) == "video":
        return (3, 8, 64, 64)
    if family_of(name) == "optical_flow":
        return (3, 128, 128)
    if name == "inception_v3":
        return (3, 299, 299)
    return (3, 224, 224) if name.startswith(("vit", "maxvit")) else (3, 64, 64)


def build(name: str) -> nn.Module:
    """In eval mode, float32, parameters and statistics away from ones and zeros (a wrong cut would go unseen)."""
    options: dict[str, Any] = {"weights": None}
    if family_of(name) in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if family_of(name) == "detection" and not name.startswith("ssd"):  # those resize every image to 800 pixels
        options |= {"min_size": 256, "max_size": 320}  # GroupNorm refuses coarse levels of a single place
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, **options)
    return model.eval()


def example(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor | tuple[Tensor, ...]:
    made = torch.rand(2, *shape(name), generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    one = made.to(device, dtype)
    return (one, one.flip(-1)) if family_of(name) == "optical_flow" else one


def stir(model: nn.Module) -> nn.Module:
    """Vectors start as ones and zeros: with those, many wrong cuts would go unseen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, value in model.state_dict(keep_vars=True).items():
            if value.is_floating_point() and value.dim() <= 1 and value.numel():
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float32).to(value)
                value.copy_(noise + 0.5 if key.endswith(("weight", "running_var")) else noise * 0.4 - 0.2)
    return model
