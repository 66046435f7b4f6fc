"""More networks, each a few lines: language models, recurrent nets, U-Nets, super-resolution, several inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo import conv_bn, randomise


class HandNorm(nn.Module):
    """RMSNorm as most language models write it."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Rotary(nn.Module):
    """Positions as rotations of the two halves of every head; the tables are buffers that no width touches."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        angle = torch.outer(torch.arange(length).float(), 10.0 ** -torch.linspace(0, 1, width // 2))
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * self.cos[: x.shape[-2]] + torch.cat((-b, a), -1) * self.sin[: x.shape[-2]]


class GroupedAttention(nn.Module):
    """Eight query heads on four key/value heads; ``form`` says how keys are shared and how the mask is applied."""

    def __init__(self, d: int, form: str, rotary: bool) -> None:
        super().__init__()
        self.form, self.width = form, 8
        self.q, self.k, self.v = nn.Linear(d, 64), nn.Linear(d, 32, bias=False), nn.Linear(d, 32)
        self.out = nn.Linear(64, d, bias=False)
        self.rotary = Rotary(8, 16) if rotary else nn.Identity()
        self.register_buffer("mask", torch.ones(16, 16, dtype=torch.bool).tril(), persistent=False)

    def shared(self, x: Tensor) -> Tensor:
        if self.form == "expand":
            b, h, t, c = x.shape
            return x[:, :, None].expand(b, h, 2, t, c).reshape(b, 2 * h, t, c)
        return x.repeat_interleave(2, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k, v = self.rotary(q), self.shared(self.rotary(k)), self.shared(v)
        if self.form == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            score = q @ k.transpose(-2, -1) / 8**0.5
            y = score.masked_fill(~self.mask[:t, :t], -1e9).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


class Gpt(nn.Module):
    """Decoder language model: embedding tied with the head, grouped queries, SwiGLU; integer input (B, T)."""

    def __init__(self, form: str = "sdpa", rotary: bool = True, norm: str = "hand", depth: int = 2) -> None:
        super().__init__()
        d, f = 16, 20
        self.tokens = nn.Embedding(23, d)
        self.positions = None if rotary else nn.Parameter(torch.randn(16, d) * 0.3)
        make: Callable[[], nn.Module] = {
            "hand": lambda: HandNorm(d),
            "rms": lambda: nn.RMSNorm(d),
            "layer": lambda: nn.LayerNorm(d),
        }[norm]
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": make(),
                    "attention": GroupedAttention(d, form, rotary),
                    "norm2": make(),
                    "gate": nn.Linear(d, f, bias=False),
                    "up": nn.Linear(d, f, bias=False),
                    "down": nn.Linear(f, d, bias=False),
                }
            )
            for _ in range(depth)
        )
        self.norm = make()
        self.head = nn.Linear(d, 23, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        if self.positions is not None:
            x = x + self.positions[: ids.shape[1]]
        for m in self.layers:
            x = x + m["attention"](m["norm1"](x))  # type: ignore[index]
            h = m["norm2"](x)  # type: ignore[index]
            x = x + m["down"](F.silu(m["gate"](h)) * m["up"](h))  # type: ignore[index]
        return self.head(self.norm(x))


class UNet(nn.Module):
    """Two levels down and up again: transposed convolutions, skip connections by concatenation, GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = self.level(3, 8), self.level(8, 12), self.level(12, 16)
        self.up2, self.u2 = nn.ConvTranspose2d(16, 12, 2, 2), self.level(24, 12)
        self.up1, self.u1 = nn.ConvTranspose2d(12, 8, 2, 2), self.level(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    @staticmethod
    def level(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        c = self.mid(F.max_pool2d(b, 2))
        c = self.u2(torch.cat((self.up2(c), b), 1))
        return self.out(self.u1(torch.cat((self.up1(c), a), 1)))


class SuperResolution(nn.Module):
    """Down by pixel unshuffle, residual body, up by pixel shuffle, added to an interpolated input."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.PixelUnshuffle(2), nn.Conv2d(24, 8, 3, padding=1))
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 8, 3, padding=1)) for _ in range(2)
        )
        self.up = nn.Sequential(nn.Conv2d(8, 24, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(6))
        self.last = nn.Sequential(nn.Conv2d(6, 12, 1), nn.PixelShuffle(2))
        self.colours = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        for block in self.body:
            y = y + block(y)
        wide = F.interpolate(self.colours(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.last(self.up(y)) + wide


class TextClassifier(nn.Module):
    """Embedding, a recurrent net, the last state or the mean over time, a linear."""

    def __init__(self, kind: str, **options: bool | int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(19, 8, padding_idx=0)
        make = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind]
        self.net = make(8, 10, **({"batch_first": True} | options))  # type: ignore[arg-type]
        ways = 2 if options.get("bidirectional") else 1
        self.first = self.net.batch_first
        self.mean = bool(options.get("bidirectional"))
        self.fc = nn.Linear(10 * ways, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        out, state = self.net(x if self.first else x.transpose(0, 1))
        if self.mean:
            return self.fc(out.mean(1 if self.first else 0))
        last = state[0] if isinstance(state, tuple) else state
        return self.fc(last[-1])


class Tied(nn.Module):
    """A bag-of-words autoencoder whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.mix = nn.Embedding(15, 12), nn.Linear(12, 12)
        self.head = nn.Linear(12, 15)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.tokens(ids))))


