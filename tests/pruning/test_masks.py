from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from niwaki.pruning import Masks
from niwaki.spaces.errors import InputError
from niwaki.spaces.sparsity import Sparsity

TOKENS = {"block.conv1": "2:4", "block.conv2": "0.7", "fc1": "0.93", "fc2": "3:5"}
OPTIMISERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def expected(model, tokens):
    weights = {layer: model.get_parameter(f"{layer}.weight") for layer in tokens}
    return {k: Sparsity.parse(tokens[k]).kept(w.numel(), w.numel() // w.shape[0]) for k, w in weights.items()}


def nonzeros(model, tokens):
    return {layer: int(model.get_parameter(f"{layer}.weight").count_nonzero()) for layer in tokens}


def train(model, masks, optimiser, hand, steps=12):
    model.train()
    for step in range(steps):
        x, y = hand.batches(seed=step)[0]
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
        masks.apply()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_zeros_hold_through_training_and_the_rest_moves(net, hand, name):
    masks = Masks.create(net, TOKENS)
    masks.apply()
    start = copy.deepcopy(net.state_dict())
    zero = {k: net.get_parameter(f"{k}.weight") == 0 for k in TOKENS}
    train(net, masks, OPTIMISERS[name](net.parameters()), hand)
    assert nonzeros(net, TOKENS) == expected(net, TOKENS)
    for layer in TOKENS:
        weight = net.get_parameter(f"{layer}.weight")
        assert torch.equal(weight == 0, zero[layer])
        assert not torch.equal(weight, start[f"{layer}.weight"])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_without_apply_they_would_not_hold(net, hand, name):
    """The test above can fail: the optimiser does revive masked weights."""
    masks = Masks.create(net, TOKENS)
    masks.apply()
    train(net, Masks(net, {}), OPTIMISERS[name](net.parameters()), hand)
    assert nonzeros(net, TOKENS) != expected(net, TOKENS)


def test_the_smallest_magnitudes_go_and_create_changes_nothing(net):
    before = copy.deepcopy(net.state_dict())
    masks = Masks.create(net, {"fc1": "0.5"})
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    masks.apply()
    old, new = before["fc1.weight"].abs(), net.fc1.weight
    assert old[new == 0].max() <= old[new != 0].min()
    assert torch.equal(new[new != 0], before["fc1.weight"][new != 0])
    untouched = {k: v for k, v in net.state_dict().items() if k != "fc1.weight"}
    assert all(torch.equal(v, before[k]) for k, v in untouched.items())


def test_density_is_the_share_that_stays(net):
    masks = Masks.create(net, TOKENS)
    counts = expected(net, TOKENS)
    assert masks.density() == pytest.approx(
        {k: counts[k] / net.get_parameter(f"{k}.weight").numel() for k in TOKENS})


def test_dense_and_nothing_are_no_change(net):
    masks = Masks.create(net, {"fc1": "dense"})
    before = net.fc1.weight.clone()
    masks.apply()
    Masks.create(net, {}).apply()
    assert torch.equal(net.fc1.weight, before)
    assert masks.density() == {"fc1": 1.0}


def test_state_makes_the_same_masks_elsewhere(net, hand):
    masks = Masks.create(net, TOKENS)
    other = hand.trained(hand.ResNet(), seed=9)
    Masks(other, pickle.loads(pickle.dumps(masks.state()))).apply()
    masks.apply()
    for layer in TOKENS:
        a, b = (m.get_parameter(f"{layer}.weight") for m in (net, other))
        assert torch.equal(a == 0, b == 0)


def test_apply_clears_nan_and_keeps_grads(net):
    masks = Masks.create(net, {"fc2": "0.5"})
    gone = ~masks.state()["fc2"]
    net.fc2.weight.grad = torch.ones_like(net.fc2.weight)
    with torch.no_grad():
        net.fc2.weight[gone] = float("nan")
    masks.apply()
    assert net.fc2.weight.isfinite().all()
    assert net.fc2.weight.requires_grad
    assert net.fc2.weight.grad.sum() == net.fc2.weight.numel()


def test_follows_a_parameter_that_is_replaced(net):
    masks = Masks.create(net, {"fc2": "0.5"})
    net.fc2.weight = nn.Parameter(torch.ones_like(net.fc2.weight).double())
    masks.apply()
    assert int(net.fc2.weight.count_nonzero()) == expected(net, {"fc2": "0.5"})["fc2"]


def test_a_model_that_is_one_layer():
    layer = nn.Linear(4, 2)
    Masks.create(layer, {"": "0.5"}).apply()
    assert int(layer.weight.count_nonzero()) == 4


@pytest.mark.parametrize(("tokens", "message"), [
    ({"fc11": "0.5"}, "'fc11': no such layer; did you mean 'fc1'"),
    ({"block": "0.5"}, "'block': no such layer"),
    ({"bn": "0.5"}, r"'bn': its weight is a vector \(6,\)"),
    ({"fc1": "1.5"}, r"fc1: sparsity '1.5': expected 'dense', a ratio in \[0, 1\)"),
    ({"fc1": "4:2"}, "fc1: sparsity '4:2'"),
    ({"fc1": "half"}, "fc1: sparsity 'half'"),
])
def test_bad_layers_and_tokens_are_refused(net, tokens, message):
    with pytest.raises(InputError, match=message):
        Masks.create(net, tokens)


def test_two_layers_with_one_weight_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(InputError, match="1 and 0 share one weight"):
        Masks.create(model, {"0": "0.5", "1": "2:4"})


def test_a_mask_of_another_shape_is_refused(net):
    with pytest.raises(InputError, match=r"fc2: expected a bool mask of shape \(3, 7\)"):
        Masks(net, {"fc2": torch.ones(3, 6, dtype=torch.bool)})
