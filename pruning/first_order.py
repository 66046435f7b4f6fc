"""First-order change of the loss when a unit is removed, per example.

Which taps of a group count is decided here. A unit is visible in several module outputs (convolution, then BatchNorm;
every branch that is added to a residual stream; the depthwise convolution it runs through), and removing it zeroes
what its consumers read. So the first batch is followed backwards through the autograd graph, from the inputs of every
consumer of the group to the nearest taps:

- convolution -> BatchNorm -> ReLU -> consumer: the BatchNorm alone (zeroing the convolution would leave its shift);
- a residual stream: all the branches that are added up to what is read, each after its BatchNorm;
- expand -> BatchNorm -> ReLU -> depthwise -> BatchNorm -> project: the last BatchNorm;
- pre-activation: the BatchNorms that read the stream, not what was added to it.

Counting further taps upstream would count the same change again. Where no consumer is a module that ran, the walk
starts at the loss. A stream that some consumers read through a BatchNorm of its own and others read directly has both
kinds of tap in its cut, and what runs through the former is counted twice: an approximation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F

from niwaki.pruning.hooks import Watch, consumers
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Group, Tap

Batches = Iterable[tuple[Tensor, Tensor]]


def first_order(
    model: nn.Module, groups: Sequence[Group], watch: Watch, batches: Batches
) -> tuple[dict[str, Tensor], int]:
    """Group -> (units,) float64 mean over examples of |change|, and the number of examples."""
    totals: dict[str, Tensor] = {}
    cuts: dict[str, dict[str, list[int]]] = {}
    examples = 0
    for x, y in batches:
        if len(x) == 0:
            continue
        watch.clear()
        loss = _loss(model, x, y, examples)
        cuts = cuts or {group.name: _cut(group, watch, loss) for group in groups}
        slopes = _slopes(loss, watch, cuts)
        for group in groups:
            change = _change(group, slopes, cuts[group.name], len(x))
            if change is not None:
                totals[group.name] = totals.get(group.name, 0) + change.abs().sum(0)
        examples += len(x)
    if not examples:
        raise InputError("scoring: no examples: a criterion that needs gradients needs at least one labelled batch")
    return {name: total / examples for name, total in totals.items()}, examples


def _loss(model: nn.Module, x: Tensor, y: Tensor, seen: int) -> Tensor:
    """Sum over the batch, so that the gradient at an example is that of its own loss whatever the batch size."""
    weight = next(model.parameters())
    x = x.to(weight.device, weight.dtype) if x.is_floating_point() else x.to(weight.device)
    logits = model(x)
    where = f"scoring: examples {seen} to {seen + len(x) - 1}"
    if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{where}: expected logits ({len(x)}, classes), the model returned {got}")
    if len(y) != len(x) or int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise InputError(f"{where}: expected {len(x)} labels from 0 to {logits.shape[1] - 1}, "
                         f"got {len(y)} from {int(y.min())} to {int(y.max())}")
    losses = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y.to(logits.device),
                             reduction="none")
    loss = losses.reshape(len(x), -1).mean(1).sum()
    if not bool(loss.isfinite()):
        raise InputError(f"{where}: the teacher's loss is {loss.item()}: check the data and its normalisation")
    return loss


def _cut(group: Group, watch: Watch, loss: Tensor) -> dict[str, list[int]]:
    """The taps nearest to the consumers: module -> which of its calls. See the head of this file."""
    taps = {out.node: (name, call) for name in dict.fromkeys(t.module for t in group.taps)
            for call, out in enumerate(watch.outputs.get(name, []))}
    starts = [node for layer in consumers(group) for node in watch.inputs.get(layer, [])]
    assert loss.grad_fn is not None
    reached = _nearest(starts, taps) or _nearest([loss.grad_fn], taps)
    cut: dict[str, list[int]] = {}
    for name, call in sorted(reached):
        cut.setdefault(name, []).append(call)
    return cut


def _nearest(starts: Sequence[Node], taps: Mapping[Node, tuple[str, int]]) -> set[tuple[str, int]]:
    found, seen, stack = set(), set(starts), list(starts)
    while stack:
        node = stack.pop()
        if node in taps:
            found.add(taps[node])
            continue
        following = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= following
        stack.extend(following)
    return found


def _slopes(loss: Tensor, watch: Watch, cuts: Mapping[str, Mapping[str, list[int]]]) -> dict[tuple[str, int], Tensor]:
    """(module, call) -> ``z * dLoss/dz`` of every tapped output in use, shaped as z."""
    used = sorted({(name, call) for cut in cuts.values() for name, calls in cut.items() for call in calls})
    values = [watch.outputs[name][call].value for name, call in used]
    if not values:
        return {}
    wide = torch.promote_types(values[0].dtype, torch.float32)
    grads = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
    return {key: z.detach().to(wide) * g.to(wide) for key, z, g in zip(used, values, grads, strict=True)}


def _change(
    group: Group, slopes: Mapping[tuple[str, int], Tensor], cut: Mapping[str, list[int]], examples: int
) -> Tensor | None:
    """(examples, units) float64: signed sum over taps and positions; None where no tap of the group is in the cut."""
    calls = [(tap, call) for tap in group.taps for call in cut.get(tap.module, [])]
    parts = [_per_unit(slopes[tap.module, call], tap, examples) for tap, call in calls]
    return torch.stack(parts).sum(0) if parts else None


def _per_unit(slope: Tensor, tap: Tap, examples: int) -> Tensor:
    """Sum over positions. Windowed attention folds windows into the batch, examples first: they are positions here."""
    if len(slope) % examples:
        raise InputError(f"scoring: {tap.module}: expected the batch of {examples} first, got {tuple(slope.shape)}")
    along = slope.movedim(tap.dim, -1)
    sums = along.reshape(examples, -1, along.shape[-1]).sum(1).cpu().double()
    return sums[:, tap.index].sum(2)