class GluNet(nn.Module):
    """Gated convolutions: half of the channels gate the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 20, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(20), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.a(x), dim=1)
        return self.fc(F.glu(self.norm(self.b(x)), dim=-3).mean((2, 3)))


class EinsumAttention(nn.Module):
    """Attention written with einsum alone; weights are three-dimensional parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 12)
        self.q, self.k, self.v = (nn.Parameter(torch.randn(12, 4, 6) * 0.4) for _ in range(3))
        self.out = nn.Parameter(torch.randn(4, 6, 12) * 0.3)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = (torch.einsum("btd,dhc->bhtc", x, w) for w in (self.q, self.k, self.v))
        weight = torch.einsum("bhqc,bhkc->bhqk", q, k).mul(6**-0.5).softmax(-1)
        y = torch.einsum("bhqk,bhkc->bqhc", weight, v)
        return self.head(x + torch.einsum("bthc,hcd->btd", y, self.out))


class TwoInputs(nn.Module):
    """An image and some numbers in, a dictionary with a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = conv_bn(3, 8), nn.Linear(6, 8)
        self.join, self.a, self.b = nn.Linear(16, 12), nn.Linear(12, 3), nn.Linear(12, 2)

    def forward(self, image: Tensor, numbers: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        x = torch.cat((self.image(image).mean((2, 3)), torch.relu(self.numbers(numbers))), 1)
        x = torch.relu(self.join(x))
        return {"both": (self.a(x), self.b(x)), "a": self.a(x).softmax(-1)}


class Statistics(nn.Module):
    """Buffers that follow a width: a running mean and a scale beside the layer they belong to."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 10), nn.Linear(10, 3)
        self.register_buffer("mean", torch.rand(10))
        self.register_buffer("scale", torch.rand(1, 10) + 0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.head(torch.relu((x - self.mean) * self.scale))


class ChannelShuffle(nn.Module):
    """The shuffle operation of torch itself, between grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 16, 1), conv_bn(16, 16, 3, groups=4)
        self.shuffle, self.fc = nn.ChannelShuffle(4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.shuffle(self.b(self.a(x))).mean((2, 3)))


class Products(nn.Module):
    """The matrix products with a bias: addmm, baddbmm, and an outer product of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 10) * 0.4), nn.Parameter(torch.rand(10))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), torch.relu(self.b(x))
        score = torch.baddbmm(a.new_zeros(1, 1, 1), a, b.transpose(1, 2), alpha=0.3)
        y = torch.bmm(score.softmax(-1), b).reshape(-1, 8)
        y = torch.addmm(self.bias, y, self.weight)
        return self.head(torch.relu(y)).view(x.shape[0], -1, 3)


def ids(length: int, words: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(0, words, (2, length), generator=torch.Generator().manual_seed(4)),)


def floats(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    def feed() -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(5)
        return tuple(torch.randn(2, *s, generator=g, dtype=torch.float64) for s in shapes)

    return feed


Recipe = tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]
MORE: Mapping[str, Recipe] = {
    "gpt_rotary": (lambda: Gpt("sdpa", True, "hand"), ids(7, 23)),
    "gpt_expand": (lambda: Gpt("expand", True, "rms"), ids(7, 23)),
    "gpt_learned": (lambda: Gpt("explicit", False, "layer"), ids(7, 23)),
    "unet": (UNet, floats((3, 16, 16))),
    "super_resolution": (SuperResolution, floats((3, 8, 8))),
    "lstm": (lambda: TextClassifier("lstm"), ids(6, 19)),
    "lstm_both_ways": (lambda: TextClassifier("lstm", bidirectional=True, num_layers=2), ids(6, 19)),
    "gru": (lambda: TextClassifier("gru"), ids(6, 19)),
    "gru_deep": (lambda: TextClassifier("gru", num_layers=2, batch_first=False, dropout=0.3), ids(6, 19)),
    "rnn": (lambda: TextClassifier("rnn", bias=False), ids(6, 19)),
    "tied": (Tied, ids(5, 15)),
    "glu": (GluNet, floats((3, 8, 8))),
    "einsum": (EinsumAttention, floats((6, 5))),
    "two_inputs": (TwoInputs, floats((3, 8, 8), (6,))),
    "statistics": (Statistics, floats((6,))),
    "channel_shuffle": (ChannelShuffle, floats((3, 8, 8))),
    "products": (Products, floats((5, 6))),
}


def build_more(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """As :func:`tests.zoo.build`: float64, randomised vectors, and a tuple of inputs."""
    torch.manual_seed(1)
    make, feed = MORE[name]
    return randomise(make()).double(), feed()
