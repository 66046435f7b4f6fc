"""model.py: runs where only torch can be imported, computes and trains as its original, and reads like PyTorch."""

import copy
import json
import re
import subprocess
import sys
from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from niwaki.search.export import Card, ExportError, Subject, export_model
from niwaki.search.export._base import tensors_of
from niwaki.search.export._py_run import run_file
from niwaki.search.export.python import Python
from niwaki.spaces import carve, derive
from tests.spaces.reference import draw
from tests.zoo import build

CARVED = ("chain", "residual_a", "residual_b", "inverted", "shuffle", "dense", "zeros", "gate", "twice", "decoder")
Answers = namedtuple("Answers", ["scores", "features"])


class Tied(nn.Module):
    """A transformer layer over a tied embedding, loose tensors in every kind of container, constants, a dict."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 16), nn.Linear(16, 30, bias=False)
        self.head.weight = self.embedding.weight
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.position = nn.ParameterList([nn.Parameter(torch.randn(1, 6, 16))])
        self.register_buffer("large", torch.randn(40, 16), persistent=False)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.position[0] + self.large[:6] + torch.tensor([0.5, -0.5] * 8)
        return OrderedDict(logits=self.head(self.layer(x)), parts=(x, [x * 2.0]))


class Auxiliary(nn.Module):
    """Two graphs: a named tuple in train mode, one tensor in eval mode; constants that differ."""

    def __init__(self):
        super().__init__()
        self.stem, self.head, self.side = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 2)

    def forward(self, x):
        x = F.gelu(self.stem(x), approximate="tanh").mean((2, 3))
        if self.training:
            return Answers(self.head(x) * torch.tensor([2.0]), self.side(x))
        return self.head(x) * torch.tensor([3.0])


class Frozen(nn.Module):
    """A BatchNorm that stays in eval mode, one without statistics, layers that share a module, random depth."""

    def __init__(self):
        super().__init__()
        self.conv, self.fixed, self.free = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.live = nn.BatchNorm2d(4, track_running_stats=False, affine=True)
        self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def train(self, mode=True):
        super().train(mode)
        self.fixed.eval()
        return self

    def forward(self, x):
        x = self.live(self.fixed(self.conv(x)))
        y = self.norm(self.free(x))
        if self.training:
            y = y * torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype).bernoulli_(0.5)
        return self.head(F.dropout2d(x + y, 0.3, self.training)[..., 1:, ::2].amax((2, 3)))


def tokens():
    return torch.randint(0, 30, (2, 6), generator=torch.Generator().manual_seed(0))


def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


OWN = {"tied": (Tied, tokens), "auxiliary": (Auxiliary, images), "frozen": (Frozen, images)}


def student(name):
    """A carved network of the zoo, or one of the above, with its input."""
    torch.manual_seed(0)
    if name in OWN:
        return OWN[name][0]().double(), OWN[name][1]()
    model, example = build(name)
    space = derive(model, example)
    return carve(model, space, *draw(space, 3)), example


# One process for all networks: only torch can be imported, and what is computed there is sent back.
CHILD = """
import importlib.util, sys
for name in ("niwaki", "safetensors", "torchvision"):
    sys.modules[name] = None
