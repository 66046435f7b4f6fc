"""Templates against real exports: what the runtime makes of both, and what both compute."""

import copy
import functools
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from niwaki.distill.cifar_resnet import CifarResNet
from niwaki.search.export.onnx import ONNX
from niwaki.search.targets import parse
from niwaki.search.targets._onnx_graph import TemplateError
from niwaki.search.targets._onnx_maker import Maker
from niwaki.search.targets._onnx_profile import Event, node_times
from niwaki.search.targets._onnx_sizes import Sizes, uneven
from niwaki.search.targets._onnx_template import OnnxTemplate, distinct
from niwaki.search.targets.onnxruntime import session_options
from niwaki.spaces import Candidate, carve, derive
from niwaki.spaces.check import draw
from niwaki.spaces.errors import InputError


class Excite(nn.Module):
    """A depthwise block with squeeze-excite around a shortcut."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, groups=inner), nn.BatchNorm2d(inner))
        self.squeeze = nn.Conv2d(inner, 5, 1)
        self.excite = nn.Conv2d(5, inner, 1)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.depthwise(self.expand(x)))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        return F.relu(x + self.project(y * torch.sigmoid(gate)))


class Shuffle(nn.Module):
    """Half of the channels pass, the others are convolved, then they are shuffled; a GroupNorm, a split in three."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3)
        self.branch = nn.Conv2d(12, 12, 3, padding=1)
        self.norm = nn.GroupNorm(4, 24)
        self.three = nn.Conv2d(24, 30, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.stem(x).chunk(2, 1)
        y = torch.cat([a, self.branch(b)], 1)
        y = y.unflatten(1, (2, 12)).transpose(1, 2).flatten(1, 2)
        q, k, v = self.three(F.relu(self.norm(y))).split(10, 1)
        return self.head((q * k.sigmoid() + v).mean((2, 3)))


class Dense(nn.Module):
    """Every convolution reads all before it; normalisers stand before activations and cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(12), nn.BatchNorm2d(20), nn.BatchNorm2d(28)])
        self.convs = nn.ModuleList([nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(20, 8, 3, padding=1)])
        self.head = nn.Linear(28, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            y = torch.cat([y, conv(F.relu(norm(y)))], 1)
        return self.head(F.adaptive_avg_pool2d(self.norms[2](y), 1).flatten(1))


def _residual() -> nn.Module:
    blocks = nn.Sequential(Excite(16, 24), Excite(16, 20), Excite(16, 28))
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), blocks, nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(16, 7))


def _vit() -> nn.Module:
    return VisionTransformer(image_size=16, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48,
                             num_classes=5)


FAMILIES = {
    "residual": _residual, "shuffle": Shuffle, "dense": Dense, "vit": _vit,
    "option_a": lambda: CifarResNet(blocks=1, classes=4),
}
PREFIX = ("residual",)
"""Families in which the first units of every group are the first places of every constant, as the template takes it:
not where a dimension is a sum of groups that starts in the middle, or heads times their widths."""


@functools.cache
def _setting(family: str):
    """Model, space, inputs, template: building takes seconds, and nothing changes them."""
    torch.manual_seed(3)
    model = FAMILIES[family]().eval()
    for value in [*model.parameters(), *model.buffers()]:  # as if trained: nothing is 0, 1, or equal to another
        if value.is_floating_point():
            value.data.add_(torch.rand(value.shape) * 0.1)
    inputs = (torch.rand(1, 3, 16, 16),)
    space = derive(model, torch.rand(2, 3, 16, 16))
    return model, space, inputs, OnnxTemplate.build(space, lambda c: carve(model, space, c), inputs)


def _real(model, space, candidate, inputs):
    return ONNX(dynamic_batch=False).serialize(copy.deepcopy(carve(model, space, candidate)).eval(), inputs)


def _run(data, inputs):
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs[0].numpy()})


def _as_run(data, path):
    """What ONNX Runtime makes of a file: sorted (operation, integer attributes, shapes of constants)."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path).graph
    constants = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
    rows = []
    for node in graph.node:
        numbers = {a.name: list(a.ints) or a.i for a in node.attribute if a.type in (a.INT, a.INTS)}
        sizes = [constants[n] for n in node.input if n in constants]
        rows.append((node.domain, node.op_type, sorted(numbers.items()), sizes))
    return sorted(rows, key=str)


def _candidates(space, count):
    return [draw(space, torch.Generator().manual_seed(20 + seed))[0] for seed in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_runtime_sees_what_a_real_export_would_give_it(family, tmp_path):
    model, space, inputs, template = _setting(family)
    for candidate in _candidates(space, 1):
        made, real = template.serialize(candidate), _real(model, space, candidate, inputs)
        onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
        assert _as_run(made, tmp_path / "made.onnx") == _as_run(real, tmp_path / "real.onnx")
        for a, b in zip(_run(made, inputs), _run(real, inputs), strict=True):
            assert a.shape == b.shape
            assert np.isfinite(a).all()
            if family in PREFIX:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_candidate_runs_and_has_the_parameters_that_the_space_counts(family):
    model, space, inputs, template = _setting(family)
    classes = _run(template.serialize(space.largest()), inputs)[0].shape
    counted = []
    for candidate in [space.largest(), space.smallest(), *_candidates(space, 6)]:
        data = template.serialize(candidate)
        assert _run(data, inputs)[0].shape == classes
        graph = onnx.load_from_string(data).graph
        sizes = {t.name: tuple(t.dims) for t in graph.initializer}
        weights = {n.input[1] for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")} & set(sizes)
        student = carve(model, space, candidate).state_dict()
        truth = sum(t.numel() for key, t in student.items() if key.endswith("weight") and t.dim() > 1)
        counted.append((sum(np.prod(sizes[name]) for name in weights), truth))
    assert all(a == b for a, b in counted)


def test_a_removed_block_leaves_nothing_behind():
    _, space, _, template = _setting("residual")
    (stage, blocks), = space.stages.items()
    full = space.largest()
    for kept in range(space.least[stage], len(blocks) + 1):
        graph = onnx.load_from_string(template.serialize(Candidate(full.widths, frozenset(blocks[kept:])))).graph
        names = {t.name for t in graph.initializer}
        assert {n.split(".")[1] for n in names if n.startswith("2.")} == {b.split(".")[1] for b in blocks[:kept]}
        assert [n.op_type for n in graph.node].count("Conv") == 1 + 5 * kept
        assert not any(a.op_type == b.op_type == "Relu" and b.input[0] == a.output[0]
                       for a in graph.node for b in graph.node)


def test_only_candidates_of_the_space_are_made():
    _, space, _, template = _setting("residual")
    widths = space.largest().widths
    with pytest.raises(InputError, match="unknown name 'nobody'"):
        template.serialize(Candidate({**widths, "nobody": 1}))
    blocks = next(iter(space.stages.values()))
    with pytest.raises(InputError, match="keeps its first blocks"):
        template.serialize(Candidate(widths, frozenset(blocks[:1])))


def test_sizes_are_found_by_what_they_are_in_the_fitted_candidates():
    _, space, _, _ = _setting("dense")
    sizes = Sizes(space, 1, 0)
    stem, one, two = (np.array([c.widths[g.name] for c in sizes.fitted]) for g in space.groups[:3])
    probe = uneven(space, torch.Generator().manual_seed(77))
    a, b, c = (probe.widths[g.name] for g in space.groups[:3])
    known = sizes.of(probe)
    for values, expected in [
        (stem, a), (stem + one, a + b), (stem + one + two, a + b + c), (7 * stem, 7 * a),
        (stem * one, a * b), (3 * stem * two, 3 * a * c), (0 * stem + 9, 9),
    ]:
        assert sizes.find(tuple(values.tolist()), 0.5)(known) == expected
    assert sizes.find(tuple((stem * one * two + 1).tolist()), 0.5) is None
    assert sizes.find(tuple((stem - stem[0]).tolist()), 0.5) is None


def test_only_constant_and_repeated_tensors_are_changed():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    net[2].load_state_dict(net[0].state_dict())
    before = copy.deepcopy(net.state_dict())
    distinct(net)
    same = {k for k, v in net.state_dict().items() if torch.equal(v, before[k])}
    assert same == {"0.weight", "0.bias", "1.num_batches_tracked"}
    floats = [v for v in net.state_dict().values() if v.is_floating_point()]
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(floats) for b in floats[:i])


def _small():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 3)).eval()
    return net, derive(net, torch.rand(2, 3, 8, 8)), (torch.rand(1, 3, 8, 8),)


