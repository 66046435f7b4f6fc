"""Folders as registries, and messages with the nearest name."""

from __future__ import annotations

import pytest

from niwaki.spaces import InputError
from niwaki.spaces.errors import nearest
from niwaki.spaces.registry import load, names


@pytest.mark.parametrize(
    "package",
    [
        "niwaki.pruning.criteria",
        "niwaki.pruning.patterns",
        "niwaki.distill.losses",
        "niwaki.search.proposers",
        "niwaki.search.export",
        "niwaki.search.targets",
    ],
)
def test_every_file_holds_one_class(package: str) -> None:
    assert names(package)
    for name in names(package):
        assert load(package, name).__module__ == f"{package}.{name}"


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="criteria: unknown name 'tailor'; did you mean 'taylor'"):
        load("niwaki.pruning.criteria", "tailor")


def test_nearest_shortens_long_lists() -> None:
    assert nearest("zzz", [f"name{i:02}" for i in range(40)]).endswith("... (40 in all))")
