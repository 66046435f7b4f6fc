"""Depth: which branches are found, how they are named and staged, and that a carved model lacks exactly them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from niwaki.spaces import Candidate, Space, carve, count, derive
from niwaki.spaces.blocks import Cone, find_cones
from niwaki.spaces.cut import Cut
from niwaki.spaces.source import SourceModule
from niwaki.spaces.stages import group_stages
from niwaki.spaces.trace import Mode, trace
from tests.spaces.reference import relative, silence
from tests.zoo import build, randomise

# model: input, stages with the number of blocks by the architecture's own tables, how many shortcuts project
KNOWN: dict[str, tuple[tuple[int, ...], list[int], int]] = {
    "resnet18": ((64, 64), [2, 2, 2, 2], 3),
    "resnet50": ((64, 64), [3, 4, 6, 3], 4),
    "regnet_x_400mf": ((64, 64), [1, 2, 7, 12], 4),
    "mobilenet_v2": ((64, 64), [1, 2, 3, 2, 2], 0),
    "efficientnet_b0": ((64, 64), [1, 1, 2, 2, 3], 0),
    "convnext_tiny": ((64, 64), [3, 3, 9, 3], 0),
    "vit_b_16": ((224, 224), [12, 12], 0),
    "swin_t": ((64, 64), [2, 2, 2, 2, 6, 6, 2, 2], 0),
    "squeezenet1_1": ((64, 64), [], 0),
    "shufflenet_v2_x0_5": ((64, 64), [], 0),
    "r3d_18": ((4, 32, 32), [2, 2, 2, 2], 3),
    "mc3_18": ((4, 32, 32), [2, 2, 2, 2], 3),
    "swin3d_t": ((4, 64, 64), [2, 2, 2, 2, 6, 6, 2, 2], 0),
}
SLOW: dict[str, tuple[tuple[int, ...], list[int], int]] = {
    "densenet121": ((64, 64), [], 0),
    "googlenet": ((64, 64), [], 0),
    "maxvit_t": ((224, 224), [2] * 10 + [5] * 5 + [2] * 5, 4),
    "s3d": ((16, 224, 224), [], 0),
    "mvit_v1_b": ((16, 224, 224), [1, 1, 2, 1, 1, 11, 10, 1, 2, 2], 6),
}


def children(model: nn.Module) -> dict[str, set[str]]:
    return {
        path: {n for n, child in module.named_children() if next(child.parameters(), None) is not None}
        for path, module in model.named_modules()
    }


def found(model: nn.Module, x: Tensor) -> list[Cone]:
    """Cones of the eval graph, once both graphs are seen to have the same names."""
    cones = {mode: find_cones(p) for mode, p in trace(model, x).items()}
    assert [c.name for c in cones["eval"]] == [c.name for c in cones["train"]]
    names = [c.name for c in cones["eval"]]
    assert len(set(names)) == len(names)
    return cones["eval"]


@pytest.mark.parametrize("name", [*KNOWN, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_blocks_of_known_networks(name: str) -> None:
    size, stages, projections = {**KNOWN, **SLOW}[name]
    with torch.device("meta"):
        options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, **options) if "regnet" not in name else None
    model = model if model is not None else torchvision.models.get_model(name, weights=None).to("meta")
    cones = found(model, torch.zeros(2, 3, *size, device="meta"))
    blocks, least = group_stages(cones, children(model))
    lengths: dict[str, int] = {}
    for block in blocks:
        assert block.position == lengths.get(block.stage, 0)
        lengths[block.stage] = block.position + 1
    assert list(lengths.values()) == stages
    assert sum(c.projects for c in cones) == projections
    first = {b.stage: next(c for c in cones if c.name == b.name) for b in blocks if b.position == 0}
    assert all(least[s] == 0 for s, cone in first.items() if cone.projects)
    assert all(not c.projects for c in cones if c not in first.values())


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 12, dropout=0.1, num_classes=5)


def swin() -> nn.Module:
    model: nn.Module = torchvision.models.SwinTransformer(
        [2, 2], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.3, num_classes=5
    )
    return model


def maxvit() -> nn.Module:
    model: nn.Module = torchvision.models.MaxVit((32, 32), 8, 4, [8, 16], [2, 1], 4, 0.2, num_classes=5)
    return model


def convnext() -> nn.Module:
    setting = [torchvision.models.convnext.CNBlockConfig(*s) for s in ((8, 12, 2), (12, None, 2))]
    model: nn.Module = torchvision.models.ConvNeXt(setting, 0.3, num_classes=5)
    return model


class Encoder(nn.Module):
    """torch's own transformer layers; ``first``: normalised before or after the branches."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=first)
        self.inputs, self.body = nn.Linear(3, 8), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.inputs(x)).mean(1))


