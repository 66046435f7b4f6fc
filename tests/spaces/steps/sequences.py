"""Steps on sequences (B, T, D): attention in many spellings, recurrence, mixing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spaces.steps import Held, Step, divisor, kind, layer, plain, width


@kind("sequence")
def linear(x: Tensor, n: int) -> Step:
    return layer(nn.Linear(x.shape[2], width(n), bias=n % 3 > 0))


@kind("sequence")
def layer_norm(x: Tensor, n: int) -> Step:
    return layer(nn.LayerNorm(x.shape[2], elementwise_affine=n % 3 > 0))


@kind("sequence")
def rms_norm(x: Tensor, n: int) -> Step:
    if n % 2:
        return layer(nn.RMSNorm(x.shape[2]))
    gain = Held(gain=torch.rand(x.shape[2]) + 0.5)
    return Step(gain, lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.gain)


@kind("sequence")
def perceptron(x: Tensor, n: int) -> Step:
    d = x.shape[2]
    inner = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, width(n)), nn.GELU(), nn.Linear(width(n), d), nn.Dropout(0.1))
    return Step(inner, lambda m, x: x + m(x))


@kind("sequence")
def gated_perceptron(x: Tensor, n: int) -> Step:
    d, h = x.shape[2], width(n)
    return Step(
        nn.ModuleList([nn.Linear(d, h), nn.Linear(d, h), nn.Linear(h, d)]),
        lambda m, x: x + m[2](F.silu(m[0](x)) * m[1](x)),
    )


@kind("sequence")
def multihead(x: Tensor, n: int) -> Step:
    d = x.shape[2]
    inner = nn.MultiheadAttention(d, divisor(d, n), batch_first=True)
    return Step(inner, lambda m, x: x + m(x, x, x, need_weights=False)[0])


@kind("sequence")
def fused_attention(x: Tensor, n: int) -> Step:
    """One linear for q, k, v; heads by reshape and select; scaled_dot_product_attention."""
    d, h, e = x.shape[2], 2 + n % 2, 4 + n % 3

    def run(m: nn.Module, x: Tensor) -> Tensor:
        t = x.shape[1]
        q, k, v = m[0](x).reshape(-1, t, 3, h, e).permute(2, 0, 3, 1, 4).unbind(0)
        return m[1](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, t, h * e))

    return Step(nn.ModuleList([nn.Linear(d, 3 * h * e), nn.Linear(h * e, d)]), run)


@kind("sequence")
def chunked_attention(x: Tensor, n: int) -> Step:
    """q, k, v by chunk; attention by matmul and softmax."""
    d, h, e = x.shape[2], 2 + n % 2, 4 + n % 3

    def run(m: nn.Module, x: Tensor) -> Tensor:
        b, t = x.shape[:2]
        q, k, v = (p.view(b, t, h, e).transpose(1, 2) for p in m[0](x).chunk(3, -1))
        a = (q @ k.transpose(-2, -1) * e**-0.5).softmax(-1)
        return m[1]((a @ v).transpose(1, 2).reshape(b, t, h * e))

    return Step(nn.ModuleList([nn.Linear(d, 3 * h * e), nn.Linear(h * e, d)]), run)


@kind("sequence")
def einsum_attention(x: Tensor, n: int) -> Step:
    d, h, e = x.shape[2], 2 + n % 2, 4 + n % 2

    def run(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (m[i](x).unflatten(2, (h, e)) for i in range(3))
        a = torch.einsum("bqhe,bkhe->bhqk", q, k).softmax(-1)
        return m[3](torch.einsum("bhqk,bkhe->bqhe", a, v).flatten(2))

    return Step(nn.ModuleList([*(nn.Linear(d, h * e) for _ in range(3)), nn.Linear(h * e, d)]), run)


@kind("sequence")
def grouped_query(x: Tensor, n: int) -> Step:
    """Four query heads, two key and value heads, repeated."""
    d, e = x.shape[2], 4

    def run(m: nn.Module, x: Tensor) -> Tensor:
        b, t = x.shape[:2]
        q = m[0](x).view(b, t, 4, e).transpose(1, 2)
        k, v = (m[i](x).view(b, t, 2, e).transpose(1, 2) for i in (1, 2))
        if n % 2:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        else:
            y = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), is_causal=True)
        return m[3](y.transpose(1, 2).reshape(b, t, 4 * e))

    return Step(nn.ModuleList([nn.Linear(d, 16), nn.Linear(d, 8), nn.Linear(d, 8), nn.Linear(16, d)]), run)


@kind("sequence", 2)
def cross_attention(x: Tensor, y: Tensor, n: int) -> Step:
    e = width(n)

    def run(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(m[0](x), m[1](y), m[2](y))

    return Step(nn.ModuleList([nn.Linear(x.shape[2], e), nn.Linear(y.shape[2], e), nn.Linear(y.shape[2], 6)]), run)


@kind("sequence")
def class_token(x: Tensor, n: int) -> Step:
    token = Held(token=torch.randn(1, 1, x.shape[2]))
    return Step(token, lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1))


@kind("sequence")
def position(x: Tensor, n: int) -> Step:
    return Step(Held(table=torch.randn(1, *x.shape[1:])), lambda m, x: x + m.table)


@kind("sequence")
def looked_up_position(x: Tensor, n: int) -> Step:
    return Step(nn.Embedding(70, x.shape[2]), lambda m, x: x + m(torch.arange(x.shape[1], device=x.device)))


@kind("sequence")
def rotary(x: Tensor, n: int) -> Step | None:
    if x.shape[2] % 2:
        return None
    t, d = x.shape[1:]
    angle = torch.arange(t)[:, None] * torch.rand(d // 2)
    tables = Held(_cos=angle.cos().repeat(1, 2), _sin=angle.sin().repeat(1, 2))

    def run(m: nn.Module, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * m.cos + torch.cat([-b, a], -1) * m.sin

    return Step(tables, run)


@kind("sequence")
def token_mixing(x: Tensor, n: int) -> Step:
    t = x.shape[1]
    inner = nn.Sequential(nn.Linear(t, width(n)), nn.ReLU(), nn.Linear(width(n), t))
    return Step(inner, lambda m, x: x + m(x.transpose(1, 2)).transpose(1, 2))


@kind("sequence")
def conv1d(x: Tensor, n: int) -> Step:
    return Step(nn.Conv1d(x.shape[2], width(n), 3, padding=1), lambda m, x: m(x.transpose(1, 2)).transpose(1, 2))


@kind("sequence")
def recurrent(x: Tensor, n: int) -> Step:
    inner = (nn.LSTM, nn.GRU)[n % 2](x.shape[2], width(n), batch_first=True, bidirectional=n % 3 == 0)
    return Step(inner, lambda m, x: m(x)[0])


@kind("sequence", 2)
def add_sequences(x: Tensor, y: Tensor, n: int) -> Step | None:
    return plain(lambda x, y: x + y) if x.shape == y.shape else None


@kind("sequence", 2)
def distances(x: Tensor, y: Tensor, n: int) -> Step | None:
    return plain(torch.cdist) if x.shape[2] == y.shape[2] and y.shape[1] <= 16 else None


@kind("sequence")
def swap_heads(x: Tensor, n: int) -> Step:
    h = divisor(x.shape[2], n)
    return plain(lambda x: x.unflatten(2, (h, x.shape[2] // h)).transpose(2, 3).flatten(2))


@kind("sequence")
def first_tokens(x: Tensor, n: int) -> Step | None:
    return plain(lambda x: x[:, : 1 + n % 2]) if x.shape[1] > 2 else None


@kind("sequence")
def first_token(x: Tensor, n: int) -> Step:
    return plain(lambda x: x[:, 0])


@kind("sequence")
def attention_pool(x: Tensor, n: int) -> Step:
    return Step(nn.Linear(x.shape[2], 1), lambda m, x: (m(x).softmax(1) * x).sum(1))


@kind("sequence")
def to_image(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.transpose(1, 2).unsqueeze(-1))


@kind("sequence")
def to_square(x: Tensor, n: int) -> Step | None:
    t = x.shape[1]
    h = divisor(t, n)
    return plain(lambda x: x.transpose(1, 2).reshape(x.shape[0], x.shape[2], h, t // h))


@kind("sequence")
def pool_tokens(x: Tensor, n: int) -> Step | None:
    if min(x.shape[1:]) < 4:
        return None
    return plain((lambda x: F.avg_pool2d(x, 2)) if n % 2 else (lambda x: F.adaptive_avg_pool1d(x, 2)))


@kind("sequence")
def scored(x: Tensor, n: int) -> Step:
    """A product with a vector."""
    return Step(Held(query=torch.randn(x.shape[2])), lambda m, x: x * (x @ m.query).sigmoid().unsqueeze(-1))
