"""Files changed at random: every reader gives a value that can be used, or an InputError."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from niwaki import tables
from niwaki.distill import build
from niwaki.search.config import load_config, parse_config, to_yaml
from niwaki.search.context import read_latency
from niwaki.search.files import read_json, reading
from niwaki.search.formats import MeasuredFile, read_checked
from niwaki.search.front import Entry, to_csv
from niwaki.search.outcome import Job, Outcome
from niwaki.search.progress import read_progress
from niwaki.search.result import Result
from niwaki.search.sensitivity import Sensitivity
from niwaki.search.settings import Config
from niwaki.search.staircase import Staircase
from niwaki.search.status import status
from niwaki.search.summary import report_data
from niwaki.spaces import Space, SpaceOptions, derive
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Candidate
from tests.test_bad_input import finished

__all__ = ["finished"]  # the fixture

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.sampled_from([0, -1, 2**31, 2**63, 10**400, 1e308, 5e-324, -0.0])
    | st.floats() | st.text(max_size=8) | st.sampled_from(["", "../../x", "\ud800", "\x00", "<b>", "1e999", "50%"])
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3), max_leaves=6
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


def changed(data: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy with the value at ``path`` replaced by ``change`` of it; an Ellipsis drops it."""
    if not path:
        return change(data)
    key, *rest = path
    items = dict(data) if isinstance(data, dict) else dict(enumerate(data))
    items[key] = changed(items[key], tuple(rest), change)
    if items[key] is ...:
        del items[key]
    return items if isinstance(data, dict) else list(items.values())


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A JSON file with one to three values dropped or replaced, or with bytes cut, changed or repeated."""
    if draw(st.integers(0, 3)) == 0:
        raw, rng = bytearray(good), random.Random(draw(st.integers(0, 2**32)))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(raw))
            kind = rng.randrange(3)
            if kind == 0:
                raw[at] = rng.randrange(256)
            elif kind == 1:
                del raw[at : at + rng.randint(1, 40)]
            else:
                raw[at:at] = raw[max(0, at - 20) : at]
        return bytes(raw)
    data = json.loads(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(data))))
        new = draw(VALUES | st.just(...))
        data = changed(data, path, _constant(None if new is ... and not path else new))
    return json.dumps(data).encode()


@pytest.fixture(scope="module")
def known_space() -> Space:
    options = SpaceOptions(ratios=(0.25, 0.5, 1.0))
    return derive(build("small_cnn", 10), torch.zeros(2, 1, 8, 8), options)


def named(error: InputError, *texts: str, longest: int = 3000) -> None:
    """The message says where the fault is, and is short enough to be read."""
    assert not [text for text in texts if text not in str(error)], error
    assert len(str(error)) < longest


def use_result(folder: Path) -> None:
    """Everything that ``niwaki front`` and ``niwaki report`` need of a run."""
    result = Result(folder)
    data = report_data(result)
    assert tables.front(data)
    assert to_csv([m.entry for m in result.front]).count("\n") >= len(result.front)
    for member in result.front:
        assert (folder / "export" / member.name).parent == folder / "export"
        assert all(result.folder.store.trial(key).parent == folder / "trials" for key in member.entry.trials)
    assert all(math.isfinite(v) for m in result.front for v in m.metrics.values())


def use_journal(folder: Path) -> None:
    for outcome in Result(folder).outcomes():
        assert Outcome.from_json(json.loads(json.dumps(outcome.to_json(), allow_nan=False))) == outcome
    assert status(folder).to_json()


def use_trial(folder: Path) -> None:
    store = Result(folder).folder.store
    with store.lock():
        store.adopt()


def use_job(folder: Path) -> None:
    path = next(folder.glob("trials/final-*/job.json"))
    with reading(path):
        assert Job.from_json(read_json(path)).key


READERS: dict[str, Callable[[Path], object]] = {
    "front.json": use_result, "facts.json": use_result, "env.json": use_result, "space.json": use_result,
    "latency.json": use_result, "export/m1/card.json": use_result, "journal.jsonl": use_journal,
    "progress.json": lambda folder: (read_progress(folder), status(folder)),
    "measured.json": lambda folder: read_checked(folder / "measured.json", MeasuredFile),
    "trials/final-*/outcome.json": use_trial, "trials/final-*/job.json": use_job,
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_well_or_refused(name: str, finished: Path) -> None:
    path = next(finished.glob(name))
    good, journal = path.read_bytes(), (finished / "journal.jsonl").read_bytes()
    lines = good.splitlines(keepends=True) if name == "journal.jsonl" else [good]
    READERS[name](finished)
    refused = 0

    @FEW
    @given(st.data())
    def once(data: st.DataObject) -> None:
        nonlocal refused
        number = data.draw(st.integers(0, len(lines) - 1))
        new = data.draw(damaged(lines[number]))
        path.write_bytes(b"".join([*lines[:number], new, *lines[number + 1 :]]))
        if name.endswith("outcome.json"):  # as a stopped driver leaves it: not in the journal yet
            (finished / "journal.jsonl").write_bytes(b"")
        try:
            READERS[name](finished)
        except InputError as error:
            refused += 1
            named(error, path.name)

    try:
        once()
    finally:
        path.write_bytes(good)
        (finished / "journal.jsonl").write_bytes(journal)
    assert refused >= 5  # a reader that takes everything would pass otherwise


@pytest.mark.parametrize("raw", [
    b"", b"\xff\xfe\x00", b"{" * 200_000, b"[" * 200_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b"NaN", b"null",
    b"1" * 5000, b'"\\ud800"', b"\xef\xbb\xbf{}", b"{}", b'{"members": {"members": {}}}', b"\0" * 100,
])  # fmt: skip
@pytest.mark.parametrize("name", READERS)
def test_no_file_of_nonsense_gets_through(name: str, raw: bytes, finished: Path) -> None:
    path = next(finished.glob(name))
    good, journal = path.read_bytes(), (finished / "journal.jsonl").read_bytes()
    try:
        path.write_bytes(raw + b"\n" * (name == "journal.jsonl"))
        if name.endswith("outcome.json"):
            (finished / "journal.jsonl").write_bytes(b"")
        with pytest.raises(InputError) as caught:
            READERS[name](finished)
    finally:
        path.write_bytes(good)
        (finished / "journal.jsonl").write_bytes(journal)
    assert len(str(caught.value)) < 3000


@FEW
@given(data=st.data())
def test_a_damaged_latency_model_is_good_or_refused(data: st.DataObject, known_space: Space, finished: Path) -> None:
    path = finished / "latency.json"
    good = path.read_bytes()
    path.write_bytes(data.draw(damaged(good)))
    try:
        model = read_latency(Result(finished).folder, known_space)
        assert model is not None
        assert model.predict([known_space.largest()]).shape == (1,)
    except InputError as error:
        named(error, "latency.json")
    finally:
        path.write_bytes(good)


STAIRCASE = Staircase({"conv": 16}, {"conv": 16}, {"conv": 0.5}, {"conv": {8: 0.25, 16: 0.25}}, {"cpu": "x"})
SENSITIVITY = {"answers": {"a": [0.1, 0.2]}, "labels": {"a": [0.1, 0.2]}, "images": 4, "judged": 2}


@FEW
@given(data=st.data())
def test_what_is_made_of_other_files_is_good_or_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    for kind, good in ((Staircase, STAIRCASE.to_json()), (Sensitivity, SENSITIVITY)):
        path.write_bytes(data.draw(damaged(json.dumps(good).encode())))
        try:
            with reading(path):
                assert isinstance(kind.from_json(read_json(path)), kind)  # type: ignore[attr-defined]
        except InputError as error:
            named(error, "fuzzed.json")


@FEW
@given(VALUES)
def test_candidates_jobs_outcomes_and_entries_are_made_of_good_values_alone(value: Any) -> None:
    for make in (Job.from_json, Outcome.from_json, Entry.from_json):
        with pytest.raises(ValueError, match=r"expected|cannot be read|missing|must"):
            make(value)
    if isinstance(value, dict):
        with pytest.raises(ValueError, match="'widths' must map"):
            Candidate.from_json(value)


CONFIG = yaml.safe_load(to_yaml(load_config("quickstart")))


@settings(parent=FEW, max_examples=150)
@given(data=st.data())
def test_a_configuration_with_any_value_is_good_or_refused(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(places(CONFIG))[1:]))
    new = data.draw(VALUES)
    tree = changed(CONFIG, path, lambda _: new)
    try:
        config = parse_config(tree, "mine.yaml")
    except InputError as error:
        named(error, "mine.yaml", str(path[0]))
        return
    assert isinstance(config, Config)
    assert parse_config(yaml.safe_load(to_yaml(config)), "mine.yaml") == config


@settings(parent=FEW, max_examples=150)
@given(data=st.data())
def test_a_configuration_of_any_text_is_good_or_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "mine.yaml"
    good = to_yaml(load_config("quickstart"))
    at = data.draw(st.integers(0, len(good)))
    length = data.draw(st.integers(0, 40))
    yaml_text = st.text(alphabet=st.sampled_from("abc:-[]{}&*!|>%@\"'#,.?<= \n\t0123456789\x00\x85é"), max_size=30)
    raw = (good[:at] + data.draw(yaml_text) + good[at + length :]).encode() + data.draw(st.binary(max_size=3))
    path.write_bytes(raw)
    try:
        assert isinstance(load_config(path), Config)
    except InputError as error:
        named(error, "mine.yaml", longest=20_000)


@FEW
@given(st.text(max_size=30), st.text(max_size=30))
def test_overrides_of_any_text_are_good_or_refused(key: str, value: str) -> None:
    for override in (f"{key}={value}", f"train.lr={value}", key):
        try:
            load_config("quickstart", [override])
        except InputError as error:
            named(error, "--set")
