from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from niwaki.distill import Data, DataSpec, accuracy, build, check, load, load_weights, names
from niwaki.spaces.errors import InputError


def make_net(outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(128, outputs))


def make_text() -> str:
    return "no module"


@pytest.mark.parametrize("name", ["cifar_resnet20", "small_cnn", "squeezenet1_1", "mobilenet_v3_small"])
def test_networks_by_name_have_the_asked_classes(name: str) -> None:
    model = build(name, 7).eval()
    channels = next(p for p in model.parameters() if p.dim() == 4).shape[1]
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


def test_options_reach_the_builder() -> None:
    assert "layer2.0.shortcut.0.weight" in build("cifar_resnet20", 10, {"shortcut": "B"}).state_dict()
    assert build("mobilenet_v3_small", 10, {"dropout": 0.75}).classifier[2].p == 0.75


def test_detectors_and_quantized_networks_are_not_offered() -> None:
    assert "resnet50" in names()
    assert not {n for n in names() if n.startswith(("fasterrcnn", "quantized", "fcn", "raft"))}


def test_a_users_function() -> None:
    assert build(f"{make_net.__module__}:make_net", 99, {"outputs": 5})[1].out_features == 5


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("resnet81", {}, "teacher.name: unknown network 'resnet81'; did you mean 'resnet18'"),
        ("cifar_resnet20", {"depth_": 3}, "teacher.options: 'cifar_resnet20' cannot be built"),
        ("resnet18", {"shortcut": "A"}, "teacher.options: 'resnet18' cannot be built"),
        ("resnet18", {"num_classes": 3}, "'num_classes' is set by Niwaki"),
        (f"{make_text.__module__}:make_text", {}, "returned a str, not a torch.nn.Module"),
        (f"{make_text.__module__}:make_netz", {}, "did you mean 'make_net'"),
    ],
)
def test_what_cannot_be_built_says_why(spec: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build(spec, 10, options)


def wrapped(state: dict[str, torch.Tensor], kind: str) -> Any:
    return {
        "plain": state,
        "wrapped": {"state_dict": state, "epoch": 3},
        "parallel": {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        "compiled": {"model": {f"_orig_mod.{k}": v for k, v in state.items()}},
        "old": {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "wrapped", "parallel", "compiled", "old"])
def test_weights_in_all_their_wrappings(tmp_path: Path, kind: str) -> None:
    source, target = build("small_cnn", 10, {"width": 4}), build("small_cnn", 10, {"width": 4})
    torch.save(wrapped(source.state_dict(), kind), tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key])


def test_weights_of_safetensors(tmp_path: Path) -> None:
    source, target = build("small_cnn", 10, {"width": 4}), build("small_cnn", 10, {"width": 4})
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, str(tmp_path / "w.safetensors"))
    assert torch.equal(source.state_dict()["head.weight"], target.state_dict()["head.weight"])


class Payload:
    """Unpickling this would run code: it touches a file named in the environment."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (os.environ["NIWAKI_TEST_PAYLOAD"],))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIWAKI_TEST_PAYLOAD", str(tmp_path / "ran"))
    torch.save({"state_dict": Payload()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Payload()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(InputError, match="code in a pickle is never run"):
            load_weights(build("small_cnn", 10), tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(build("small_cnn", 10), tmp_path / "m.pt")
    with pytest.raises(InputError, match="save a state dict"):
        load_weights(build("small_cnn", 10), tmp_path / "m.pt")


def corrupt(state: dict[str, torch.Tensor], what: str) -> Any:
    state = dict(state)
    if what == "missing":
        del state["head.bias"]
    elif what == "unexpected":
        state["head.biass"] = torch.zeros(10)
    elif what == "nan":
        state["head.bias"] = torch.full((10,), float("nan"))
    elif what == "list":
        return [1, 2]
    return state


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", "has no 'head.bias' .1 missing, 0 unexpected"),
        ("unexpected", "holds an unexpected 'head.biass' .*did you mean 'head.bias'"),
        ("nan", "'head.bias' holds NaN"),
        ("list", "holds a list that is no state dict"),
    ],
)
def test_wrong_contents_name_the_key(tmp_path: Path, what: str, said: str) -> None:
    torch.save(corrupt(build("small_cnn", 10).state_dict(), what), tmp_path / "w.pt")
    with pytest.raises(InputError, match=said):
        load_weights(build("small_cnn", 10), tmp_path / "w.pt")


def test_a_failed_load_leaves_the_model_alone(tmp_path: Path) -> None:
    model = build("small_cnn", 10)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save(build("small_cnn", 12).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="the weights know 12 classes, 10 were asked for"):
        load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_missing_and_damaged_files(tmp_path: Path, name: str) -> None:
    model = build("small_cnn", 10)
    with pytest.raises(InputError, match="no file"):
        load_weights(model, tmp_path / name)
    good = tmp_path / ("good" + Path(name).suffix)
    if good.suffix == ".pt":
        torch.save(model.state_dict(), good)
    else:
        save_file(model.state_dict(), good)
    for content in (b"", b"nonsense" * 10, good.read_bytes()[:-200]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"teacher\.weights"):
            load_weights(model, tmp_path / name)


def test_check_names_both_class_counts_and_bad_shapes(data: Data) -> None:
    check(make_net(3), data)
    with pytest.raises(InputError, match=r"5 classes, but the data 'blobs' have 3"):
        check(make_net(5), data)
    with pytest.raises(InputError, match=r"cannot read images \(2, 8, 8\) of 'blobs'"):
        check(nn.Conv2d(3, 3, 3), data)


def test_check_leaves_modes_and_statistics(data: Data, model: nn.Module) -> None:
    model[1].eval()
    before = [m.training for m in model.modules()]
    check(model, data)
    assert [m.training for m in model.modules()] == before
    assert int(model.state_dict()["1.num_batches_tracked"]) == 0


@pytest.mark.slow
@pytest.mark.skipif("NIWAKI_DATA" not in os.environ, reason="NIWAKI_DATA names no folder with cifar10.npz and weights/")
def test_pretrained_resnet20_reaches_its_accuracy() -> None:
    folder = Path(os.environ["NIWAKI_DATA"])
    moments = DataSpec(
        "npz", {"path": str(folder / "cifar10.npz")}, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    model = build("cifar_resnet20", 10)
    load_weights(model, next((folder / "weights").glob("resnet20*")))
    assert accuracy(model, load(moments), "test") == pytest.approx(0.9173, abs=2e-4)