class Pooled(nn.Module):
    """A shortcut that pools, a scaled one, a blurred projection, activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scale = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.rand(8, 1, 1))
        self.a = nn.Sequential(nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 1))
        self.b = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 1))
        self.c = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 12, 1))
        self.blur, self.project = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.stem(x))
        x = F.relu_(F.avg_pool2d(x, 2) + self.a(x))
        x = F.relu_((x * self.scale).add_(self.b(x)))
        x = F.relu_(self.c(x).add_(self.project(self.blur(x))))
        return self.head(x.mean((2, 3)))


# name: how to make it, its input, its blocks
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str]]] = {
    "option_a": (lambda: build("residual_a")[0], (3, 8, 8), [f"layer{i}.{k}" for i in (1, 2) for k in range(3)]),
    "projection": (lambda: build("residual_b")[0], (3, 8, 8), [f"layer{i}.{k}" for i in (1, 2) for k in range(3)]),
    "preactivation": (lambda: build("preactivation")[0], (3, 8, 8), ["blocks.0", "blocks.1", "blocks.2"]),
    "inverted": (lambda: build("inverted")[0], (3, 8, 8), ["blocks.0", "blocks.1"]),
    "pooled": (Pooled, (3, 8, 8), ["a", "b", "c"]),
    "convnext": (convnext, (3, 32, 32), ["features.1.0", "features.1.1", "features.3.0", "features.3.1"]),
    "vit": (
        vit,
        (3, 16, 16),
        [f"encoder.layers.encoder_layer_{i}.{p}" for i in (0, 1) for p in ("self_attention", "mlp")],
    ),
    "swin": (swin, (3, 32, 32), [f"features.{s}.{i}.{p}" for s in (1, 3) for i in (0, 1) for p in ("attn", "mlp")]),
    "maxvit": (
        maxvit,
        (3, 32, 32),
        [
            f"blocks.{layer}.layers.{p}"
            for layer in ("0.layers.0", "0.layers.1", "1.layers.0")
            for p in ("MBconv", *(f"{w}_attention.{b}_layer" for w in ("window", "grid") for b in ("attn", "mlp")))
        ],
    ),
    **{
        f"torch_{'pre' if first else 'post'}": (
            lambda first=first: Encoder(first),  # type: ignore[misc]
            (7, 3),
            [f"body.layers.{i}.{p}" for i in range(3) for p in ("self_attn", "linear1+linear2")],
        )
        for first in (True, False)
    },
}


@cache
def case(name: str) -> tuple[nn.Module, Tensor, Space]:
    torch.manual_seed(1)
    make, shape, _ = NETS[name]
    model = randomise(make()).double()
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return model, x, derive(model, x)


def silenced(model: nn.Module, space: Space, skipped: frozenset[str]) -> nn.Module:
    full = copy.deepcopy(model)
    for name in skipped:
        silence(full, space, name)
    return full


def check(model: nn.Module, x: Tensor, space: Space, candidate: Candidate, student: nn.Module) -> None:
    """Eval: the outputs of the model without what the blocks add; exact costs. Train: gradients for what is left."""
    out, truth = student.eval()(x).detach(), silenced(model, space, candidate.skipped).eval()(x).detach()
    assert relative(out, truth) < 1e-9
    assert space.cost(candidate) == count(student, x)
    student.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
    assert student(x[:1].repeat(3, *[1] * (x.dim() - 1))).shape[0] == 3


@pytest.mark.parametrize("name", NETS)
def test_blocks_go_alone(name: str) -> None:
    """Any block, not only the last of its stage (of many, some of every kind)."""
    model, x, space = case(name)
    assert [b.name for b in sorted(space.blocks, key=lambda b: NETS[name][2].index(b.name))] == NETS[name][2]
    whole = {g.name: torch.arange(g.units) for g in space.groups}
    before = space.cost(space.largest())
    for block in space.blocks[:: 1 + len(space.blocks) // 8]:
        candidate = Candidate(space.largest().widths, frozenset({block.name}))
        student = Cut(model, space, candidate, whole).as_source()
        check(model, x, space, candidate, student)
        assert space.cost(candidate).macs < before.macs
        assert space.cost(candidate).params < before.params


@pytest.mark.parametrize("name", NETS)
def test_blocks_go_together(name: str) -> None:
    """All that may go, and every stage at a length of its own, by either route of carving."""
    model, x, space = case(name)
    lengths = [{s: space.least[s] for s in space.stages}]
    lengths.append({s: max(space.least[s], i % (len(b) + 1)) for i, (s, b) in enumerate(space.stages.items())})
    for keep in lengths:
        skipped = frozenset(b for s, blocks in space.stages.items() for b in blocks[keep[s] :])
        candidate = Candidate(space.largest().widths, skipped)
        assert space.contains(candidate)
        check(model, x, space, candidate, carve(model, space, candidate))


@pytest.mark.parametrize("name", ["projection", "option_a"])
def test_train_mode_of_batch_norm_nets(name: str) -> None:
    """Nothing random there: outputs and running statistics are the silenced model's, to rounding."""
    model, x, space = case(name)
    for skipped in (frozenset({"layer2.0"}), frozenset({"layer1.1", "layer2.2"}), frozenset(space.stages["layer2"])):
        candidate = Candidate(space.largest().widths, skipped)
        whole = {g.name: torch.arange(g.units) for g in space.groups}
        student = Cut(model, space, candidate, whole).as_source().train()
        full = silenced(model, space, skipped).train()
        assert relative(student(x).detach(), full(x).detach()) < 1e-9
        state = full.state_dict()
        assert all(torch.allclose(v, state[k], atol=1e-12) for k, v in student.state_dict().items())
        assert not any(k.startswith(f"{b}.conv") for b in skipped for k in student.state_dict())


