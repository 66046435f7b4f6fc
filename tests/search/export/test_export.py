"""Every format of the folder: written, read back, compared; and the folder only appears when all of that holds."""

import copy
import hashlib
import json
import warnings
import zipfile

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from niwaki.search.export import Card, ExportError, Subject, export_model, exporter
from niwaki.search.export._base import PACKAGE, difference
from niwaki.spaces import registry
from niwaki.spaces.errors import InputError

FORMATS = registry.names(PACKAGE)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 16, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        model(3 * torch.randn(32, 3, 4, 4) + 1)  # statistics that differ from their initial values
    return model.train()


@pytest.fixture
def inputs():
    return torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One model in all formats, with the answers of the original."""
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(5, 3, 4, 4)
    folder = tmp_path_factory.mktemp("written") / "a" / "model"
    card = Card("best", cost={"macs": 7}, metrics={"test": 0.5}, kept={"conv": 6})
    return folder, export_model(Subject.of(model, x), folder, FORMATS, card), model, x


def test_there_are_the_four_formats():
    assert FORMATS == ["onnx", "python", "safetensors", "torch_export"]


def test_only_the_promised_files_exist(written):
    folder = written[0]
    names = ["card.json", "model.onnx", "model.pt2", "model.py", "model.safetensors", "model.weights.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_card_says_what_lies_beside_it(written):
    folder, returned, *_ = written
    card = json.loads((folder / "card.json").read_text())
    assert card == returned
    assert (card["cost"]["macs"], card["metrics"]["test"], card["kept"]) == (7, 0.5, {"conv": 6})
    assert card["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert "macs" in card["conventions"]
    for facts in [f for one in card["formats"].values() for f in (one, *one.get("beside", ()))]:
        data = (folder / facts["file"]).read_bytes()
        assert (facts["bytes"], facts["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert 0 <= facts.get("error", 0.0) <= 1e-4


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_answers_as_the_original_at_any_batch(written, batch):
    folder, _, model, x = written
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: x[:batch].numpy()})
    torch.testing.assert_close(torch.from_numpy(got), model(x[:batch]).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_pt2_answers_as_the_original_at_any_batch(written, batch):
    folder, _, model, x = written
    run = torch.export.load(folder / "model.pt2").module()
    torch.testing.assert_close(run(x[:batch]), model(x[:batch]))


def test_files_carry_neither_user_data_nor_paths(written):
    folder = written[0]
    for name in ("model.onnx", "model.pt2", "model.py"):
        data = (folder / name).read_bytes()
        assert b"test_export.py" not in data
        assert b"site-packages" not in data
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        assert all(archive.getinfo(n).file_size == 0 for n in archive.namelist() if "sample_inputs" in n)


def test_onnx_is_one_file_with_a_dynamic_batch(written):
    proto = onnx.load(written[0] / "model.onnx", load_external_data=False)
    assert not any(t.external_data for t in proto.graph.initializer)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.parametrize("name", FORMATS)
def test_exports_are_silent_and_leave_the_model_alone(net, inputs, tmp_path, capfd, name):
    state = {k: v.clone() for k, v in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_model(Subject.of(net, inputs), tmp_path / "out", [name], Card("x"))
    assert capfd.readouterr().out == ""
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_answers_differently_is_found_out(net, inputs, tmp_path, name):
    subject, path = Subject.of(net, inputs), tmp_path / exporter(name).filename
    exporter(name).write(subject, path)
    assert exporter(name).error(subject, path) <= 1e-4
    with torch.no_grad():
        subject.model.fc.bias += 0.1
    assert exporter(name).error(subject, path) > 1e-3


class Dishonest(nn.Module):
    """Answers the tracer differently from everybody else."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x) + (1.0 if torch.compiler.is_exporting() else 0.0)


@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_a_failed_comparison_leaves_nothing_and_gives_the_number(tmp_path, name):
    with pytest.raises(ExportError, match=rf"{name}: .* differs from the original by \d\.\d\de[+-]\d\d") as caught:
        export_model(Subject.of(Dishonest(), torch.randn(2, 3)), tmp_path / "out", ["safetensors", name], Card("x"))
    assert "1e-04 is allowed" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_files_are_compared_with_the_original_where_there_is_one(net, inputs, tmp_path, name):
    """What is written comes from the model, what it must answer from the original."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.fc.bias += 0.1
    with pytest.raises(ExportError, match=r"padded model differs from the one without zeros by \d\.\d\de"):
        export_model(Subject.of(net, inputs, original=other), tmp_path / "out", [name], Card("x"))
    assert list(tmp_path.iterdir()) == []
    subject, path = Subject.of(net, inputs, original=other), tmp_path / exporter(name).filename
    exporter(name).write(subject, path)
    assert (exporter(name).error(subject, path) > 1e-3) == (name != "safetensors"), "it has no outputs to compare"
    export_model(Subject.of(net, inputs, original=copy.deepcopy(net)), tmp_path / "out", [name], Card("x"))


class Untraceable(nn.Module):
    def forward(self, x):
        return x * (2.0 if x.sum().item() > 0 else 3.0)


@pytest.mark.parametrize("name", ["onnx", "torch_export"])
def test_a_model_that_cannot_be_traced_is_an_export_error(tmp_path, name):
    with pytest.raises(ExportError, match="Untraceable"):
        export_model(Subject.of(Untraceable(), torch.randn(2, 3)), tmp_path / "out", [name], Card("x"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_touched(net, inputs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(InputError, match="out exists already"):
        export_model(Subject.of(net, inputs), tmp_path / "out", ["safetensors"], Card("x"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("formats", "message"),
    [(["onxx"], "did you mean 'onnx'"), ({"onnx": {"opsett": 18}}, "no option 'opsett'; did you mean 'opset'")],
)
def test_unknown_formats_and_options_name_the_nearest(net, inputs, tmp_path, formats, message):
    with pytest.raises(InputError, match=message):
        export_model(Subject.of(net, inputs), tmp_path / "out", formats, Card("x"))
    assert list(tmp_path.iterdir()) == []


def test_options_reach_the_exporter(net, inputs, tmp_path):
    export_model(Subject.of(net, inputs), tmp_path / "out", {"onnx": {"opset": 20}}, Card("x"))
    proto = onnx.load(tmp_path / "out" / "model.onnx")
    assert next(o.version for o in proto.opset_import if o.domain == "") == 20


def test_one_example_is_not_enough_to_tell_a_batch():
    with pytest.raises(ValueError, match="at least two examples"):
        Subject.of(nn.Linear(2, 2), torch.zeros(1, 2))


def test_difference_is_relative_to_the_largest_output():
    a, b = torch.tensor([1.0, 100.0]), torch.tensor([1.0, 101.0])
    assert difference([a], [b]) == pytest.approx(1 / 101)
    assert difference([a], [b[:1]]) == float("inf")
    assert difference([a * float("nan")], [a]) == float("inf")
    assert difference([a], [a, a]) == float("inf")
