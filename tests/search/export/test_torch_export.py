"""A .pt2 file that would be unpickled or run as code is refused before torch.export.load sees it."""

import json
import pickle
import zipfile

import pytest
import torch
from torch import nn

from niwaki.search.export import ExportError, Subject
from niwaki.search.export.torch_export import TorchExport


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemError('unpickled')",))


@pytest.fixture
def path(tmp_path):
    TorchExport().write(Subject.of(nn.Linear(3, 2), torch.randn(2, 3)), tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def _rewrite(path, changes):
    """The archive with entries replaced or added; keys are suffixes of entry names, or new names."""
    with zipfile.ZipFile(path) as archive:
        entries = {n: archive.read(n) for n in archive.namelist()}
    root = next(iter(entries)).split("/")[0]
    for suffix, content in changes.items():
        name = next((n for n in entries if n.endswith(suffix)), f"{root}/{suffix}")
        entries[name] = content(entries.get(name)) if callable(content) else content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_an_honest_file_is_read(path):
    assert TorchExport().read(path)(torch.randn(7, 3)).shape == (7, 2)


def _mark_pickled(data):
    config = json.loads(data)
    next(iter(config["config"].values()))["use_pickle"] = True
    return json.dumps(config).encode()


def test_pickled_weights_are_refused(path):
    _rewrite(path, {"weights/weight_0": pickle.dumps(Bomb()), "weights_config.json": _mark_pickled})
    with pytest.raises(ExportError, match=r"weights_config.json marks '.*' as pickled"):
        TorchExport().read(path)


def test_pickled_sample_inputs_are_refused(path):
    _rewrite(path, {"data/sample_inputs/model.pt": pickle.dumps(Bomb())})
    with pytest.raises(ExportError, match=r"sample_inputs.* holds more than tensors"):
        TorchExport().read(path)


def test_compiled_code_is_refused(path):
    _rewrite(path, {"data/aotinductor/model/model.so": b"\x7fELF"})
    with pytest.raises(ExportError, match="compiled code"):
        TorchExport().read(path)


def test_other_archives_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
        archive.writestr("serialized_state_dict.pt", pickle.dumps(Bomb()))
    with pytest.raises(ExportError, match=r"not a \.pt2 archive"):
        TorchExport().read(tmp_path / "x.pt2")