def test_stages() -> None:
    """Branches of one layer are decided apart; a projection goes last and leaves something, so its stage may empty."""
    stages = {name: (case(name)[2].stages, case(name)[2].least) for name in ("vit", "torch_post", "swin", "projection")}
    layers = [f"encoder.layers.encoder_layer_{i}" for i in range(2)]
    assert stages["vit"][0] == {
        "encoder.layers/self_attention": tuple(f"{n}.self_attention" for n in layers),
        "encoder.layers/mlp": tuple(f"{n}.mlp" for n in layers),
    }
    assert set(stages["torch_post"][0]) == {"body.layers/self_attn", "body.layers/linear1+linear2"}
    assert set(stages["swin"][0]) == {f"features.{i}/{p}" for i in (1, 3) for p in ("attn", "mlp")}
    assert stages["projection"][1] == {"layer1": 1, "layer2": 0}
    assert all(n == 1 for n in stages["vit"][1].values())


def test_class_or_source() -> None:
    """Identity stands in for blocks that would give back their input; a projection that stays takes the graph."""
    model, _, space = case("projection")
    widths = space.uniform(0.5).widths
    assert isinstance(carve(model, space, Candidate(widths, frozenset({"layer2.2"}))), type(model))
    assert isinstance(carve(model, space, Candidate(widths, frozenset(space.stages["layer2"]))), SourceModule)
    model, _, space = case("convnext")
    student = carve(model, space, Candidate(widths := space.uniform(0.5).widths, frozenset({"features.3.1"})))
    assert isinstance(student, type(model))
    assert isinstance(student.get_submodule("features.3.1"), nn.Identity)
    model, _, space = case("preactivation")
    assert isinstance(carve(model, space, Candidate(space.largest().widths, frozenset({"blocks.2"}))), SourceModule)


def block(body: Callable[[Tensor, nn.Module], Tensor], **layers: nn.Module) -> nn.Module:
    """A network whose middle is ``body``, between a stem and a head."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
            for key, layer in layers.items():
                self.add_module(key, layer)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(body(self.stem(x), self))

    torch.manual_seed(0)
    return Net().double()


def conv() -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1)


def leak(x: Tensor, net: Any) -> Tensor:
    y = net.f(x)
    return torch.tanh(net.g(x + y) * y.mean((2, 3), keepdim=True))


def writes_into_its_input(x: Tensor, net: Any) -> Tensor:
    y = net.f(x)
    x[:, :, 0].mul_(0.0 * y.mean())
    return x + y


NOT_BLOCKS: dict[str, nn.Module] = {
    "equal branches": block(lambda x, n: n.f(x) + n.g(x), f=conv(), g=conv()),
    "no layer": block(lambda x, n: 0.5 * x * (1 + torch.tanh(x + 0.04 * x**3))),
    "twice the input": block(lambda x, n: x + x),
    "gates that share": block(lambda x, n: (t := torch.sigmoid(n.f(x))) * n.g(x) + (1 - t) * x, f=conv(), g=conv()),
    "writes into its input": block(writes_into_its_input, f=conv()),
    "used elsewhere": block(leak, f=conv(), g=conv()),
    "concatenation": block(lambda x, n: torch.cat((x[:, :4], n.f(x)[:, 4:]), 1), f=conv()),
    "broadcast": block(lambda x, n: x + n.f(x).mean((2, 3), keepdim=True), f=conv()),
    "scaled shortcut": block(lambda x, n: torch.add(n.f(x), x, alpha=2), f=conv()),
}


@pytest.mark.parametrize("name", NOT_BLOCKS)
def test_not_a_block(name: str) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert [c.name for c in found(NOT_BLOCKS[name], x) if "f" in c.name.split("+")] == []
    assert not derive(NOT_BLOCKS[name], x).blocks


class Refines(nn.Module):
    """Super-resolution: the network adds details to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g, self.h = nn.Conv2d(3, 8, 1), conv(), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.f(x)
        return x + self.h(y + self.g(y))