def test_a_maker_has_the_batch_of_its_inputs_and_leaves_the_model_as_it_is():
    net, space, _ = _small()
    net[0].bias.data.zero_()
    inputs = (torch.rand(3, 3, 8, 8),)
    before = copy.deepcopy(net.state_dict())
    whole = space.largest()
    maker = parse("onnxruntime").maker(space, lambda c: net if c == whole else carve(net, space, c), inputs)
    assert maker.reason is None
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    candidate = _candidates(space, 1)[0]
    truth = carve(net, space, candidate)(*inputs).detach().numpy()
    assert truth.shape == (3, 3)
    np.testing.assert_allclose(maker(candidate)()[0], truth, atol=0.05)  # biases of zero are given small values


def _deeper(net, space, candidate):
    """A carving that depends on widths in more than sizes."""
    student = carve(net, space, candidate)
    return student if candidate == space.largest() else student.append(nn.Tanh())


def test_what_has_no_template_says_why_and_is_exported():
    net, space, inputs = _small()
    maker = parse("onnxruntime").maker(space, lambda c: _deeper(net, space, c), inputs)
    assert maker.template is None
    assert re.search(r"different operations: \d+ and \d+, from 'node_", maker.reason)
    candidate = space.smallest()
    truth = _deeper(net, space, candidate)(*inputs).detach().numpy()
    np.testing.assert_allclose(maker(candidate)()[0], truth, rtol=1e-4, atol=1e-5)
    assert set(maker.profile(candidate, 4)) <= {row.name for row in space.layers([candidate])}


