"""The table of wrong inputs: what is typed, which files lie there, and what the message must say."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

LOCAL = ("search", "quickstart", "--runner", "local", "--to", "new", "--macs", "50%", "--set", "budget.latency=null",
         "--set", "latency.target=null", "--set", "space.sparsity=[]")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One wrong input.

    Attributes:
        name: of the test.
        command: arguments; ``{run}`` is a finished run (a copy of its own), everything else lies in an empty folder.
        says: texts that the message must hold: file, key and value at fault, what would be right.
        files: name -> content, written before.
        prepare: changes the folder before (the run is ``folder / "run"``).
    """

    name: str
    command: tuple[str, ...]
    says: tuple[str, ...]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    prepare: Callable[[Path], object] | None = None


def config(name: str, text: str | bytes, *says: str) -> Case:
    return Case(f"config-{name}", ("search", "mine.yaml", "--to", "new"), ("mine.yaml", *says), {"mine.yaml": text})


def value(key: str, given: str, *says: str) -> Case:
    return Case(f"{key}={given}"[:70], (*LOCAL, "--set", f"{key}={given}"), (key, *says))


MACS = "budget: {macs: 50%}\n"

CONFIGS = [
    config("empty", "", "expected sections", "NoneType"),
    config("a list", "- teacher\n", "expected sections", "list"),
    config("a word", "quickstart", "expected sections", "str"),
    config("not yaml", "budget: {macs: 50%", "not valid YAML"),
    config("tabs", "budget:\n\tmacs: 50%\n", "not valid YAML"),
    config("two documents", "budget: {macs: 1}\n---\nbudget: {macs: 2}\n", "not valid YAML"),
    config("latin-1", "run: {name: é}\n".encode("latin-1"), "cannot be read"),
    config("bytes", bytes(range(256)), "cannot be read"),
    config("nul", b"run: {name: a\0b}\n", "not valid YAML"),
    config("twice the same key", MACS + MACS, "'budget' appears twice"),
    config("code", MACS + "run: !!python/object/apply:os.mkdir [owned]\n", "not valid YAML", "python/object"),
    config("wrong date", MACS + "run: {name: 2001-99-99}\n", "not valid YAML", "month"),
    config("wrong number", MACS + "run: {seed: !!int x}\n", "not valid YAML"),
    config("key that is a list", MACS + "? [a]\n: 1\n", "not valid YAML", "key"),
    config("key that is a number", MACS + "1: 2\n", "1"),
    config("deep", "a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    config("deep sections", "\n".join(" " * i + "a:" for i in range(2000)) + " 1", "nested too deeply"),
    config("itself", MACS + "run: &a {options: *a}\n", "nested too deeply"),
    config("bomb", "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
           "too large"),
    config("a number of 5000 digits", MACS + f"run: {{seed: {'9' * 5000}}}\n", "not valid YAML"),
    config("no budget", "run: {name: x}\n", "budget", "required"),
    config("empty budget", "budget: {}\n", "budget", "at least one of"),
    config("budget of nothing", "budget:\n", "budget"),
    config("unknown section", MACS + "trian: {lr: 1}\n", "trian", "'train'"),
    config("unknown key", MACS + "train: {learning_rate: 1}\n", "train.learning_rate", "unknown key"),
    config("section is text", MACS + "train: fast\n", "train", "'fast'"),
    config("section is a list", MACS + "train: [1]\n", "train", "[1]"),
    config("long value", MACS + f"train: {{lr: {'x' * 100_000}}}\n", "train.lr", "number"),
]

VALUES = [
    *(value("train.lr", v, v[1:]) for v in ("0", "-1", ".nan", ".inf", "-.inf", "fast", "[1]", "{a: 1}", "null")),
    value("train.rungs", "[]", "[]"), value("train.rungs", "[1]", "ascend"), value("train.rungs", "[300, 200]", "[300"),
    value("train.rungs", "[2.5]", "2.5"), value("train.rungs", "many", "'many'"),
    value("train.final_images", "10", "10"), value("train.batch_size", "1", "1", "2"),
    value("train.batch_size", "1e30", "1e30"), value("train.momentum", "1", "less than 1"),
    value("train.optimizer", "lion", "'lion'", "sgd"), value("train.loss", "hintn", "'hintn'", "'hinton'"),
    value("train.loss", "_base", "'_base'"), value("train.loss", "../losses/hinton", "'../losses/hinton'"),
    value("train.loss_options", "{temprature: 2}", "temprature", "temperature"),
    value("train.loss_options", "{temperature: warm}", "'warm'"), value("train.augment", "sift", "'sift'", "'shift'"),
    value("train.views", "0", "0"), value("train.precision", "fp8", "'fp8'"), value("train.ema", "1.0", "1"),
    value("train.label_smoothing", "-0.1", "-0.1"),
    value("teacher.name", "resnet19", "'resnet19'", "'resnet18'"), value("teacher.name", "no.module:f", "no.module"),
    value("teacher.name", "math:squirt", "'squirt'", "sqrt"), value("teacher.name", "math:pi", "float"),
    Case("teacher.name=math:sqrt", (*LOCAL, "--set", "teacher.name=math:sqrt"), ("teacher.options",
         "math:sqrt")), value("teacher.name", "':f'", "'package.module:function'"),
    value("teacher.name", "'..a:f'", "'..a'"), value("teacher.name", "''", "''"),
    value("teacher.name", "'os:getcwd'", "str, not a torch.nn.Module"),
    value("teacher.name", "in-hand", "in hand"),
    value("teacher.options", "{widths: 3}", "widths"), value("teacher.options", "{classes: 3}", "'classes'"),
    value("teacher.options", "3", "3"), value("teacher.weights", "nowhere.pt", "nowhere.pt"),
    value("teacher.weights", "'~nobody-here/x.pt'", "~nobody-here"), value("teacher.weights", "7", "7"),
    value("teacher.train.images", "1", "1"), value("teacher.train.lr", ".inf", "inf"),
    value("data.source", "digit", "'digit'", "'digits'"), value("data.source", "../digits", "'../digits'"),
    value("data.source", "in-hand", "in hand"),
    value("data.validation", "0", "0"), value("data.validation", "1.5", "1.5"),
    value("data.validation", "0.9999999", "leave 0 to train"), value("data.validation", "1e-9", "0 to validate"),
    value("data.limit", "1", "1"), value("data.seed", "-1", "-1"), value("data.seed", "1e40", "1e40"),
    value("data.options", "{tset: 0.5}", "'tset'", "'test'"), value("data.options", "{test: 0.0001}", "0.0001"),
    value("data.options", "{test: 2}", "2"), value("data.options", "{seed: -3}", "-3"),
    value("data.options", "{test: .nan}", "nan"), value("data.mean", "[0.5, 0.5]", "1 numbers"),
    value("data.mean", "[.nan]", "nan"), value("data.std", "[0]", "above 0"), value("data.std", "[-.inf]", "inf"),
    value("space.ratios", "[]", "[]"), value("space.ratios", "[1.5]", "1.5"), value("space.ratios", "[.nan]", "nan"),
    value("space.step", "0", "0"), value("space.step", "fast", "'fast'"), value("space.least", "1", "1"),
    value("space.keep", "[nothing.like.it]", "'nothing.like.it'"),
    Case("keep everything", (*LOCAL, "--set", "space.keep=['*']"), ("small_cnn", "kept on request")),
    value("space.tie", "[nothing]", "'nothing'"), value("space.widths", "{nothing: [1]}", "'nothing'"),
    value("space.widths", "{'*': [0.0]}", "0.0"), value("space.sparsity", "['3:2']", "3:2"),
    value("space.sparsity", "[lots]", "lots"), value("space.sparsity", "[1.5]", "1.5"),
    value("search.proposer", "nsga", "'nsga'", "'nsga2'"), value("search.proposer", "_setup", "'_setup'"),
    value("search.options", "{populaton: 3}", "populaton"), value("search.options", "{population: x}", "'x'"),
    value("search.trials", "0", "0"), value("search.trials", "2.5", "2.5"), value("search.trials", "true", "true"),
    value("search.starts", "[unifrom]", "'uniform'"), value("search.levels", "[0]", "0"),
    value("search.levels", "[]", "[]"), value("search.keep", "0", "0"), value("search.finish", "never", "'never'"),
    value("search.baselines", "[best]", "'best'"), value("search.members", "0", "0"),
    value("criterion.name", "l3", "'l3'", "'l2'"), value("criterion.options", "{p: 3}", "'p'"),
    value("criterion.images", "0", "0"), value("criterion.refit", "-1", "-1"),
    value("latency.target", "torhc", "'torch'"), value("latency.target", "'torch:threads=0'", "threads"),
    value("latency.target", "'torch:threads=x'", "'x'"), value("latency.target", "'torch:thread=1'", "'threads'"),
    value("latency.target", "'torch:batch=-1'", "batch"),
    value("latency.target", "'torch:threads=1,threads=2'", "threads"), value("latency.samples", "1", "1"),
    value("latency.seconds", "0", "0"), value("latency.where", "moon", "'moon'"),
    Case("run.runner=tun", ("search", "quickstart", "--runner", "tun"), ("run.runner", "'tune'")),
    value("run.workers", "0", "0"), value("run.seed", "-1", "-1"),
    value("run.seed", "4294967296", "4294967296"), value("run.device", "tpu", "'tpu'"),
    value("run.cpus_per_trial", "0", "0"), value("run.gpus_per_trial", ".inf", "inf"), value("run.retries", "-1", "-1"),
    value("run.base", "nowhere", "'nowhere'"), value("run.name", "[x]", "x"),
    value("export.formats", "[onxn]", "'onnx'"), value("export.formats", "[../onnx]", "'../onnx'"),
    value("export.pad", "0", "0"), value("export.members", "-1", "-1"),
    value("budget.size", "2 parsecs", "'2 parsecs'", "'2MB'"),
    Case("budget.size=10B", (*LOCAL, "--size", "10B"), ("budget: size 10 B", "smallest candidate")),
    value("budget.size", "'-2MB'", "'-2MB'"), value("budget.size", "0%", "'0%'"), value("budget.size", "150%", "150%"),
    value("budget.size", ".nan", "nan"), value("budget.size", ".inf", "inf"), value("budget.size", "true", "True"),
    value("budget.size", "[1MB]", "1MB"), value("budget.size", "1e999MB", "1e999MB"),
    value("budget.params", "1ms", "1ms"),
    Case("budget.memory=3", (*LOCAL, "--memory", "3"), ("budget: memory 3 B", "smallest candidate")),
]

NAMES = [
    Case(f"run-name-{shown}", ("search", "quickstart", "--runner", "local", "--set", f"run.name={given}"),
         ("run.name", shown))
    for shown, given in (("..", ".."), ("../out", "../out"), ("/out", "/out"), ("a/b", "a/b"), ("''", "''"),
                         (".", "."), ("x00", '"a\\0b"'), ("x1b", '"\\e[2J"'), ("nnn", "n" * 300))
]  # fmt: skip


def weights(name: str, make: Callable[[Path], object], *says: str, file: str = "w.pt") -> Case:
    command = (*LOCAL, "--set", f"teacher.weights={file}")
    return Case(f"weights-{name}", command, ("teacher.weights", file, *says),
         prepare=lambda folder: make(folder / file))


def saved(value: object) -> Callable[[Path], object]:
    return lambda path: torch.save(value, path)


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


class Owner:
    """Unpickling it makes a folder called ``owned``."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("owned",)


def header(text: str, size: int | None = None) -> bytes:
    """A safetensors file whose header is ``text``, and says that it is ``size`` bytes long."""
    return struct.pack("<Q", len(text) if size is None else size) + text.encode()


def tensor_at(shape: list[int], start: int, end: int) -> bytes:
    return header(json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}})) + bytes(16)


def zipped(names: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return file.getvalue()


def small_state() -> dict[str, torch.Tensor]:
    from niwaki.distill import build

    return build("small_cnn", 10).state_dict()


def changed(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        state = dict(small_state())
        state[key] = change(state[key])
        torch.save(state, path)

    return make


def halved(path: Path) -> None:
    torch.save(small_state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FIRST = "stage1.0.0.weight"
CODE = {"a/data.pkl": pickle.dumps(Owner()), "a/version": b"3\n", "a/byteorder": b"little"}
S = "w.safetensors"

WEIGHTS = [
    weights("empty", content(b"")), weights("text", content(b"not weights at all")), weights("cut short", halved),
    weights("a folder", lambda path: path.mkdir(), "no file"),
    weights("pickled code", content(pickle.dumps(Owner())), "code in a pickle is never run"),
    weights("pickled code in an archive", content(zipped(CODE)), "code in a pickle is never run"),
    weights("torch.save of code", saved({"w": Owner()}), "code in a pickle is never run"),
    weights("a whole module", lambda path: torch.save(torch.nn.Linear(2, 2), path), "save a state dict"),
    weights("a number", saved(3), "no state dict"), weights("a list", saved([torch.ones(1)]), "no state dict"),
    weights("numbers as keys", saved({1: torch.ones(1)}), "no state dict"),
    weights("texts as values", saved({"w": "x"}), "no state dict"),
    weights("sparse", saved({"w": torch.eye(3).to_sparse()}), "dense tensors"),
    weights("other network", saved({"fc.weight": torch.ones(2, 2)}), "has no", "missing"),
    weights("nothing in it", saved({}), "missing"),
    weights("one more", lambda path: torch.save({**small_state(), "extra": torch.ones(1)}, path), "'extra'"),
    weights("other shape", changed(FIRST, lambda t: t[:3]), FIRST, "(3, "),
    weights("nan", changed(FIRST, lambda t: t * float("nan")), FIRST, "NaN"),
    weights("infinity", changed(FIRST, lambda t: t / 0), FIRST, "infinity"),
    weights("archive without weights", content(zipped({"readme": b"hello"}))),
    weights("archive that points outside", content(zipped({"../../data.pkl": b"hello"}))),
    weights("safetensors empty", content(b""), file=S), weights("safetensors header cut", content(b"\1\0\0"), file=S),
    weights("safetensors absurd length", content(header("{}", 2**63)), file=S),
    weights("safetensors length beyond the file", content(header("{}", 10_000)), file=S),
    weights("safetensors no json", content(header("{{{{")), file=S),
    weights("safetensors beyond the data", content(tensor_at([4], 0, 10**12)), file=S),
    weights("safetensors backwards", content(tensor_at([4], 16, 0)), file=S),
    weights("safetensors overflowing shape", content(tensor_at([2**62, 2**62], 0, 16)), file=S),
    weights("safetensors is a pickle", content(pickle.dumps(Owner())), file=S),
    weights("safetensors other network", lambda path: save_file({"w": torch.ones(1)}, path), "has no", file=S),
]


def npz(name: str, *says: str, **arrays: object) -> Case:
    good = {"x_train": np.zeros((40, 8, 8, 1), np.uint8), "y_train": np.arange(40) % 2,
            "x_test": np.zeros((20, 8, 8, 1), np.uint8), "y_test": np.arange(20) % 2}  # fmt: skip
    held = {k: v for k, v in {**good, **arrays}.items() if v is not None}
    file = io.BytesIO()
    np.savez(file, **held)  # type: ignore[arg-type]
    return npz_bytes(name, file.getvalue(), *says)


def npz_bytes(name: str, data: bytes, *says: str) -> Case:
    command = (*LOCAL, "--set", "data.source=npz", "--set", "data.path=d.npz")
    return Case(f"npz-{name}", command, ("d.npz" if name != "other channels" else "'d'", *says), {"d.npz": data})


def damaged_zip() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x_train=np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), np.uint8),
                        y_train=np.arange(40) % 2, x_test=np.zeros((20, 8, 8, 1)), y_test=np.arange(20) % 2)
    data = bytearray(file.getvalue())
    data[200:400] = bytes(200)
    return bytes(data)


def claims(shape: str) -> bytes:
    """An archive whose first array says that it has ``shape``, without the data."""
    said = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    array = b"\x93NUMPY\1\0" + struct.pack("<H", len(said)) + said + b"xx"
    return zipped({f"{name}.npy": array for name in ("x_train", "y_train", "x_test", "y_test")})


def python_data(name: str, code: str, *says: str, arguments: str = "{}") -> Case:
    function = f"mine_{zlib.crc32(name.encode())}:pair"
    command = (*LOCAL, "--set", "data.source=python",
               "--set", f"data.options={{function: '{function}', arguments: {arguments}}}")
    return Case(f"python-{name}", command, says, {f"{function.removesuffix(':pair')}.py": code})


def pictures(name: str, make: Callable[[Path], object], *says: str, options: str = "") -> Case:
    command = (*LOCAL, "--set", "data.source=image_folder", "--set", f"data.options={{path: d{options}}}")
    return Case(f"pictures-{name}", command, says, prepare=lambda folder: make(folder / "d"))


def drawn(path: Path, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for part in ("train", "val"):
        for label in classes:
            (path / part / label).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (12, 12), (i, i, i)).save(path / part / label / f"{i}.png")
    return path


SET = "class Set:\n    def __len__(self): return 4\n    def __getitem__(self, i): "
DATA = [
    npz_bytes("missing", b"", "cannot be read"), npz_bytes("text", b"x" * 100, "cannot be read"),
    npz_bytes("damaged", damaged_zip(), "cannot be read"), npz_bytes("absurd", claims("(10000000000000,)"), "read"),
    npz_bytes("pickled", pickle.dumps(Owner()), "cannot be read"),
    npz("objects", "cannot be read", x_train=np.array([Owner()], dtype=object)),
    npz("no labels", "'y_train'", y_train=None), npz("no images", "x_train is empty", x_train=np.zeros((0, 8, 8, 1))),
    npz("a number", "x_train", x_train=np.float32(3)), npz("flat", "(40, 64)", x_train=np.zeros((40, 64), np.uint8)),
    npz("nan", "NaN", "image 0", x_train=np.full((40, 8, 8, 1), np.nan)),
    npz("words", "<U1", x_train=np.full((40, 8, 8, 1), "a")),
    npz("fewer labels", "40 images", "39 labels", y_train=np.arange(39) % 2),
    npz("labels as numbers with a point", "float64", y_train=np.arange(40) / 2),
    npz("huge label", "1000000000000", y_train=np.r_[np.arange(39) % 2, 10**12]),
    npz("negative label", "negative", y_train=np.r_[np.arange(39) % 2, -1]),
    npz("a class without examples", "class 1", y_train=np.arange(40) % 2 * 2),
    npz("one class", "one class", y_train=np.zeros(40, int), y_test=np.zeros(20, int)),
    npz("unknown test label", "test labels", y_test=np.arange(20) % 3),
    npz("other size in test", "alike", x_test=np.zeros((20, 9, 9, 1), np.uint8)),
    npz("which are the channels", "layout", x_train=np.zeros((40, 3, 8, 3), np.uint8)),
    npz("other channels", "cannot read images", "(3, 8, 8)", x_train=np.zeros((40, 8, 8, 3), np.uint8),
        x_test=np.zeros((20, 8, 8, 3), np.uint8)),
    python_data("syntax error", "def pair(:\n", "SyntaxError", "data.options.function"),
    python_data("raises at import", "1 / 0\n", "ZeroDivisionError", "data.options.function"),
    python_data("no such function", "x = 1\n", "'pair'"),
    python_data("raises", "def pair(): raise OSError('disk on fire')\n", "disk on fire"),
    python_data("wants arguments", "def pair(root): pass\n", "root"),
    python_data("takes none", "def pair(): pass\n", "depth", arguments="{depth: 3}"),
    python_data("returns nothing", "def pair(): pass\n", "(train, test) pair", "NoneType"),
    python_data("returns numbers", "def pair(): return 1, 2\n", "map-style dataset"),
    python_data("empty", "def pair(): return [], []\n", "empty"),
    python_data("items that raise", SET + "raise KeyError('gone')\ndef pair(): return Set(), Set()\n", "KeyError",
         "item 0"),
    python_data("no pairs", SET + "return 1\ndef pair(): return Set(), Set()\n", "(image, label)"),
    python_data("words for images", SET + "return 'cat', i\ndef pair(): return Set(), Set()\n", "item 0"),
    python_data("nan", f"import torch\n{SET}return torch.full((1, 8, 8), float('nan')), i\n"
                "def pair(): return Set(), Set()\n", "NaN", "item 0"),
    python_data("sizes that differ", f"import torch\n{SET}return torch.ones(1, 8, 8 + i), i\n"
                "def pair(): return Set(), Set()\n", "item 1", "alike"),
    python_data("labels that are words", f"import torch\n{SET}return torch.ones(1, 8, 8), 'cat'\n"
                "def pair(): return Set(), Set()\n", "labels must be"),
    python_data("labels of several numbers", f"import torch\n{SET}return torch.ones(1, 8, 8), torch.ones(2)\n"
                "def pair(): return Set(), Set()\n", "labels must be"),
    pictures("nowhere", lambda path: None, "data.options.path", "does not exist"),
    pictures("a file", lambda path: path.write_text("x"), "data.options.path", "no folder"),
    pictures("no train", lambda path: path.mkdir(), "data.options.train", "'train'"),
    pictures("no classes", lambda path: [(path / p).mkdir(parents=True) for p in ("train", "val")],
         "data.options.train"),
    pictures("other classes", lambda path: (drawn(path) / "val" / "a").rename(path / "val" / "c"), "a, c"),
    pictures("not a picture", lambda path: (drawn(path) / "train" / "a" / "0.png").write_bytes(b"x"), "0.png"),
    pictures("cut short", lambda path: (f := drawn(path) / "train" / "b" / "1.png").write_bytes(f.read_bytes()[:40]),
             "1.png"),
    pictures("size 0", drawn, "size 0", options=", size: 0"), pictures("huge", drawn, "10000000",
         options=", size: 10000000"),
    pictures("no workers", drawn, "workers 0", options=", workers: 0"),
    pictures("a million workers", drawn, "workers 1000000", options=", workers: 1000000"),
    pictures("words for a size", drawn, "data.options.size", "'big'", options=", size: big"),
]


def run(name: str, command: str, prepare: Callable[[Path], object] | None, *says: str) -> Case:
    """``prepare`` gets the run folder."""
    change = None if prepare is None else lambda folder: prepare(folder / "run")
    return Case(f"run-{name}", tuple(command.split()), says, prepare=change or (lambda folder: None))


def text(file: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def gone(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).unlink()


def edit(file: str, *steps: tuple[str, object]) -> Callable[[Path], object]:
    """Set (``a.b.0.c``, value) in a JSON file; the value ``KeyError`` deletes."""

    def change(folder: Path) -> None:
        path = next(folder.glob(file))
        data = json.loads(path.read_text())
        for key, new in steps:
            *above, last = [int(part) if part.isdigit() else part for part in key.split("/")]
            place = data
            for part in above:
                place = place[part]
            if new is KeyError:
                del place[last]
            else:
                place[last] = new
        path.write_text(json.dumps(data))

    return change


def linked(name: str, to: str) -> Callable[[Path], object]:
    """A link ``name`` in the run to ``to`` beside the run, which holds what the original was."""

    def change(folder: Path) -> None:
        place = next(folder.glob(name), folder / name)
        if place.exists():
            place.rename(folder.parent / to)
        else:
            (folder.parent / to).write_text("precious\n")
        place.symlink_to(folder.parent / to)

    return change


def other_tensors(file: str) -> Callable[[Path], object]:
    return lambda folder: save_file({"x": torch.ones(2)}, next(folder.glob(file)))


def unfinished(folder: Path) -> None:
    """As a run that was stopped before it was judged."""
    (folder / "front.json").unlink()


def both(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [change(folder) for change in changes]


FRONT, DEEP = "front.json", '{"a":' * 100_000
RUNS = [
    Case("no such run", ("front", "nowhere"), ("nowhere", "not a run folder")),
    Case("run is a file", ("front", "f"), ("f", "not a run folder"), {"f": "x"}),
    Case("run under a file", ("front", "f/run"), ("f/run", "not a run folder"), {"f": "x"}),
    Case("run with a long name", ("front", "n" * 300), ("nnn", "too long")),
    Case("no such run to report", ("report", "nowhere"), ("nowhere",)),
    Case("no such run to resume", ("resume", "nowhere"), ("nowhere",)),
    Case("no such run to export", ("export", "nowhere", "--to", "x"), ("nowhere",)),
    Case("no such run to look at", ("status", "nowhere"), ("nowhere",)),
    run("without front", "front run", unfinished, "run", "no front yet", "niwaki resume"),
    run("without front to export", "export run --to x", unfinished, "no front yet"),
    run("without front to report", "report run", unfinished, "no front yet"),
    *(run(f"{command}: front {name}", f"{command} run" + " --to x" * (command == "export"), change, FRONT, *says)
      for command in ("front", "export", "report")
      for name, change, says in (
          ("empty", text(FRONT, ""), ["not readable as JSON"]),
          ("is a list", text(FRONT, "[]"), ["front", "[]"]),
          ("is deep", text(FRONT, DEEP), ["nested too deeply"]),
          ("is latin-1", text(FRONT, b'{"name": "\xe9"}'), ["not readable as text"]),
          ("is cut short", lambda folder: os.truncate(folder / FRONT, 300), ["not readable as JSON"]),
          ("without members", edit(FRONT, ("members", [])), ["members"]),
          ("member without cost", edit(FRONT, ("members/0/cost", KeyError)), ["members.0.cost"]),
          ("macs are text", edit(FRONT, ("members/0/cost/macs", "<b>")), ["members.0.cost.macs", "<b>"]),
          ("macs are huge", edit(FRONT, ("members/0/cost/macs", 10**400)), ["members.0.cost.macs"]),
          ("nan accuracy", edit(FRONT, ("members/0/metrics/accuracy", float("nan"))), ["accuracy", "nan"]),
          ("accuracy of 7", edit(FRONT, ("teacher/test_accuracy", 7)), ["teacher.test_accuracy", "7"]),
          ("name leads outside", edit(FRONT, ("members/0/name", "../../x")), ["members.0.name", "../../x"]),
          ("trial leads outside", edit(FRONT, ("members/0/trials/0", "../../x")), ["trials.0", "../../x"]),
          ("no trials", edit(FRONT, ("members/0/trials", [])), ["members.0.trials"]),
          ("surrogates", edit(FRONT, ("members/0/candidate/widths", {"\ud800": 1})), ["widths"]),
          ("unknown kind", edit(FRONT, ("members/0/kind", "best")), ["members.0.kind", "'best'"]),
      )),
    run("front.csv gone", "front run --csv", gone("front.csv"), "front.csv"),
    run("csv is no text", "front run --csv", text("front.csv", b"\xff\xfe"), "front.csv"),
    *(run(f"{command}: facts {name}", command, change, "facts.json", *says)
      for command in ("front run", "resume run", "report run")
      for name, change, says in (
          ("gone", gone("facts.json"), ["no such file"]), ("wrong", text("facts.json", "3"), ["facts", "3"]),
          ("no teacher", edit("facts.json", ("teacher", KeyError)), ["teacher"]),
          ("shape", edit("facts.json", ("shape", ["a"])), ["shape.0", "'a'"]),
          ("classes", edit("facts.json", ("classes", -1)), ["classes", "-1"]),
      ) if (command, name) != ("resume run", "gone")),
    run("env gone", "report run", gone("env.json"), "env.json"),
    run("env wrong", "report run", text("env.json", '{"versions": [1]}'), "env.json", "versions"),
    run("space wrong", "report run", text("space.json", '{"groups": 3}'), "space.json", "groups"),
    run("latency wrong", "report run", edit("latency.json", ("samples/0/ms", "x")), "latency.json", "samples.0.ms",
         "'x'"),
    run("latency error wrong", "report run", edit("latency.json", ("error/more", 1)), "latency.json", "error.more"),
    run("latency without method", "resume run", edit("latency.json", ("method", KeyError)), "latency.json", "method"),
    run("config gone", "front run", gone("config.yaml"), "not a run folder", "config.yaml"),
    run("config empty", "front run", text("config.yaml", ""), "config.yaml", "expected sections"),
    run("config with other keys", "resume run", text("config.yaml", "budget: {macs: 1}\nx: 1"), "config.yaml", "x"),
    run("journal is no json", "resume run", text("journal.jsonl", "{}{}\n"), "journal.jsonl, line 1"),
    run("journal line empty", "resume run", text("journal.jsonl", "\n"), "journal.jsonl, line 1"),
    run("journal of lists", "resume run", text("journal.jsonl", "[]\n"), "journal.jsonl, line 1", "object"),
    run("journal deep", "resume run", text("journal.jsonl", DEEP + "\n"), "journal.jsonl, line 1", "deep"),
    run("journal deep to look at", "status run", text("journal.jsonl", DEEP + "\n"), "journal.jsonl, line 1", "deep"),
    run("journal is a folder", "resume run", both(gone("journal.jsonl"), lambda f: (f / "journal.jsonl").mkdir()),
        "journal.jsonl"),
    run("teacher gone", "export run --to x", gone("teacher.safetensors"), "teacher.safetensors"),
    run("teacher of another network", "export run --to x", other_tensors("teacher.safetensors"), "teacher.safetensors"),
    run("student gone", "export run --to x", lambda f: [p.unlink() for p in f.glob("trials/*/student.safetensors")],
        "student.safetensors", "no such file"),
    run("student of another network", "export run --to x",
        lambda f: [save_file({"x": torch.ones(1)}, p) for p in f.glob("trials/*/student.safetensors")],
        "student.safetensors"),
    run("units of another network", "export run --to x",
        lambda f: [save_file({"x": torch.ones(1)}, p) for p in f.glob("trials/*/kept.safetensors")],
        "kept.safetensors"),
    run("units that are none", "export run --to x", lambda f: [p.write_bytes(b"x" * 99) for p in
        f.glob("trials/*/kept.safetensors")], "kept.safetensors", "not readable as safetensors"),
    run("job of another network", "export run --to x", edit("trials/final-*/job.json", ("candidate/widths", {"a": 1})),
        "job.json", "key"),
    run("example gone", "export run --to x", gone("example.safetensors"), "example.safetensors"),
    run("example without images", "export run --to x", other_tensors("example.safetensors"), "example.safetensors"),
    run("another network now", "export run --to x", edit("facts.json", ("space", "0" * 12)), "space.json", "0" * 12),
    run("another network to go on with", "resume run", edit("facts.json", ("space", "0" * 12)), "space.json"),
    *(run(f"{command}: link {name}", command, linked(name, "outside"), name.split("/")[-1], "outside",
         "links are not followed")
      for name, command in (
          ("LOCK", "resume run"), ("journal.jsonl", "resume run"), ("trials", "resume run"), ("trials", "front run"),
          ("export", "report run"), ("teacher.safetensors", "export run --to x"), (".shared", "resume run"),
          ("front.csv", "front run --csv"), ("trials/new", "resume run"), ("progress.json", "status run"))),
    run("link log.txt", "resume run", linked("trials/final-*/log.txt", "outside"), "log.txt", "outside"),
    run("link student", "export run --to x", linked("trials/final-*/student.safetensors", "outside"), "outside"),
    run("outcome of another trial", "resume run",
        both(unfinished, lambda f: next(f.glob("trials/final-*")).rename(f / "trials" / "a-b")),
        "trials/a-b", "belongs to job"),
    run("outcome that is none", "resume run",
        both(unfinished, lambda f: (f / "trials/x").mkdir(), text("trials/x/outcome.json", "3")),
        "trials/x/outcome.json", "3"),
    run("measured wrong", "resume run", both(unfinished, text("measured.json", "[]")), "measured.json"),
]

FROM = ("search", "--runner", "local", "--to", "new", "--from", "run")
COMMANDS = [
    Case("nothing to search", ("search",), ("CONFIG",)),
    Case("unknown name", ("search", "quickstar"), ("'quickstart'",)),
    Case("no such file", ("search", "quickstart.yml"), ("quickstart.yml", "'quickstart'")),
    Case("config is a folder", ("search", "d.yaml"), ("d.yaml", "cannot be read"),
         prepare=lambda f: (f / "d.yaml").mkdir()),
    Case("set without value", ("search", "quickstart", "--set", "train.lr"), ("train.lr", "section.key=value")),
    Case("set without key", ("search", "quickstart", "--set", "=3"), ("=3", "section.key=value")),
    Case("set below a value", ("search", "quickstart", "--set", "train.lr.x=3"), ("train.lr", "not a section")),
    Case("set a date", ("search", "quickstart", "--set", "run.name=2001-99-99"), ("--set run.name=2001-99-99",
         "month")),
    Case("set deep", ("search", "quickstart", "--set", "run.name=" + "[" * 5000), ("--set run.name=", "deep")),
    Case("folder in use", (*LOCAL[:5], "used"), ("used", "not empty"), {"used/a": "x"}),
    Case("folder is a file", (*LOCAL[:5], "f"), ("f",), {"f": "x"}),
    Case("folder under a file", (*LOCAL[:5], "f/g/h"), ("f/g/h", "is a file"), {"f": "x"}),
    Case("folder with a long name", (*LOCAL[:5], "n" * 300), ("nnn", "too long")),
    Case("folder with a nul", (*LOCAL[:4], "--set", 'run.folder="a\\0b"'), ("run.folder", "a\\x00b")),
    Case("folder where nothing may be written", (*LOCAL[:5], "/proc/niwaki", *LOCAL[6:]), ("/proc/niwaki",)),
    Case("no such option", ("search", "quickstart", "--trails", "3"), ("--trials",)),
    Case("trials are text", ("search", "quickstart", "--trials", "many"), ("--trials", "integer")),
    Case("no such command", ("serch",), ("'serch'", "'search'")),
    Case("from nowhere", ("search", "quickstart", *FROM[1:-1], "nowhere"), ("run.base", "'nowhere'")),
    Case("from nowhere without a configuration", (*FROM[:-1], "nowhere"), ("nowhere/config.yaml",)),
    Case("from itself", (*FROM[:3], "--from", "run", "--to", "run"), ("run", "not empty"), prepare=lambda f: None),
    Case("from another section", (*FROM, "--set", "data.seed=4"), ("run.base", "'data'"), prepare=lambda f: None),
    Case("from another space", (*FROM, "--set", "space.ratios=[0.5, 1.0]"), ("run.base", "'run'", "space"),
         prepare=lambda f: None),
    *(Case(f"from a run with {name}", FROM, says, prepare=lambda f, change=change: change(f / "run"))
      for name, change, says in (
          ("no facts", gone("facts.json"), ("facts.json",)), ("a link", linked("trials/x", "outside"), ("outside",)),
          ("a damaged teacher", text("teacher.safetensors", "x"), ("teacher.safetensors",)),
          ("another teacher", other_tensors("teacher.safetensors"), ("teacher.safetensors",)),
          ("a damaged journal", text("journal.jsonl", "x\n"), ("journal.jsonl, line 1",)),
          ("a damaged latency model", text("latency.json", "{}"), ("latency.json",)))),
    Case("calibration of nothing", (*LOCAL, "--set", "latency.target=torch", "--latency-from", "nowhere"),
         ("nowhere",)),
    Case("calibration is a text", (*LOCAL, "--set", "latency.target=torch", "--latency-from", "t.json"),
         ("latency.calibration", "t.json"), {"t.json": "x"}),
    Case("calibration is a list", (*LOCAL, "--set", "latency.target=torch", "--latency-from", "t.json"),
         ("latency.calibration", "t.json"), {"t.json": "[1]"}),
    Case("export over what exists", ("export", "run", "--to", "x"), ("x exists already",), {"x/a": "1"},
         lambda f: None),
    Case("export under a file", ("export", "run", "--to", "f/x"), ("f/x", "file in the way"), {"f": "1"},
         lambda f: None),
    Case("export to an unknown format", ("export", "run", "--to", "x", "--format", "onxn"), ("'onnx'",),
         prepare=lambda f: None),
    Case("export for a budget nobody meets", ("export", "run", "--to", "x", "--size", "1B"), ("size 1 B", "m1"),
         prepare=lambda f: None),
    Case("export for no budget", ("export", "run", "--to", "x", "--size", "big"), ("'big'", "'2MB'"),
         prepare=lambda f: None),
    Case("export padded with words", ("export", "run", "--to", "x", "--pad", "wide"), ("pad", "'wide'"),
         prepare=lambda f: None),
    Case("report over a file", ("report", "run", "--to", "f"), ("f exists already",), {"f": "mine"}, lambda f: None),
    Case("report over a folder", ("report", "run", "--to", "d"), ("d exists already",), {"d/a": "mine"},
         lambda f: None),
    Case("report under a file", ("report", "run", "--to", "f/r.html"), ("f",), {"f": "mine"}, lambda f: None),
    Case("json and csv", ("front", "run", "--json", "--csv"), ("exclude each other",)),
    Case("compare with an unknown one", ("compare", "quickstart", "--proposers", "ramdom"), ("'random'",)),
    Case("compare with nobody", ("compare", "quickstart", "--proposers", ","), ("proposers",)),
    Case("compare into a file", ("compare", "quickstart", "--proposers", "random", "--to", "f"), ("f",), {"f": "x"}),
    Case("space of nothing", ("space", "resnet19"), ("'resnet18'",)),
    Case("space of code that is not there", ("space", "no.such:model"), ("no.such",)),
    Case("space with a word for a shape", ("space", "small_cnn", "--input", "1,x"), ("--input", "'1,x'")),
    Case("space of a shape that does not fit", ("space", "small_cnn", "--input", "1,3,8,8"), ("channels",)),
    Case("space of a shape that fits nowhere", ("space", "small_cnn", "--input", "1,1,1000000,10000000"), ("--input",)),
    Case("space of flat inputs", ("space", "small_cnn", "--input", "1,8"), ("SmallCNN", "(2, 8)")),
    Case("space with classes beyond memory", ("space", "small_cnn", "--classes", "10000000000000"), ("small_cnn",)),
    Case("space with wrong ratios", ("space", "small_cnn", "--ratios", "0.5,x"), ("--ratios", "0.5,x")),
    Case("example that is none", ("space", "small_cnn", "--example", "os:getcwd"), ("--example", "str")),
    Case("example that raises", ("space", "small_cnn", "--example", "os:rename"), ("--example", "os:rename")),
    Case("latency on nothing", ("latency", "small_cnn", "--target", "torhc"), ("'torch'",)),
    Case("latency over a file", ("latency", "small_cnn", "--to", "f"), ("f exists already",), {"f": "x"}),
    Case("latency into nowhere", ("latency", "small_cnn", "--to", "no/f.json"), ("--to", "no is no folder")),
]
