from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from niwaki.distill.augment import AUGMENTATIONS, View, apply, derived_seed, view_of
from niwaki.spaces.errors import InputError


def one_by_one(view: View, images: Tensor, indices: Tensor) -> Tensor:
    """The slow reference: pad, cut out and mirror each image by itself."""
    height, width = images.shape[2:]
    out = []
    for image, index in zip(images, indices.tolist(), strict=True):
        padded = F.pad(image, (view.pad[1], view.pad[1], view.pad[0], view.pad[0]))
        top, left = int(view.rows[index]), int(view.columns[index])
        piece = padded[:, top : top + height, left : left + width]
        out.append(torch.flip(piece, [2]) if view.mirrored[index] else piece)
    return torch.stack(out)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(AUGMENTATIONS)),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**40),
    view=st.integers(0, 5),
    kind=st.sampled_from([torch.uint8, torch.float32]),
)
def test_a_batch_equals_the_images_one_by_one(
    name: str, shape: tuple[int, int, int], seed: int, view: int, kind: torch.dtype
) -> None:
    drawn = view_of(name, 12, shape, seed, view)
    images = torch.randint(0, 256, (5, *shape)).to(kind)
    indices = torch.tensor([11, 0, 3, 3, 7])
    assert torch.equal(apply(drawn, images, indices), one_by_one(drawn, images, indices))


def test_a_batch_can_be_rebuilt_anywhere() -> None:
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8)
    whole = apply(view_of("crop_flip", 50, (3, 32, 32), 3, 1), images, torch.arange(50))
    part = torch.tensor([40, 2, 17])
    again = apply(view_of("crop_flip", 50, (3, 32, 32), 3, 1), images[part], part)
    assert torch.equal(again, whole[part])


def test_views_and_seeds_differ_and_cover_every_offset() -> None:
    first, second, other = (view_of("crop_flip", 4000, (3, 32, 32), s, v) for s, v in ((0, 0), (0, 1), (1, 0)))
    for drawn in (first, second, other):
        assert drawn.rows.unique().tolist() == drawn.columns.unique().tolist() == list(range(9))
        assert 0.45 < drawn.mirrored.float().mean() < 0.55
    assert not torch.equal(first.rows, second.rows)
    assert not torch.equal(first.rows, other.rows)


def test_padding_is_an_eighth_of_the_side_and_shift_never_mirrors() -> None:
    assert view_of("crop_flip", 2, (3, 32, 64), 0, 0).pad == (4, 8)
    drawn = view_of("shift", 200, (1, 8, 8), 0, 0)
    assert drawn.pad == (1, 1)
    assert not drawn.mirrored.any()


def test_none_gives_the_images_back() -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    drawn = view_of("none", 4, (1, 8, 8), 0, 0)
    assert drawn.idle
    assert torch.equal(apply(drawn, images, torch.arange(4)), images)
    assert view_of("none", 4, (7,), 0, 0).pad == (0, 0)  # rows of a table may pass unchanged


def test_unknown_names_and_data_without_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'crop_flip'"):
        view_of("crop_flop", 4, (3, 8, 8), 0, 0)
    with pytest.raises(InputError, match="use 'none'"):
        view_of("shift", 4, (7,), 0, 0)


def test_derived_seeds_do_not_collide() -> None:
    seeds = {derived_seed(a, text, b) for a in range(30) for text in ("view", "order") for b in range(30)}
    assert len(seeds) == 30 * 2 * 30
    assert all(0 <= s < 2**63 for s in seeds)
