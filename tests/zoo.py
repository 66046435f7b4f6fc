"""Small networks of every common shape, each a few lines, and how to feed them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(i: int, o: int, k: int = 3, **more: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=False, **more), nn.BatchNorm2d(o), nn.ReLU())


class Chain(nn.Sequential):
    """VGG: convolutions, pooling, flatten before linears, dropout."""

    def __init__(self) -> None:
        super().__init__(
            conv_bn(3, 8),
            nn.MaxPool2d(2),
            conv_bn(8, 12),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 16),
            nn.ReLU(True),
            nn.Dropout(0.5),
            nn.Linear(16, 5),
        )


class BasicBlock(nn.Module):
    def __init__(self, i: int, o: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.grow = (o - i) // 2
        self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride), nn.BatchNorm2d(o)) if shortcut == "B" and i != o else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.down is not None:
            x = self.down(x)
        elif self.grow:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.grow, self.grow))
        return F.relu(x + y)


class Residual(nn.Module):
    """CIFAR ResNet; option A (strided slice, zero-padded channels) or B (projection)."""

    def __init__(self, shortcut: str = "A", depth: int = 3) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.layer1 = nn.Sequential(*[BasicBlock(8, 8, 1, shortcut) for _ in range(depth)])
        self.layer2 = nn.Sequential(
            *[BasicBlock(8 if k == 0 else 16, 16, 2 if k == 0 else 1, shortcut) for k in range(depth)]
        )
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class PreActivation(nn.Module):
    """Residual stream that never meets an activation between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Conv2d(8, 6, 3, padding=1),
                nn.BatchNorm2d(6),
                nn.ReLU(),
                nn.Conv2d(6, 8, 3, padding=1),
            )
            for _ in range(3)
        )
        self.head = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Dense(nn.Module):
    """DenseNet: every layer reads the concatenation of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(6 + 4 * k), nn.ReLU(), nn.Conv2d(6 + 4 * k, 4, 3, padding=1)) for k in range(3)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 9, 1), nn.AvgPool2d(2))
        self.fc = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.transition(x), 1), 1))


class Branches(nn.Module):
    """GoogLeNet and SqueezeNet: parallel branches concatenated, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = conv_bn(3, 6, 1)
        self.a, self.b = conv_bn(6, 5, 1), conv_bn(6, 7, 3)
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(6, 4, 1))
        self.c, self.d = conv_bn(16, 6, 1), conv_bn(16, 6, 3)
        self.fc = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        x = torch.cat((self.a(x), self.b(x), self.pool(x)), dim=1)
        x = torch.cat((self.c(x), self.d(x)), dim=-3)
        return F.avg_pool2d(self.fc(x), 8).flatten(1)


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, r: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(c, r, 1), nn.Conv2d(r, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """MobileNet v3 and EfficientNet: expand, depthwise, squeeze-excite, project, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish())
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(
                    conv_bn(6, 12, 1),
                    conv_bn(12, 12, 3, groups=12),
                    SqueezeExcite(12, 4),
                    nn.Conv2d(12, 6, 1, bias=False),
                    nn.BatchNorm2d(6),
                )
                for _ in range(2)
            ]
        )
        self.head = nn.Sequential(
            nn.Conv2d(6, 10, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Grouped(nn.Module):
    """ResNeXt: grouped convolution in a bottleneck with an identity shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.body = nn.Sequential(
            conv_bn(8, 16, 1), conv_bn(16, 16, 3, groups=4), nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)
        )
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(F.relu(x + self.body(x)).mean(dim=[-2, -1]))


class Multiplier(nn.Sequential):
    """Depthwise convolution with a channel multiplier of 2."""

    def __init__(self) -> None:
        super().__init__(
            conv_bn(3, 6),
            nn.Conv2d(6, 12, 3, padding=1, groups=6),
            nn.ReLU(),
            nn.Conv2d(12, 8, 1),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )


