from __future__ import annotations

from dataclasses import dataclass

import pytest

from niwaki.distill.objects import build, resolve_object
from niwaki.spaces.errors import InputError


@dataclass(frozen=True)
class Options:
    path: str
    size: int = 3
    rate: float = 0.5
    on: bool = False


def test_an_object_is_found_by_its_name() -> None:
    import os.path

    assert resolve_object("os:path.join", "key") is os.path.join


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("os.path", "not of the form 'package.module:function'"),
        ("no_such_package_at_all:f", "cannot import 'no_such_package_at_all'"),
        ("math:sqrd", "did you mean 'sqrt'"),
        ("math:pi", "is a float, not something that can be called"),
    ],
)
def test_what_cannot_be_resolved_says_why_and_where(spec: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        resolve_object(spec, "teacher.name")
    assert "teacher.name" in str(caught.value)


def test_options_are_converted_to_their_types() -> None:
    assert build(Options, {"path": "x", "rate": "1e-3", "size": "7"}, "here") == Options("x", 7, 0.001)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "x", "sise": 4}, "unknown option 'sise' = 4; did you mean 'size'"),
        ({"path": "x", "size": "many"}, "here.size: 'many'"),
        ({"size": 4}, "option 'path' is missing"),
    ],
)
def test_wrong_options_are_input_errors(options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(Options, options, "here")