import torch
from torch.utils import _pytree as pytree
torch.set_num_threads(1)
folder, *names = sys.argv[1:]
found = {}
for name in names:
    spec = importlib.util.spec_from_file_location("m_" + name, f"{folder}/{name}/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = torch.load(f"{folder}/{name}/x.pt", weights_only=True)
    net = module.load()
    flat = lambda out: [t for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]
    answers = {"keys": list(net.state_dict()), "shape": [str(type(net(x)))]}
    with torch.no_grad():
        answers["one"], answers["all"] = flat(net(x[:1])), flat(net(x))
    net.train()
    torch.manual_seed(5)
    out = flat(net(x))
    sum((t ** 2).sum() for t in out).backward()
    answers["train"] = [t.detach() for t in out]
    answers["grads"] = {k: p.grad for k, p in net.named_parameters(remove_duplicate=False)}
    answers["state"] = dict(net.state_dict())
    found[name] = answers
assert not any(m.split(".")[0] == "niwaki" for m, v in sys.modules.items() if v is not None)
torch.save(found, folder + "/out.pt")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name -> (student, input), the folder of all files, and what the other process found."""
    folder = tmp_path_factory.mktemp("python")
    students = {name: student(name) for name in (*CARVED, *OWN)}
    for name, (model, x) in students.items():
        (folder / name).mkdir()
        Python().write(Subject.of(model, x), folder / name / "model.py")
        torch.save(x, folder / name / "x.pt")
    subprocess.run([sys.executable, "-I", "-B", "-c", CHILD, folder, *students], check=True)
    return students, folder, torch.load(folder / "out.pt", weights_only=True)


def close(got, expected):
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*CARVED, *OWN])
def test_eval_mode_answers_as_the_original(exported, name):
    students, _, found = exported
    model, x = students[name]
    with torch.no_grad():
        close(found[name]["one"], tensors_of(copy.deepcopy(model).eval()(x[:1])))
        close(found[name]["all"], tensors_of(copy.deepcopy(model).eval()(x)))


@pytest.mark.parametrize("name", [*CARVED, *OWN])
def test_train_mode_answers_learns_and_counts_as_the_original(exported, name):
    students, _, found = exported
    model, x = copy.deepcopy(students[name][0]).train(), students[name][1]
    torch.manual_seed(5)
    out = tensors_of(model(x))
    sum((t**2).sum() for t in out).backward()
    close(found[name]["train"], out)
    grads = {k: p.grad for k, p in model.named_parameters(remove_duplicate=False)}
    assert found[name]["grads"].keys() == grads.keys()
    assert all(g is not None for g in grads.values())
    assert all((g - found[name]["grads"][k]).abs().max() <= 1e-9 * g.abs().max() + 1e-12 for k, g in grads.items())
    assert list(found[name]["keys"]) == list(model.state_dict())
    for key, value in model.state_dict().items():  # running statistics, counted batches
        torch.testing.assert_close(found[name]["state"][key], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*CARVED, *OWN])
def test_the_text_is_short_lines_of_torch_alone(exported, name):
    model, folder = exported[0][name][0], exported[1]
    text = (folder / name / "model.py").read_text()
    assert max(map(len, text.splitlines())) <= 120
    assert "niwaki" not in text.lower()
    assert set(re.findall(r"^(?:from|import) ([\w.]+)", text, re.M)) <= {
        "__future__", "collections", "json", "math", "pathlib", "typing", "torch", "torch.nn.functional",
    }
    assert "torch.ops" not in text
    for key, value in model.state_dict().items():
        if key.endswith("weight") and value.dim() == 4 and name not in ("twice", "decoder"):
            outputs, inputs, size = value.shape[:3]
            widths = [(inputs, outputs), *([(outputs, outputs)] if inputs == 1 else [])]  # depthwise
            assert any(f"nn.Conv2d({i}, {o}, {size}" in text for i, o in widths)


@pytest.mark.parametrize("name", [*CARVED, "tied"])
def test_modes_that_differ_in_numbers_only_are_one_forward(exported, name):
    text = (exported[1] / name / "model.py").read_text()
    assert text.count("def forward(") == 1
    assert "_forward" not in text


def test_files_compile_and_ruff_finds_nothing(exported):
    files = [exported[1] / name / "model.py" for name in exported[0]]
    subprocess.run([sys.executable, "-m", "py_compile", *files], check=True)
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E9,F", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_residual_blocks_read_as_they_are_written(tmp_path):
    model, x = build("residual_b")
    Python().write(Subject.of(model, x), tmp_path / "model.py")
    text = (tmp_path / "model.py").read_text()
    block = """
        # layer1.0
        layer1 = self.layer1[0].conv1(x)
        layer1 = self.layer1[0].bn1(layer1)
        layer1 = F.relu(layer1)
        layer1 = self.layer1[0].conv2(layer1)
        layer1 = self.layer1[0].bn2(layer1)
        x = x + layer1
        x = F.relu(x)
"""
    assert block in text
    assert "class Residual(nn.Module):" in text


def test_outputs_keep_their_structure(exported):
    folder = exported[1]
    tied, auxiliary = ((folder / n / "model.py").read_text() for n in ("tied", "auxiliary"))
    assert 'return OrderedDict({"logits": ' in tied
    assert 'Answers = namedtuple("Answers", ["scores", "features"])' in auxiliary
    assert re.search(r"return Answers\(\w+, \w+\)", auxiliary)
    assert "OrderedDict" in exported[2]["tied"]["shape"][0]


def test_tied_weights_stay_tied(exported, tmp_path):
    text = (exported[1] / "tied" / "model.py").read_text()
    assert "self.head.weight = self.embedding.weight" in text
    grads = exported[2]["tied"]["grads"]
    assert torch.equal(grads["head.weight"], grads["embedding.weight"])


def load_in_process(path):
    """The namespace of a file that this test has written itself."""
    namespace = {"__file__": str(path), "__name__": "model"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace


@pytest.fixture
def small(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    subject = Subject.of(model, torch.randn(3, 3, 8, 8))
    return subject, tmp_path / "model.py"


def test_reading_other_weights_says_what_does_not_fit(small, tmp_path):
    from safetensors.torch import save_file

    subject, path = small
    Python().write(subject, path)
    module, state = load_in_process(path), dict(subject.model.state_dict())
    other = tmp_path / "other.safetensors"
    save_file({k: v for k, v in state.items() if k != "3.bias"} | {"4.bias": state["3.bias"].clone()}, other)
    with pytest.raises(ValueError, match=r"missing \['3.bias'\], not of this network \['4.bias'\]"):
        module["load"](other)
    save_file(state | {"3.bias": torch.zeros(3)}, other)
    with pytest.raises(ValueError, match=r"3.bias is \[3\], not \[2\]"):
        module["load"](other)
    other.write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="not a safetensors file"):
        module["load"](other)
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    other.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(ValueError, match="tensor 'a' does not lie within the file"):
        module["read_tensors"](other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision_are_read_bit_for_bit(tmp_path, dtype):
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).to(dtype)
    model.register_buffer("steps", torch.tensor(7))
    Python().write(Subject.of(model, torch.randn(2, 4, dtype=dtype)), tmp_path / "model.py")
    net = load_in_process(tmp_path / "model.py")["load"]()
    for key, value in model.state_dict().items():
        assert net.state_dict()[key].dtype == value.dtype
        assert torch.equal(net.state_dict()[key], value)


def test_mixed_precision_keeps_the_type_of_each_layer(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2).double()

        def forward(self, x):
            return self.b(self.a(x).double())

    Python().write(Subject.of(Mixed(), torch.randn(2, 4)), tmp_path / "model.py")
    assert Python().error(Subject.of(Mixed(), torch.randn(2, 4)), tmp_path / "model.py") > 1e-3  # other weights
    net = load_in_process(tmp_path / "model.py")["load"]()
    assert (net.a.weight.dtype, net.b.weight.dtype) == (torch.float32, torch.float64)


def test_export_is_verified_and_lists_both_files(small, tmp_path):
    subject, _ = small
    card = export_model(subject, tmp_path / "out", ["python", "safetensors"], Card("x"))
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["card.json", "model.py", "model.safetensors", "model.weights.safetensors"]
    facts = card["formats"]["python"]
    assert facts["file"] == "model.py"
    assert facts["error"] <= 1e-6
    assert [f["file"] for f in facts["beside"]] == ["model.weights.safetensors"]
    assert facts["beside"][0]["bytes"] == (tmp_path / "out" / "model.weights.safetensors").stat().st_size
    assert "beside" not in card["formats"]["safetensors"]
    (got,) = Python().read(tmp_path / "out" / "model.py")(*subject.inputs)
    torch.testing.assert_close(got, subject.answers()[0])


def test_sparse_layers_are_written_dense(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0
    subject = Subject.of(model, torch.randn(2, 4), {"0": "0.5"})
    Python().write(subject, tmp_path / "model.py")
    weights = load_in_process(tmp_path / "model.py")["load"]().state_dict()["0.weight"]
    assert torch.equal(weights, model[0].weight)


def test_a_file_that_needs_more_than_torch_does_not_pass(small):
    subject, path = small
    Python().write(subject, path)
    text = path.read_text()
    path.write_text(text.replace("import torch\n", "import torch\nimport niwaki\n", 1))
    with pytest.raises(ExportError, match=r"model.py does not run: .*niwaki"):
        Python().error(subject, path)
    path.write_text(text.replace("x = x.flatten(1)", "x = x.flatten(1) if not self.training else x"))
    with pytest.raises(ExportError, match=r"model.py does not run: RuntimeError"):
        Python().error(subject, path)
    assert len(run_file(path, [("eval", subject.inputs)])[0]) == 1


def test_a_model_that_only_traces_in_eval_mode_says_so(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, momentum=None))
    subject = Subject.of(model, torch.randn(4, 4))
    Python().write(subject, tmp_path / "model.py")
    assert Python().error(subject, tmp_path / "model.py") <= 1e-6
    net = load_in_process(tmp_path / "model.py")["load"]().train()
    with pytest.raises(RuntimeError, match="only be traced in eval mode"):
        net(torch.randn(4, 4))


def test_operations_of_other_packages_are_refused(tmp_path):
    import torchvision

    class Boxes(nn.Module):
        def forward(self, x):
            return torchvision.ops.nms(x[:, :4], x[:, 4], 0.5)

    with pytest.raises(ExportError, match=r"torchvision\.nms.* is not torch's own"):
        Python().write(Subject.of(Boxes(), torch.rand(3, 5)), tmp_path / "model.py")


class Untraceable(nn.Module):
    def forward(self, x):
        return x * (2.0 if x.sum().item() > 0 else 3.0)


def test_a_model_that_cannot_be_traced_is_an_export_error(tmp_path):
    with pytest.raises(ExportError, match=r"python: .*Untraceable"):
        export_model(Subject.of(Untraceable(), torch.randn(2, 3)), tmp_path / "out", ["python"], Card("x"))
    assert list(tmp_path.iterdir()) == []
