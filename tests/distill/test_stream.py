from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from niwaki.distill import augment
from niwaki.distill.splits import ArraySplit, from_dataset
from niwaki.distill.stream import Plan, Reader

PLANS = st.builds(
    Plan,
    size=st.integers(1, 40),
    images=st.integers(2, 120),
    batch_size=st.integers(2, 50),
    seed=st.integers(0, 2**30),
    first=st.integers(0, 200),
)


def flat(plan: Plan) -> list[tuple[int, int]]:
    return [(epoch, int(i)) for pieces in plan for epoch, indices in pieces for i in indices]


@given(PLANS)
def test_a_plan_sees_exactly_its_images_in_batches_of_more_than_one(plan: Plan) -> None:
    sizes = [sum(len(i) for _, i in pieces) for pieces in plan]
    assert sum(sizes) == plan.images
    assert len(sizes) == len(plan)
    assert all(2 <= s <= plan.batch_size + 1 for s in sizes)
    assert all(s == plan.batch_size for s in sizes[:-1])


@given(PLANS)
def test_every_epoch_is_a_permutation(plan: Plan) -> None:
    whole = Plan(plan.size, plan.size * 3, plan.batch_size, plan.seed) if plan.size > 1 else Plan(2, 6, 2, plan.seed)
    seen = flat(whole)
    for epoch in range(3):
        assert sorted(i for e, i in seen if e == epoch) == list(range(whole.size))
    assert [e for e, _ in seen] == sorted(e for e, _ in seen)


@given(PLANS, st.integers(2, 100))
def test_a_continued_training_goes_on_where_it_stopped(plan: Plan, more: int) -> None:
    following = Plan(plan.size, more, plan.batch_size, plan.seed, plan.first + plan.images)
    both = Plan(plan.size, plan.images + more, plan.batch_size, plan.seed, plan.first)
    assert flat(plan) + flat(following) == flat(both)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    seen = flat(Plan(100, 200, 10, 0))
    assert [i for e, i in seen if e == 0] != [i for e, i in seen if e == 1]
    assert flat(Plan(100, 100, 10, 0)) != flat(Plan(100, 100, 10, 1))


def test_the_reader_shows_each_image_as_its_view_says(pairs: Any) -> None:
    images = torch.randint(0, 256, (25, 3, 16, 16), dtype=torch.uint8)
    labels = [i % 2 for i in range(25)]
    views = [
        augment.apply(augment.view_of("crop_flip", 25, (3, 16, 16), 9, v), images, torch.arange(25)) for v in range(2)
    ]
    lazy = from_dataset(pairs(images, labels), memory=0, workers=2, where="x")
    for split in (ArraySplit(images, torch.tensor(labels)), lazy):
        plan = Plan(25, 95, 20, seed=4)
        batches = list(Reader(split, "crop_flip", 9, 2).batches(plan))
        order = flat(plan)
        assert torch.cat([b.indices for b in batches]).tolist() == [i for _, i in order]
        assert torch.cat([b.views for b in batches]).tolist() == [e % 2 for e, _ in order]
        for batch in batches:
            expected = torch.stack(
                [views[v][i] for v, i in zip(batch.views.tolist(), batch.indices.tolist(), strict=True)]
            )
            assert torch.equal(batch.images, expected)
            assert batch.labels.tolist() == [labels[i] for i in batch.indices.tolist()]


def test_without_answers_every_epoch_is_a_view_of_its_own() -> None:
    images = torch.randint(0, 256, (10, 1, 16, 16), dtype=torch.uint8)
    reader = Reader(ArraySplit(images, torch.zeros(10, dtype=torch.int64)), "crop_flip", 0, None)
    batches = list(reader.batches(Plan(10, 50, 10, 0)))
    assert [b.views[0].item() for b in batches] == [0, 1, 2, 3, 4]
    shown = [b.images[b.indices.argsort()] for b in batches]
    assert not any(torch.equal(shown[0], other) for other in shown[1:])
