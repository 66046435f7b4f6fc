"""Spec strings: what they mean, that they read back, and that nonsense is refused with a helpful text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwaki.search.targets import _spec, parse, spec_of
from niwaki.spaces.errors import InputError

RUNTIMES = sorted(_spec.runtimes())
WORDS = ["threads", "batch", "layout", "dtype", "graphs", "shape", "channels_last", "bfloat16", "3x8x8", "on", "1"]
PIECES = st.sampled_from([*RUNTIMES, *WORDS, ":", ",", "=", " ", "-", "_", "x", "9" * 5000]) | st.text(max_size=3)


def test_names_are_file_names_with_hyphens():
    assert {"torch", "torch-compile", "onnxruntime", "cuda"} <= set(RUNTIMES)
    assert parse("torch-compile") == parse("torch_compile")
    assert type(parse("torch-compile")).__module__.endswith(".torch_compile")
    assert spec_of(parse("torch_compile:batch=2")) == "torch-compile:threads=1,batch=2,dtype=float32"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_specs_read_back(runtime):
    target = parse(f" {runtime} : batch = 4 ,shape=3x32x16,")
    assert (target.threads, target.batch, target.shape) == (1, 4, "3x32x16")
    assert parse(spec_of(target)) == target
    assert parse(runtime) == parse(f"{runtime}:batch=1")
    assert parse(runtime).shape == ""


@given(
    st.sampled_from(["torch", "torch-compile"]), st.integers(1, 10**6), st.integers(1, 10**6),
    st.sampled_from(["float32", "bfloat16"]), st.lists(st.integers(1, 10**9 - 1), max_size=5),
)
def test_every_choice_reads_back(runtime, threads, batch, dtype, sizes):
    shape = f",shape={'x'.join(map(str, sizes))}" if sizes else ""
    target = parse(f"{runtime}:dtype={dtype},batch={batch}{shape},threads={threads}")
    assert (target.threads, target.batch, target.dtype) == (threads, batch, dtype)
    assert [int(s) for s in target.shape.split("x") if s] == sizes
    assert parse(spec_of(target)) == target


@given(st.lists(PIECES, max_size=12).map("".join))
def test_nonsense_is_refused_and_nothing_else_happens(spec):
    try:
        target = parse(spec)
    except InputError as error:
        found = str(error)
    else:
        assert parse(spec_of(target)) == target
        return
    assert repr(spec) in found


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("onnxrt:threads=1", r"unknown runtime 'onnxrt'; did you mean 'onnxruntime'"),
        ("torch-compil", r"did you mean 'torch-compile'"),
        ("torch:thread=1", r"unknown option 'thread'; did you mean 'threads'"),
        ("torch:threads=0", r"threads must be at least 1, got 0"),
        ("torch:batch=two", r"batch must be a whole number, got 'two'"),
        ("torch:threads", r"expected key=value, got 'threads'"),
        ("torch:layout=channel_last", r"layout cannot be 'channel_last'; did you mean 'channels_last'"),
        ("torch:dtype=bfloat61", r"dtype cannot be 'bfloat61'; did you mean 'bfloat16'"),
        ("cuda:graphs=yes", r"graphs cannot be 'yes'; (did you mean .*)?\(valid: off, on\)"),
        ("cuda:threads=2", r"unknown option 'threads'"),
        ("torch:shape=3*8*8", r"shape cannot be '3\*8\*8'; write it like 3x224x224"),
        ("torch:shape=0x8", r"shape cannot be '0x8'"),
        ("torch:batch=1,threads=2,batch=1", r"batch is given twice"),
        ("", r"unknown runtime ''"),
    ],
)
def test_wrong_specs_say_what_would_be_right(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(spec)
    assert re.match(r"target '.*': ", str(caught.value))


def test_a_missing_runtime_gives_the_pip_line(monkeypatch):
    def missing(package, name):
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(_spec.registry, "load", missing)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        parse("onnxruntime")
