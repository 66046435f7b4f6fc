"""Widths, steps and ties by pattern: what they give, and what they refuse."""

from __future__ import annotations

import pytest

from niwaki.spaces import Group, InputError, SpaceOptions, derive
from niwaki.spaces.arrange import arrange
from tests.zoo import build

MODEL, X = build("residual_a")


def group(name: str, units: int) -> Group:
    return Group(name, units, (units,), ())


A, B, C, D = group("net.a", 8), group("net.b", 8), group("net.c", 8), group("net.d", 16)


def ties(*entries: object, groups: tuple[Group, ...] = (A, B, C, D)) -> tuple[tuple[str, ...], ...]:
    return arrange(groups, [("head", "feeds the output")], SpaceOptions(tie=entries))[1]  # type: ignore[arg-type]


def test_every_entry_is_a_class() -> None:
    assert ties() == ()
    assert ties(["net.b", "net.a"]) == (("net.a", "net.b"),)  # in the order of the groups
    assert ties("net.[abc]") == (("net.a", "net.b", "net.c"),)


def test_entries_that_share_a_group_are_one_class() -> None:
    assert ties(["net.a", "net.b"], ["net.c", "net.b"]) == (("net.a", "net.b", "net.c"),)
    four = (A, B, C, group("net.e", 8))
    assert ties(["net.a", "net.b"], ["net.c", "net.e"], groups=four) == (("net.a", "net.b"), ("net.c", "net.e"))


def test_a_class_offers_what_all_of_it_offer() -> None:
    options = SpaceOptions(ratios=(0.25, 0.5, 0.75), widths={"net.b": [4, 5]}, tie=[["net.a", "net.b"]])
    groups, _ = arrange((A, B, C), [], options)
    assert {g.name: g.choices for g in groups} == {"net.a": (4, 8), "net.b": (4, 8), "net.c": (2, 4, 6, 8)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("net.[ad]", r"ties 'net.a' with 8 units to 'net.d' with 16; only groups of one size"),
        ("net.a", r"is the group 'net.a' alone.*\[\[a, b\]\]"),
        (["net.a", "nett.b"], r"space.tie: 'nett.b' matches no group; did you mean 'net.b'"),
        (["net.a", "head"], "space.tie: 'head' matches no group; 'head' is fixed: feeds the output"),
    ],
)
def test_ties_that_cannot_be(entry: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ties(entry)


def test_options_reach_the_groups_of_a_network() -> None:
    space = derive(MODEL, X, widths={"layer1.*": [0.5], "layer1.2.conv1": [3]}, step={"layer2": 3}, ratios=[0.5])
    assert space.widths["layer1.0.conv1"] == (4, 8)
    assert space.widths["layer1.2.conv1"] == (3, 8)
    assert space.widths["stem.0"] == (4, 8)
    assert space.widths["layer2.1.conv1"] == (9, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": {"layr1": [4]}}, "space.widths: 'layr1' matches no group; did you mean 'layer2"),
        ({"widths": {"layer1.0.conv1": [9]}}, r"space.widths\['layer1.0.conv1'\]: 9 is more than the 8 units of"),
        ({"widths": {"fc": [4]}}, "space.widths: 'fc' matches no group; 'fc' is fixed: feeds the output"),
        ({"step": {"nothing": 4}}, "space.step: 'nothing' matches no group"),
        ({"tie": [["layer1.1.conv2", "layer1.0.conv1"]]}, "'layer1.1.conv2' belongs to group 'stem.0'"),
        ({"keep": ["layr1"]}, "space.keep: 'layr1' matches no group or module; did you mean 'layer1'"),
    ],
)
def test_patterns_that_match_nothing(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        derive(MODEL, X, **options)  # type: ignore[arg-type]
