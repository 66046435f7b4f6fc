"""torchvision's own classes with few, narrow layers: every shape of its zoo, seconds instead of minutes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.video.mvit import MSBlockConfig

from tests.zoo import randomise


def vit(**more: Any) -> nn.Module:
    return models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=5, **more
    )


def swin(**more: Any) -> nn.Module:
    return models.SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[2, 2], num_heads=[4, 8], window_size=[4, 4], num_classes=5,
        stochastic_depth_prob=0.2, **more,
    )  # fmt: skip


def swin3d() -> nn.Module:
    return models.video.SwinTransformer3d(
        patch_size=[2, 4, 4], embed_dim=16, depths=[2, 2], num_heads=[4, 8], window_size=[2, 2, 2], num_classes=5
    )


def maxvit() -> nn.Module:
    return models.MaxVit(
        input_size=(32, 32), stem_channels=8, partition_size=2, block_channels=[16, 32], block_layers=[1, 1],
        head_dim=4, stochastic_depth_prob=0.2, num_classes=5,
    )  # fmt: skip


def convnext() -> nn.Module:
    return models.ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], num_classes=5)


def mvit(**more: Any) -> nn.Module:
    """Pooling attention: the second block pools queries and doubles the width."""
    blocks = [
        MSBlockConfig(1, 16, 16, [], [3, 3, 3], [], [1, 2, 2]),
        MSBlockConfig(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1]),
    ]
    return models.video.MViT(spatial_size=(16, 16), temporal_size=4, block_setting=blocks, num_classes=5,
                             residual_pool=False, residual_with_cls_embed=True, rel_pos_embed=False,
                             proj_after_attn=False, **more)  # fmt: skip


def segmentation(name: str) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)


def classifier(name: str) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, num_classes=10)


def image(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


SMALL: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "vit": (vit, image(3, 16, 16)),
    "swin": (swin, image(3, 16, 16)),
    "swin_v2": (partial(swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2), image(3, 16, 16)),
    "swin3d": (swin3d, image(3, 4, 16, 16)),
    "maxvit": (maxvit, image(3, 32, 32)),
    "convnext": (convnext, image(3, 16, 16)),
    "mvit": (mvit, image(3, 4, 16, 16)),
    "lraspp_mobilenet_v3_large": (partial(segmentation, "lraspp_mobilenet_v3_large"), image(3, 64, 64)),
    "r3d_18": (models.video.r3d_18, image(3, 4, 32, 32)),
    "mobilenet_v3_large": (partial(classifier, "mobilenet_v3_large"), image(3, 64, 64)),
    "regnet_x_400mf": (partial(classifier, "regnet_x_400mf"), image(3, 64, 64)),
    "resnet34": (partial(classifier, "resnet34"), image(3, 64, 64)),
    "shufflenet_v2_x1_0": (partial(classifier, "shufflenet_v2_x1_0"), image(3, 64, 64)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    make, feed = SMALL[name]
    return randomise(make()).double(), feed()
