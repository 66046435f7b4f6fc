"""What users say about a space: keywords, lists, patterns, and the messages for what means nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from niwaki.spaces import InputError, SpaceOptions, derive
from niwaki.spaces.options import changed, matches

NET = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1))
X = torch.zeros(2, 3, 8, 8)


def test_keywords_are_the_fields_and_go_on_top_of_options() -> None:
    space = derive(NET, X, step=4, ratios=[0.5])
    assert space.widths == {"0": (8, 16), "2": (8, 12)}
    assert space.digest == derive(NET, X, SpaceOptions(step=4, ratios=(0.5,))).digest
    assert derive(NET, X, SpaceOptions(step=4), ratios=[0.5]).digest == space.digest
    assert derive(NET, X, SpaceOptions(step=2, ratios=[0.5]), step=4).digest == space.digest


def test_an_unknown_keyword_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown option 'kept'; did you mean 'keep'"):
        derive(NET, X, kept=["0"])  # type: ignore[call-arg]


def test_lists_become_tuples_and_stay_equal() -> None:
    lists = SpaceOptions(ratios=[0.5], keep=["a"], tie=["a*", ["b", "c"]], widths={"a": [4]})
    assert lists == SpaceOptions(ratios=(0.5,), keep=("a",), tie=(("a*",), ("b", "c")), widths={"a": (4,)})
    assert hash(lists) == hash(changed(lists, {}))
    assert lists.tie == (("a*",), ("b", "c"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (4, 6, 8, 9, 11, 12, 14, 16)),
        ({"widths": {"conv": [3, 9]}}, (3, 9, 16)),
        ({"widths": {"conv": [1]}}, (1, 16)),  # one unit, where 1.0 is all of them
        ({"widths": {"conv": [1.0]}}, (16,)),
        ({"widths": {"conv": [0.25, 10]}}, (4, 10, 16)),
        ({"widths": {"con?": [0.5]}, "step": 5}, (10, 16)),  # ratios are rounded to steps,
        ({"widths": {"conv": [7]}, "step": 5}, (7, 16)),  # units were said exactly
        ({"widths": {"*": [2], "conv": [5], "other": [3]}}, (5, 16)),  # the last pattern that matches
        ({"widths": {"conv": [5], "*": [2]}}, (2, 16)),
        ({"ratios": [0.5], "step": {"conv": 3}}, (9, 16)),
        ({"ratios": [0.5], "step": {"other": 3}}, (8, 16)),
        ({"ratios": [0.5], "step": {"*": 3, "c*": 5}}, (10, 16)),
    ],
)
def test_choices_of_a_group(options: dict[str, object], expected: tuple[int, ...]) -> None:
    assert SpaceOptions(**options).choices(16, "conv") == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("layer1.0.conv1", "layer1", True),
        ("layer1.0.conv1", "layer1.*", True),
        ("layer1.0.conv1", "layer", False),
        ("layer10.conv", "layer1", False),
        ("attn.qkv#1", "attn.qkv", True),
        ("attn.qkv#1", "attn.qkv#1", True),
        ("attn.qkv#1", "attn.qkv#0", False),
        ("attn.qkv#1", "attn", True),
        ("0", "?", True),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, pattern) is expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": []}, "space.ratios"),
        ({"ratios": [0.5, 1.5]}, r"space.ratios.*1\.5"),
        ({"ratios": [True]}, "space.ratios.*True"),
        ({"ratios": 0.5}, "space.ratios: expected a list, got 0.5"),
        ({"keep": "layer1"}, "space.keep: expected a list, got 'layer1'"),
        ({"keep": [""]}, "space.keep: expected names or patterns, got ''"),
        ({"tie": "a"}, "space.tie: expected a list, got 'a'"),
        ({"tie": [["a", 3]]}, "space.tie: expected names or patterns, got 3"),
        ({"tie": [3]}, "space.tie: expected a list, got 3"),
        ({"step": 0}, "space.step must be >= 1.*got 0"),
        ({"step": {"a": 2.5}}, "space.step must be >= 1.*2.5"),
        ({"least": 1}, "space.least >= 2"),
        ({"widths": [8]}, "space.widths: expected pattern -> list"),
        ({"widths": {"a": 8}}, r"space.widths\['a'\]: expected a list, got 8"),
        ({"widths": {"a": []}}, r"space.widths\['a'\]: expected at least one width"),
        ({"widths": {"a": [0]}}, r"space.widths\['a'\]: 0 is neither units"),
        ({"widths": {"a": [1.5]}}, r"space.widths\['a'\]: 1.5 is neither"),
        ({"widths": {"a": [True]}}, r"space.widths\['a'\]: True is neither"),
        ({"sparsity": ["4:2"]}, "4:2"),
    ],
)
def test_what_means_nothing_is_named_with_its_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpaceOptions(**options)  # type: ignore[arg-type]