class Halves(nn.Module):
    """chunk: one half passes, the other is worked on; no shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.work, self.head = conv_bn(3, 12), conv_bn(6, 6), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, dim=1)
        return self.head(torch.cat((a, self.work(b)), 1).mean((2, 3)))


class Shuffle(nn.Module):
    """ShuffleNet: two branches, shuffled, and cut in halves again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv_bn(3, 8), conv_bn(3, 8), conv_bn(8, 8), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.cat((self.a(x), self.b(x)), 1))
        p, q = x.chunk(2, dim=1)
        return self.head(torch.cat((p, self.c(q)), 1).mean((2, 3)))

    @staticmethod
    def mix(x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, 20), nn.Tanh(), nn.Linear(20, 12), nn.GELU(), nn.Linear(12, 5))


class Twice(nn.Module):
    """One convolution called twice: its input and output are one group."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.fc = conv_bn(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.again(self.stem(x)))
        return self.fc(F.relu(self.again(x)).mean((2, 3)))


class Gate(nn.Module):
    """A channel gate, a learned scale per channel, a constant buffer that follows no width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("shift", torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.shift
        y = torch.sigmoid(self.side(x)) * torch.tanh(self.stem(x)) * self.scale
        return self.fc(F.avg_pool2d(y, 8)[:, :, 0, 0])


class Volume(nn.Sequential):
    """3-D convolutions."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(3, 6, 3, padding=1),
            nn.BatchNorm3d(6),
            nn.ReLU(),
            nn.Conv3d(6, 8, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )


class Sequence(nn.Sequential):
    """1-D convolutions."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(3, 8, 5),
            nn.BatchNorm1d(8),
            nn.LeakyReLU(),
            nn.Conv1d(8, 6, 3, 2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(6, 5),
        )


class Decoder(nn.Module):
    """Down, up by transposed convolution and by interpolation, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.join = conv_bn(3, 6, stride=2), nn.ConvTranspose2d(6, 8, 2, 2), nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.down(x)
        high = F.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.join(torch.cat((F.relu(self.up(low)), high), 1))


class Zeros(nn.Module):
    """A shortcut widened with new zeros (a factory call that names a device), slopes per channel, a loose tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grow = conv_bn(3, 8), conv_bn(8, 12)
        self.slopes, self.fc = nn.PReLU(12), nn.Linear(12, 5)
        self.mean = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x - self.mean.to(x))
        zeros = torch.zeros(x.shape[0], 4, *x.shape[2:], device=x.device, dtype=x.dtype)
        return self.fc(self.slopes(torch.cat((x, zeros), 1) + self.grow(x)).mean((2, 3)))


def image(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))


SMALL: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "chain": (Chain, image(3, 8, 8)),
    "residual_a": (Residual, image(3, 8, 8)),
    "residual_b": (lambda: Residual("B"), image(3, 8, 8)),
    "preactivation": (PreActivation, image(3, 8, 8)),
    "dense": (Dense, image(3, 8, 8)),
    "branches": (Branches, image(3, 8, 8)),
    "inverted": (Inverted, image(3, 8, 8)),
    "grouped": (Grouped, image(3, 8, 8)),
    "multiplier": (Multiplier, image(3, 8, 8)),
    "halves": (Halves, image(3, 8, 8)),
    "shuffle": (Shuffle, image(3, 8, 8)),
    "mlp": (Mlp, image(3, 8, 8)),
    "twice": (Twice, image(3, 8, 8)),
    "gate": (Gate, image(3, 8, 8)),
    "volume": (Volume, image(3, 4, 8, 8)),
    "sequence": (Sequence, image(3, 32)),
    "decoder": (Decoder, image(3, 8, 8)),
    "zeros": (Zeros, image(3, 8, 8)),
}
TORCHVISION = (
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnext50_32x4d",
    "squeezenet1_1",
    "densenet121",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "efficientnet_b0",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
)


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A model in float64 with every parameter and statistic away from its trivial start, and an input for it."""
    torch.manual_seed(1)
    if name in SMALL:
        make, feed = SMALL[name]
        model, example = make(), feed()
    else:
        import torchvision

        options: dict[str, Any] = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
        example = image(3, 64, 64)()
    return randomise(model).double(), example.double()


def randomise(model: nn.Module) -> nn.Module:
    """Vectors start as ones and zeros: with those, many wrong cuts would go unseen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, value in model.state_dict(keep_vars=True).items():
            if value.is_floating_point() and value.dim() == 1:
                noise = torch.rand(value.shape, generator=generator)
                value.copy_(noise + 0.5 if key.endswith(("weight", "running_var")) else noise * 0.4 - 0.2)
    return model.eval()
