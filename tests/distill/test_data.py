from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.distill import ArraySplit, Data, DataSpec, assemble, from_datasets, load
from niwaki.distill.data import stratified
from niwaki.distill.sources import Parts
from niwaki.spaces.errors import InputError


def parts(labels: list[int], test: list[int], kind: torch.dtype = torch.uint8) -> Parts:
    images = torch.randint(0, 256, (len(labels), 1, 4, 4)).to(kind)
    return Parts(
        ArraySplit(images, torch.tensor(labels, dtype=torch.int64)),
        ArraySplit(torch.zeros(len(test), 1, 4, 4, dtype=kind), torch.tensor(test, dtype=torch.int64)),
        "made",
    )


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=80), share=st.floats(0, 1), seed=st.integers(0, 2**40))
def test_a_stratified_choice_is_a_partition_in_proportion(labels: list[int], share: float, seed: int) -> None:
    y = torch.tensor(labels)
    chosen, others = stratified(y, share, seed)
    assert torch.cat([chosen, others]).sort().values.tolist() == list(range(len(y)))
    assert len(chosen) == round(share * len(y))
    for value in set(labels):
        exact = (y == value).sum().item() * len(chosen) / len(y)
        assert abs((y[chosen] == value).sum().item() - exact) < 1
    again, _ = stratified(y, share, seed)
    assert torch.equal(chosen, again)


def test_the_split_depends_on_its_seed_alone() -> None:
    made = parts([0, 1] * 100, [0, 1])
    same, also, other = (assemble(made, DataSpec(seed=s)) for s in (3, 3, 4))
    assert torch.equal(same.validation.labels, also.validation.labels)
    pick = torch.arange(20)
    assert torch.equal(same.validation.batch(pick)[0], also.validation.batch(pick)[0])
    assert not torch.equal(same.validation.batch(pick)[0], other.validation.batch(pick)[0])


def test_limit_takes_training_images_and_leaves_validation_alone() -> None:
    made = parts([0, 0, 0, 1] * 100, [0, 1])
    whole, less = assemble(made, DataSpec()), assemble(made, DataSpec(limit=40))
    assert (len(whole.train), len(whole.validation)) == (360, 40)
    assert (len(less.train), len(less.validation)) == (40, 40)
    assert torch.bincount(less.train.labels).tolist() == [30, 10]
    assert torch.equal(whole.validation.batch(torch.arange(40))[0], less.validation.batch(torch.arange(40))[0])


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_mean_and_std_are_those_of_the_training_images(kind: torch.dtype) -> None:
    data = assemble(parts([0, 1] * 50, [0, 1], kind), DataSpec())
    images = data.train.batch(torch.arange(len(data.train)))[0].double() / (255 if kind == torch.uint8 else 1)
    assert data.mean == pytest.approx([images.mean().item()], rel=1e-6)
    assert data.std == pytest.approx([images.std(correction=0).item()], rel=1e-5)
    x = data.normalise(data.train.batch(torch.arange(len(data.train)))[0])
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), (images - data.mean[0]) / data.std[0], rtol=1e-5, atol=1e-5)


def test_given_mean_and_std_are_used_and_a_constant_channel_gets_std_one() -> None:
    made = parts([0, 1] * 50, [0, 1])
    data = assemble(made, DataSpec(mean=(0.5,), std=(0.25,)))
    assert data.normalise(torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)).unique().tolist() == [2.0]
    blank = Parts(
        ArraySplit(torch.full_like(made.train.batch(torch.arange(100))[0], 7), made.train.labels), made.test, "b"
    )
    assert assemble(blank, DataSpec()).std == (1.0,)


@pytest.mark.parametrize(
    ("labels", "test", "spec", "said"),
    [
        ([0] * 20, [0], DataSpec(), "all 20 training examples have one class"),
        ([0, 1] * 10, [], DataSpec(), "the test split is empty"),
        ([], [0], DataSpec(), "the training split is empty"),
        ([0, 2] * 10, [0], DataSpec(), "class 1 has no training example"),
        ([0, -1] * 10, [0], DataSpec(), "negative"),
        ([0, 1] * 10, [2], DataSpec(), "test labels go from 2 to 2, training labels from 0 to 1"),
        ([0, 1] * 10, [1], DataSpec(validation=1.5), "data.validation: 1.5"),
        ([0, 1], [1], DataSpec(validation=0.1), "leave 2 to train and 0 to validate"),
        ([0, 1] * 10, [1], DataSpec(limit=1), "data.limit: 1"),
        ([0, 1] * 10, [1], DataSpec(mean=(0.1, 0.2)), "must be 1 numbers"),
        ([0, 1] * 10, [1], DataSpec(std=(0.0,)), "above 0"),
    ],
)
def test_data_that_cannot_work_are_refused(labels: list[int], test: list[int], spec: DataSpec, said: str) -> None:
    with pytest.raises(InputError, match=said):
        assemble(parts(labels, test), spec)


def test_example_part_and_shape(data: Data) -> None:
    assert data.shape == (2, 8, 8)
    assert data.example(3).shape == (3, 2, 8, 8)
    assert data.part("test") is data.test
    with pytest.raises(ValueError, match="none of train, validation, test"):
        data.part("dev")


def test_datasets_of_a_user(pairs: Any) -> None:
    images = torch.rand(40, 3, 6, 6)
    data = from_datasets(pairs(images, [0, 1] * 20), pairs(images, [1, 0] * 20), DataSpec(validation=0.25))
    assert (len(data.train), len(data.validation), len(data.test), data.classes) == (30, 10, 40, 2)


def test_load_names_the_nearest_source_and_option() -> None:
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load(DataSpec("digit"))
    with pytest.raises(InputError, match="did you mean 'test'"):
        load(DataSpec("digits", {"tests": 0.1}))