def test_a_skip_past_the_whole_network_is_no_block() -> None:
    assert [c.name for c in found(Refines(), torch.randn(2, 3, 6, 6))] == ["g"]


def read_later(x: Tensor, net: Any) -> Tensor:
    """``x`` is read after what the block gave was changed in place."""
    return net.g(F.relu_(x + net.f(x))) - x


def changed_later(x: Tensor, net: Any) -> Tensor:
    """``x`` is changed in place while what the block gave is still to be read."""
    y = x + net.f(x)
    return net.g(F.relu_(x)) - y


def changed_by_view(x: Tensor, net: Any) -> Tensor:
    y = x + net.f(x)
    y[:, :2].mul_(3.0)
    return net.g(y) - x


def many_in_place(x: Tensor, net: Any) -> Tensor:
    x = F.relu_(x)
    x = F.relu_(net.f(x).add_(x))
    return F.relu_(net.g(x).add_(x))


@pytest.mark.parametrize("body", [read_later, changed_later, changed_by_view, many_in_place])
def test_memory_is_not_shared(body: Callable[[Tensor, nn.Module], Tensor]) -> None:
    """Without the branch the sum is its shortcut: writing to one must not show in the other, nor stop autograd."""
    model, x = block(body, f=conv(), g=conv()), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    space = derive(model, x)
    whole = {g.name: torch.arange(g.units) for g in space.groups}
    assert "f" in {b.name for b in space.blocks}
    for skipped in {frozenset({"f"}), frozenset(b.name for b in space.blocks)}:
        candidate = Candidate(space.largest().widths, skipped)
        student = Cut(model, space, candidate, whole).as_source()
        modes: tuple[Mode, ...] = ("eval", "train")
        full = silenced(model, space, skipped)
        for mode in modes:
            given = x.clone()
            assert relative(student.train(mode == "train")(given).detach(), full(x).detach()) < 1e-12
            assert torch.equal(given, x)
        check(model, x, space, candidate, student)


def test_names_where_modules_do_not_follow_the_branches() -> None:
    """The addition in a module of its own (as in BERT), layers of the root itself, one module that runs twice."""

    class Output(nn.Module):
        def __init__(self, i: int) -> None:
            super().__init__()
            self.dense, self.norm = nn.Linear(i, 8), nn.LayerNorm(8)

        def forward(self, y: Tensor, x: Tensor) -> Tensor:
            return self.norm(self.dense(y) + x)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.ModuleDict({"inner": nn.Linear(8, 6), "output": Output(6)})
            self.wide, self.output = nn.Linear(8, 12), Output(12)

        def forward(self, x: Tensor) -> Tensor:
            x = self.mix["output"](torch.tanh(self.mix["inner"](x)), x)
            return self.output(F.gelu(self.wide(x)), x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(Layer(), Layer())
            self.up, self.down, self.again = nn.Linear(8, 9), nn.Linear(9, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            x = x + self.down(torch.relu(self.up(x)))
            for _ in range(2):
                x = x + torch.relu(self.again(x))
            return x

    net, x = Net(), torch.randn(2, 4, 8)
    cones = found(net, x)
    assert [c.name for c in cones] == [
        *(f"layer.{i}.{p}" for i in (0, 1) for p in ("mix", "wide+output")),
        *("up+down", "again#0", "again#1"),
    ]
    blocks, _ = group_stages(cones, children(net))
    assert list(dict.fromkeys(b.stage for b in blocks)) == ["layer/mix", "layer/wide+output", "up+down", "again"]
