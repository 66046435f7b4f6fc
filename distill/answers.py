"""The teacher's answers on the augmented training images, computed once and shared by every training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from niwaki.distill import augment as augmentation
from niwaki.distill.data import Data
from niwaki.distill.evaluate import device_of, main_logits, modes_kept
from niwaki.distill.numerics import Numerics
from niwaki.distill.precision import fastest_forward
from niwaki.distill.recipe import Recipe
from niwaki.distill.splits import chunks
from niwaki.spaces.errors import InputError

_HALF_MAX = 65504.0


@dataclass(frozen=True, eq=False)
class Answers:
    """The teacher's logits, with what is needed to show a student exactly the images they belong to.

    Attributes:
        logits: (views, N, classes) float16, N training images.
        augment, seed: the augmentation and the seed of the views.
    """

    logits: Tensor
    augment: str
    seed: int

    @property
    def views(self) -> int:
        return len(self.logits)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        save_file({"logits": self.logits.contiguous()}, path, {"answers": json.dumps([self.augment, self.seed])})

    @classmethod
    def load(cls, path: str | Path) -> Answers:
        """Read what :meth:`save` wrote.

        Example:
            >>> import tempfile
            >>> path = tempfile.mktemp()
            >>> Answers(torch.zeros(2, 5, 3, dtype=torch.float16), "none", 7).save(path)
            >>> Answers.load(path).seed
            7
        """
        with safe_open(path, framework="pt") as file:
            name, seed = json.loads(file.metadata()["answers"])
            return cls(file.get_tensor("logits"), name, seed)


def answers(
    teacher: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int,
    report: Callable[[int, int], None] | None = None,
) -> Answers:
    """Ask the teacher about the augmented views of the training images that ``recipe`` will show.

    The teacher is in eval mode, sees no gradients and is left as it was. Where the recipe leaves precision or layout
    to ``auto``, bf16 and channels-last are used if a short trial shows that they pay on this machine.

    Args:
        teacher: answers with logits (B, classes); its device is used.
        data: the training split is read, in order.
        recipe: says how many ``views``, by which ``augment``, in which precision and layout.
        seed: of the views; view 0 of seed s is the same for every caller.
        report: called with (images done, images in all) after each batch.

    Raises:
        InputError: the teacher's classes are not the data's, or its answers are not finite.

    Example:
        >>> from niwaki.distill import DataSpec, build, load
        >>> answers(build("small_cnn", 10), load(DataSpec("digits", limit=64)), Recipe(augment="shift"), 0).logits.shape
        torch.Size([2, 64, 10])
    """
    device, views, augment = device_of(teacher), recipe.views, recipe.augment
    settled = "auto" not in (recipe.precision, recipe.layout)
    split = data.train.to(device)
    rows = torch.arange(len(split))
    out = torch.empty(views, len(split), data.classes, dtype=torch.float16)
    with modes_kept(teacher), torch.inference_mode():
        teacher.eval()
        numerics = recipe.numerics if settled else fastest_forward(teacher, data)
        for view in range(views):
            shown = augmentation.view_of(augment, len(split), data.shape, seed, view).to(device)
            for chunk in chunks(rows, _chunk(data)):
                images = augmentation.apply(shown, split.batch(chunk)[0], chunk.to(device))
                logits = _ask(teacher, numerics, data.normalise(images), data)
                out[view, chunk] = logits.clamp(-_HALF_MAX, _HALF_MAX).half().cpu()
                if report is not None:
                    report(view * len(split) + int(chunk[-1]) + 1, views * len(split))
    return Answers(out, augment, seed)


def _chunk(data: Data) -> int:
    """Images a batch: 256 small ones, fewer large ones, so that the activations stay in bounds."""
    return max(16, min(256, 2**24 // (torch.Size(data.shape).numel() * 32)))


def _ask(teacher: nn.Module, numerics: Numerics, images: Tensor, data: Data) -> Tensor:
    with numerics.autocast(images.device):
        logits = main_logits(teacher(numerics.arranged(images))).float()
    if logits.dim() != 2 or logits.shape[1] != data.classes:
        raise InputError(
            f"teacher: answers have shape {tuple(logits.shape)}: {logits.shape[-1]} classes, "
            f"but the data {data.name!r} have {data.classes}"
        )
    if not bool(logits.isfinite().all()):
        raise InputError(f"teacher: its answers on the training images of {data.name!r} hold NaN or infinity")
    return logits
