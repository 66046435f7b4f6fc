from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from niwaki.distill import DataSpec, load
from niwaki.spaces.errors import InputError

RANDOM = np.random.default_rng(0)


def arrays(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for part, count in (("train", 40), ("test", 10)):
        made[f"x_{part}"] = RANDOM.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
        made[f"y_{part}"] = np.arange(count) % 2
    return {k: v for k, v in {**made, **changes}.items() if v is not None}


def written(folder: Path, made: dict[str, Any]) -> str:
    np.savez(folder / "set.npz", **made)
    return str(folder / "set.npz")


def floats(count: int, bad: int | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
    x = RANDOM.random((count, 6, 5, 3))
    if bad is not None:
        x[bad, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "nhw"])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_every_layout_gives_the_same_images(tmp_path: Path, layout: str, kind: Any) -> None:
    made = arrays()
    moved = {
        "nhwc": lambda x: x,
        "nchw": lambda x: x.transpose(0, 3, 1, 2),
        "nhw": lambda x: x[..., 0],
    }[layout]
    path = written(tmp_path, {k: moved(v).astype(kind) if k.startswith("x") else v for k, v in made.items()})
    data = load(DataSpec("npz", {"path": path}))
    assert data.shape == (1 if layout == "nhw" else 3, 6, 5)
    images, labels = data.test.batch(torch.arange(10))
    assert images.dtype == (torch.uint8 if kind is np.uint8 else torch.float32)
    expected = made["x_test"].transpose(0, 3, 1, 2)[:, : images.shape[1]]
    assert np.array_equal(images.numpy(), expected)
    assert labels.tolist() == made["y_test"].tolist()


def test_a_column_of_labels_and_a_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = arrays()
    written(tmp_path, made | {"y_train": made["y_train"][:, None]})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(DataSpec("npz", {"path": "~/set.npz"})).classes == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"x_train": floats(40, bad=7), "x_test": floats(10)},
            r"x_train holds NaN or infinity in 1 of 40 images \(first: image 7",
        ),
        ({"x_test": None}, "no array 'x_test'"),
        ({"y_train": np.arange(39) % 2}, "x_train has 40 images, y_train 39 labels"),
        ({"y_train": np.linspace(0, 1, 40)}, "y_train: labels must be one integer"),
        ({"y_train": np.zeros(40, dtype=int)}, "all 40 training examples have one class"),
        ({"x_test": np.zeros((0, 6, 5, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test is empty"),
        ({"x_train": np.zeros((40, 30), np.uint8)}, r"x_train has shape \(40, 30\)"),
        ({"x_train": np.zeros((40, 3, 6, 3), np.uint8)}, "which dimension is the channels"),
        ({"x_train": np.zeros((40, 9, 9, 3), np.uint8)}, "they must be alike"),
        ({"x_train": np.zeros((40, 6, 5, 3), np.int16)}, "is int16; images must be uint8 or float"),
        ({"y_train": np.array([{}] * 40)}, "cannot be read as an .npz archive"),
    ],
)
def test_what_is_wrong_names_the_array(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = written(tmp_path, arrays(**changes))
    with pytest.raises(InputError, match=said):
        load(DataSpec("npz", {"path": path}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"anything else"])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as an \.npz archive"):
        load(DataSpec("npz", {"path": str(tmp_path / "set.npz")}))


def test_a_missing_file_and_a_wrong_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.options.path: .* does not exist"):
        load(DataSpec("npz", {"path": str(tmp_path / "none.npz")}))
    with pytest.raises(InputError, match=r"data.options.layout: 'chwn'"):
        load(DataSpec("npz", {"path": written(tmp_path, arrays()), "layout": "chwn"}))
