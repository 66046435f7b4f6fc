from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from niwaki.distill import ArraySplit, LazySplit, Rows, Split
from niwaki.distill.splits import as_image, as_labels, chunks, from_dataset
from niwaki.spaces.errors import InputError

IMAGES = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8)
LABELS = [0, 1, 2, 0, 1, 2, 0]


def test_memory_and_lazy_splits_give_the_same_batches(pairs: Any) -> None:
    held = from_dataset(pairs(IMAGES, LABELS), memory=1.0, workers=2, where="x")
    read = from_dataset(pairs(IMAGES, LABELS), memory=0.0, workers=2, where="x")
    assert isinstance(held, ArraySplit)
    assert isinstance(read, LazySplit)
    assert read.lazy
    assert not held.lazy
    rows = torch.tensor([6, 0, 3])
    for split in (held, read, Rows(held, torch.arange(7)), Rows(read, torch.arange(7))):
        assert isinstance(split, Split)
        assert len(split) == 7
        assert split.labels.tolist() == LABELS
        images, labels = split.to(torch.device("cpu")).batch(rows)
        assert torch.equal(images, IMAGES[rows])
        assert labels.tolist() == [0, 0, 0]


def test_known_labels_are_not_read_from_the_images(pairs: Any) -> None:
    dataset = pairs(IMAGES, LABELS, known=True)
    assert from_dataset(dataset, memory=0.0, workers=1, where="x").labels.tolist() == LABELS
    assert dataset.reads == 1  # the first one, for its shape


def test_rows_of_rows_pick_from_the_base() -> None:
    rows = Rows(Rows(ArraySplit(IMAGES, torch.tensor(LABELS)), torch.tensor([5, 4, 1])), torch.tensor([2, 0]))
    assert rows.labels.tolist() == [1, 2]
    assert torch.equal(rows.batch(torch.tensor([1]))[0], IMAGES[[5]])


def test_two_rows_of_one_split_are_pickled_with_one_copy_of_it() -> None:
    base = ArraySplit(torch.zeros(1000, 1, 8, 8, dtype=torch.uint8), torch.zeros(1000, dtype=torch.int64))
    size = len(pickle.dumps((Rows(base, torch.arange(2)), Rows(base, torch.arange(3)))))
    assert size < 1.3 * len(pickle.dumps(base))


def test_items_of_every_kind_become_channels_first() -> None:
    array = IMAGES[0].permute(1, 2, 0).numpy()
    assert torch.equal(as_image(Image.fromarray(array), 0), IMAGES[0])
    assert torch.equal(as_image(array, 0), IMAGES[0])
    assert torch.equal(as_image(IMAGES[0], 0), IMAGES[0])
    assert as_image(np.zeros((4, 5)), 0).shape == (1, 4, 5)
    assert as_image(np.zeros((4, 5)), 0).dtype == torch.float32
    assert as_image(Image.fromarray(array).convert("P"), 0).shape == (3, 4, 5)
    assert as_image(Image.fromarray(array).convert("L"), 0).shape == (1, 4, 5)


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (iter([]), "no map-style dataset"),
        ([], "is empty"),
        ([IMAGES[0]], r"must be \(image, label\) pairs"),
        ([(IMAGES[0], 0), (IMAGES[1, :, :2], 1)], r"item 1 is torch.uint8 \(3, 2, 5\)"),
        ([(torch.tensor([[0.0, float("nan")]]), 0)], "item 0 holds NaN"),
        ([("a", 0)], "item 0 is a str"),
        ([(IMAGES[0], 0.5), (IMAGES[1], 1.5)], "one integer an example"),
    ],
)
def test_what_is_no_dataset_of_images_says_so(dataset: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_dataset(dataset, memory=1.0, workers=1, where="data.train")


def test_labels_of_every_kind() -> None:
    for given in (
        [1, 0],
        (1, 0),
        np.array([[1], [0]], dtype=np.uint8),
        torch.tensor([1, 0]),
        [torch.tensor(1), np.int8(0)],
    ):
        labels = as_labels(given, "y")
        assert labels.tolist() == [1, 0]
        assert labels.dtype == torch.int64
    with pytest.raises(InputError, match=r"y: labels .* \(2, 2\)"):
        as_labels(np.eye(2, dtype=int), "y")


def test_chunks_cover_everything_once() -> None:
    assert [len(c) for c in chunks(torch.arange(10), 4)] == [4, 4, 2]
    assert torch.cat(list(chunks(torch.arange(10), 3))).tolist() == list(range(10))
