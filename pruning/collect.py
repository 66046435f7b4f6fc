"""What criteria know about a teacher: its weights and, from one pass over labelled batches, its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from niwaki.pruning.first_order import Batches, first_order
from niwaki.pruning.hooks import Watch, evaluating
from niwaki.pruning.needs import Grouped, Needs, Stats
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.types import Group, Tap


def collect(model: nn.Module, space: Grouped, needs: Needs, batches: Batches = ()) -> Stats:
    """Gather what ``needs`` asks for; the model is in eval mode meanwhile and untouched afterwards.

    Modes of all modules, gradients, buffers and hooks are as before, after an exception too.

    Args:
        model: the teacher: a classifier that maps ``(B, ...)`` to logits ``(B, classes, ...)``.
        space: whose groups are looked at; module and tensor names must be the model's.
        needs: of a criterion.
        batches: pairs x ``(B, ...)``, y ``(B, ...)`` int64 classes, of training data; not iterated over unless
            gradients are needed. The loss is cross-entropy. The result does not depend on how examples are batched.

    Raises:
        InputError: a tensor is missing or not finite, no examples, labels outside the classes, a loss not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> stats = collect(nn.Linear(3, 2), SimpleNamespace(groups=()), Needs())
        >>> sorted(stats.tensors)
        ['bias', 'weight']
    """
    tensors = _tensors(model, space.groups)
    if not needs.gradients:
        return Stats(tensors)
    groups = tuple(_with_carriers(model, group) for group in space.groups)
    with evaluating(model), Watch(model, groups) as watch, torch.enable_grad():
        taylor, examples = first_order(model, groups, watch, batches)
    return Stats(tensors, taylor, examples)


def _tensors(model: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """The floating-point state, float32 on the CPU; what the groups use of it must be there and finite."""
    state = model.state_dict()
    tensors = {k: t.detach().to("cpu", torch.float32) for k, t in state.items() if t.is_floating_point()}
    for group in groups:
        for key in dict.fromkeys(piece.tensor for piece in group.slices):
            if key not in state:
                raise InputError(f"space: group {group.name}: the model has no tensor {key!r}; {nearest(key, state)}")
            if key in tensors and not bool(tensors[key].isfinite().all()):
                raise InputError(f"teacher: {key} holds NaN or infinite values")
    return tensors


def _with_carriers(model: nn.Module, group: Group) -> Group:
    """The group with taps on the BatchNorms and depthwise convolutions its units run through, where it had none.

    Producers alone are not enough to see what consumers read: between the two may stand a BatchNorm of the reader
    (DenseNet, pre-activation), which shifts the units, or a depthwise convolution.
    """
    tapped = {tap.module for tap in group.taps}
    carriers: list[Tap] = []
    for piece in group.slices:
        name, _, leaf = piece.tensor.rpartition(".")
        if piece.side == "carries" and piece.dim == 0 and leaf == "weight" and name not in tapped:
            module = model.get_submodule(name)
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                carriers.append(Tap(name, 1, piece.index))
    return replace(group, taps=(*group.taps, *carriers)) if group.taps else group
