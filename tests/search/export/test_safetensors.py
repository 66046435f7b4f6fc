"""Sparse storage: exact bytes, and bit for bit the same weights after reading."""

import json
import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from niwaki.search.export import ExportError, Subject
from niwaki.search.export.safetensors import SafeTensors, pack, unpack
from niwaki.spaces.sparsity import Sparsity


def _sparse_layer(outputs, inputs, token, seed):
    """A weight that meets its pattern by construction: ``kept`` places of a random order (or n of each m) stay."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    rule = Sparsity.parse(token)
    if rule.m:
        for row in weight:
            for start in range(0, inputs - rule.m + 1, rule.m):
                row[start + torch.randperm(rule.m, generator=generator)[rule.n:]] = 0
    else:
        order = torch.randperm(weight.numel(), generator=generator)
        weight.view(-1)[order[rule.kept(weight.numel(), inputs):]] = 0
    return weight


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 13), st.sampled_from(["0.5", "0.9", "0.3", "2:4", "1:4"]), st.integers(0, 99))
def test_pack_stores_what_costs_count_and_unpack_gives_it_back(outputs, inputs, token, seed):
    weight = _sparse_layer(outputs, inputs, token, seed)
    tensors, header = pack({"a.weight": weight, "a.bias": weight[:, 0]}, {"a": token})
    stored = sum(t.numel() * t.element_size() for k, t in tensors.items() if k.startswith("a.weight"))
    assert stored == Sparsity.parse(token).stored_bytes(weight.numel(), inputs, 4)
    back = unpack(tensors, header)
    assert back.keys() == {"a.weight", "a.bias"}
    assert torch.equal(back["a.weight"], weight)
    assert back["a.weight"].shape == weight.shape


def test_bitmap_is_most_significant_bit_first():
    weight = torch.tensor([[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 7.0], [3.0, 0.0, 0.0, 0.0]])
    tensors, _ = pack({"a.weight": weight}, {"a": "0.75"})
    assert tensors["a.weight.values"].tolist() == [5.0, 7.0, 3.0]
    assert tensors["a.weight.bitmap"].tolist() == [0b01000001, 0b10000000]


def test_more_zeros_than_the_pattern_asks_for_are_stored_as_values():
    tensors, header = pack({"a.weight": torch.zeros(2, 4)}, {"a": "0.5"})
    assert tensors["a.weight.values"].tolist() == [0.0] * 4
    assert torch.equal(unpack(tensors, header)["a.weight"], torch.zeros(2, 4))


def test_fewer_zeros_than_the_pattern_asks_for_are_an_error():
    with pytest.raises(ExportError, match=r"'a.weight' has 8 non-zero weights, its pattern '0.5' keeps 4"):
        pack({"a.weight": torch.ones(2, 4)}, {"a": "0.5"})


def test_a_sparse_layer_that_is_not_there_is_an_error():
    with pytest.raises(ExportError, match=r"'b' has no 'b.weight'"):
        pack({"a.weight": torch.ones(2, 4)}, {"b": "0.5"})


def test_the_file_holds_exactly_these_bytes(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight.copy_(_sparse_layer(8, 27, "2:4", 0).view(8, 3, 3, 3) * -1.0)
    subject = Subject.of(model, torch.randn(2, 3, 3, 3), {"0": "2:4"})
    SafeTensors().write(subject, tmp_path / "m.safetensors")
    assert SafeTensors().error(subject, tmp_path / "m.safetensors") == 0.0
    data = (tmp_path / "m.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8: 8 + length])
    dense = sum(t.numel() * t.element_size() for k, t in model.state_dict().items() if k != "0.weight")
    # 27 inputs in groups of 4: six groups keep 2 each, the tail of 3 stays dense; one bit for each of 216 positions
    assert len(data) - 8 - length == dense + 8 * (6 * 2 + 3) * 4 + math.ceil(216 / 8)
    assert header["0.weight.bitmap"]["dtype"] == "U8"


def test_reading_restores_a_model(tmp_path):
    torch.manual_seed(0)
    model, other = (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(2))
    SafeTensors().write(Subject.of(model, torch.randn(2, 4)), tmp_path / "m")
    other.load_state_dict(SafeTensors().read(tmp_path / "m"))
    x = torch.randn(3, 4)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_tied_weights_are_written_under_every_key(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    subject = Subject.of(model, torch.randn(2, 4))
    SafeTensors().write(subject, tmp_path / "m")
    assert SafeTensors().error(subject, tmp_path / "m") == 0.0
    assert {"0.weight", "1.weight"} <= SafeTensors().read(tmp_path / "m").keys()