def test_a_template_that_fits_but_is_wrong_elsewhere_is_refused():
    net, space, inputs = _small()
    fitted = {c.key for c in Sizes(space, 1, 0).fitted}

    def wrong(candidate):
        student = carve(net, space, candidate)
        if candidate.key not in fitted:
            student[4] = nn.Linear(student[4].in_features, 5)
        return student

    with pytest.raises(TemplateError, match=r"the template has .*Gemm.* where an export has"):
        OnnxTemplate.build(space, wrong, inputs)


@pytest.mark.parametrize("family", ["residual", "vit"])
def test_profiles_are_by_row_of_the_layers_that_are_left(family):
    model, space, inputs, template = _setting(family)
    maker = Maker(space, lambda c: carve(model, space, c), inputs, lambda: session_options(1), template)
    for candidate in (space.largest(), *_candidates(space, 1)):
        times = maker.profile(candidate, 6)
        rows = {row.name: row for row in space.layers([candidate])}
        assert set(times) <= set(rows)
        assert all(ms >= 0 for ms in times.values())
        assert sum(times.values()) > 0
        computing = {n for n, row in rows.items() if row.op in ("conv", "linear", "matmul") and row.alive[0]}
        assert computing <= set(times)
        assert not any(not rows[n].alive[0] for n in times)


def _node(op, name, inputs, output):
    return onnx.helper.make_node(op, inputs, [output], name=name)


def test_nodes_of_the_runtime_find_the_nodes_that_they_come_from():
    nodes = [
        _node("Conv", "a", ["x", "w"], "a_out"), _node("Relu", "r", ["a_out"], "r_out"),
        _node("Conv", "b", ["r_out", "w"], "b_out"), _node("Conv", "side", ["r_out", "w"], "side_out"),
        _node("Add", "sum", ["b_out", "side_out"], "sum_out"), _node("Relu", "last", ["sum_out"], "last_out"),
        _node("MatMul", "product", ["last_out", "m"], "product_out"),
    ]
    events = [
        Event("ReorderInput", "ReorderInput", 1), Event("r_out_nchwc", "Conv", 2), Event("b_out_nchwc", "Conv", 4),
        Event("last_out_nchwc", "Conv", 8), Event("ReorderOutput_token_3", "ReorderOutput", 16),
        Event("gemm_input_reshape_token_1", "Reshape", 32), Event("product/MatMulAddFusion", "Gemm", 64),
        Event("gemm_output_reshape", "Reshape", 128),
    ]
    assert node_times(events, nodes) == {"a": 1 + 2, "b": 4, "side": 8 + 16, "product": 32 + 64 + 128}
    events = [Event("a", "FusedConv", 3), Event("side", "Conv", 5), Event("last_out_nchwc", "Conv", 7)]
    assert node_times(events, nodes) == {"a": 3, "side": 5, "b": 7}
