"""The reference behind every cut: the whole model, with the removed units zero wherever they appear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from niwaki.spaces import axes
from niwaki.spaces.axes import Atom, Dim
from niwaki.spaces.carve import checked
from niwaki.spaces.cut import Cut
from niwaki.spaces.passes import Analysis
from niwaki.spaces.source import carved_graph
from niwaki.spaces.space import Space
from niwaki.spaces.trace import Mode
from niwaki.spaces.types import Candidate, Kept


def mask(model: nn.Module, space: Space, candidate: Candidate, kept: Kept | None = None) -> nn.Module:
    """The full-size model with the removed units zeroed: what a carved model must equal, for proofs and debugging.

    The traced graph runs operation by operation, and after each one the places of removed units are set to zero.
    Where an operation reads statistics over the units (LayerNorm, a mean over channels), a zero is not the same as
    an absent unit (``Group.exact`` is False): such operations are computed over the kept units alone.

    Args:
        model: the model ``space`` was derived from. Its parameters are shared, not copied; buffers are copied.
        candidate, kept: as for :func:`niwaki.spaces.carve`.

    Returns:
        A module with the model's inputs and outputs (of its traced parts, where torch.export refused the whole);
        ``train()`` and ``eval()`` choose the traced graph.

    Raises:
        InputError: names or sizes that do not belong to the space.

    Example:
        >>> from niwaki.spaces import carve, derive
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> x = torch.randn(2, 3, 8, 8)
        >>> space = derive(net, x)
        >>> half = space.uniform(0.5)
        >>> torch.allclose(mask(net, space, half)(x), carve(net, space, half)(x), atol=1e-6)
        True
    """
    return Masked(model, space, candidate, checked(space, candidate, kept)).train(model.training)


class Masked(nn.Module):
    """See :func:`mask`."""

    def __init__(self, model: nn.Module, space: Space, candidate: Candidate, kept: Kept) -> None:
        super().__init__()
        self.space = space
        self.cut = Cut(model, space, candidate, kept)
        subject = self.cut.model
        self.state: dict[str, Tensor] = {
            **dict(subject.named_parameters(remove_duplicate=False)),
            **{k: v.clone() for k, v in subject.named_buffers(remove_duplicate=False)},
        }
        self.pairs = {mode: self._graphs(mode) for mode in space.plan.programs}

    def _graphs(self, mode: Mode) -> tuple[fx.Graph, fx.Graph]:
        """The same nodes at full size and at the candidate's."""
        plan, skipped = self.space.plan, self.cut.candidate.skipped
        program = plan.programs[mode]
        return carved_graph(program, plan, skipped, lambda _: None), carved_graph(program, plan, skipped, self.cut.mask)

    def forward(self, *args: Any) -> Any:
        mode: Mode = "train" if self.training else "eval"
        program = self.space.plan.programs[mode]
        run = MaskedRun({**program.constants, **self.state}, self.space.plan.analysis, self.cut.keep, args)
        flat = run.through(*self.pairs[mode])
        return pytree.tree_unflatten(list(flat), program.out_spec)


class MaskedRun:
    """One forward pass over graphs as :func:`niwaki.spaces.source.carved_graph` makes them.

    ``state``: key -> tensor. ``keep``: atom -> (units,) bool, which units stay; atoms that are absent stay whole.
    """

    def __init__(
        self, state: Mapping[str, Tensor], analysis: Analysis, keep: Mapping[Atom, Tensor], args: tuple[Any, ...]
    ) -> None:
        self.state, self.analysis, self.keep = state, analysis, keep
        tensors = pytree.tree_leaves(args)
        self.batch = int(tensors[0].shape[0])
        self.inputs = iter(tensors)
        self.env: dict[fx.Node, Any] = {}

    def through(self, full: fx.Graph, small: fx.Graph) -> Any:
        """The flat outputs. ``full``, ``small``: the same nodes, literals at full size and at that of what is kept."""
        twin: dict[fx.Node, fx.Node] = {}
        for big, little in zip(full.nodes, small.nodes, strict=True):
            twin[little] = big
            if big.op == "placeholder":
                self.env[big] = next(self.inputs)
            elif big.op == "get_attr":
                self.env[big] = self.fetched(big, self.state[str(big.target)])
            elif big.op == "output":
                return fx.map_arg(big.args[0], self.env.__getitem__)
            elif big.meta.get("origin") in self.analysis.over_kept:
                values = fx.map_arg((little.args, little.kwargs), lambda n: self.gathered(twin[n]))
                self.env[big] = self.spread(big, little.target(*values[0], **values[1]))
            else:
                values = fx.map_arg((big.args, big.kwargs), self.env.__getitem__)
                self.env[big] = self.zeroed(big, self.call(big, values[0], values[1]))
        raise AssertionError("a graph without an output")

    def fetched(self, _node: fx.Node, value: Tensor) -> Tensor:
        """A parameter or buffer as operations see it."""
        return value

    def call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """One operation, on the values of its arguments."""
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def dims(self, node: fx.Node) -> list[list[Dim]]:
        return self.analysis.values.get(node.meta.get("origin"), [])  # type: ignore[arg-type]

    def places(self, dims: list[Dim]) -> list[tuple[int, Tensor]]:
        """(dimension, which positions stay) where something goes, for the batch of this pass."""
        found = []
        for i, dim in enumerate(dims):
            atoms = list(axes.leaves(dim))
            if any(a in self.keep for a in atoms):
                batch = {a: torch.ones(self.batch, dtype=torch.bool) for a in atoms if a.batch}
                found.append((i, axes.mask(dim, {**self.keep, **batch})))
        return found

    def zeroed(self, node: fx.Node, result: Any) -> Any:
        """The result with zeros at removed units: in place where the operation works in place.

        A view stays one, as later operations may write through it: what it shows is zero already.
        """
        how = _aliasing(node)
        if how == "views":
            return result
        parts = list(result) if isinstance(result, (list, tuple)) else [result]
        for k, (value, dims) in enumerate(zip(parts, self.dims(node), strict=False)):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            for i, stays in self.places(dims):
                gone = ~stays.to(value.device).view(-1, *[1] * (value.dim() - 1 - i))
                parts[k] = parts[k].masked_fill_(gone, 0) if how == "writes" else parts[k].masked_fill(gone, 0)
        return type(result)(parts) if isinstance(result, (list, tuple)) else parts[0]

    def gathered(self, node: fx.Node) -> Any:
        value = self.env[node]
        dims = self.dims(node)
        if isinstance(value, Tensor) and dims:
            for i, stays in self.places(dims[0]):
                value = value.index_select(i, stays.nonzero().flatten().to(value.device))
        return value

    def spread(self, node: fx.Node, result: Any) -> Any:
        """Inverse of :meth:`gathered`: kept units at their full-size places, zeros elsewhere."""
        parts = list(result) if isinstance(result, (list, tuple)) else [result]
        for k, dims in enumerate(self.dims(node)):
            for i, stays in self.places(dims):
                shape = [len(stays) if d == i else n for d, n in enumerate(parts[k].shape)]
                index = stays.nonzero().flatten().to(parts[k].device)
                parts[k] = parts[k].new_zeros(shape).index_copy(i, index, parts[k])
        return type(result)(parts) if isinstance(result, (list, tuple)) else parts[0]


def _aliasing(node: fx.Node) -> Literal["writes", "views", ""]:
    """Whether the result is an argument that was written to, or a view of one."""
    schema = getattr(node.target, "_schema", None)
    info = schema.returns[0].alias_info if schema is not None and schema.returns else None
    return "" if info is None else "writes" if info.is_write else "views"
