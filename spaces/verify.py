"""The guard behind every rule: run a carved graph without data and compare each node's shape with the algebra's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from niwaki.spaces.axes import Dim, dim_size
from niwaki.spaces.passes import Analysis
from niwaki.spaces.trace import source_line


class RuleError(RuntimeError):
    """A rule described an operation wrongly: a bug of Niwaki, found before it could give a wrong model."""


def verify_shapes(
    module: nn.Module,
    graph: fx.Graph,
    analysis: Analysis,
    mask: Callable[[Dim], Tensor | None],
    example: tuple[Tensor, ...],
) -> int:
    """Run ``graph`` over the parameters of ``module`` on meta tensors; returns how many tensors were compared.

    Raises:
        RuleError: names the operation, the line of the user's code behind it, and both shapes.
    """
    checker = _Checker(module, graph, analysis, mask)
    with torch.no_grad():
        checker.run(*[e.to("meta") for e in example])
    return checker.compared


class _Checker(fx.Interpreter):
    def __init__(
        self, module: nn.Module, graph: fx.Graph, analysis: Analysis, mask: Callable[[Dim], Tensor | None]
    ) -> None:
        super().__init__(fx.GraphModule(module.to("meta"), graph))
        self.analysis, self.mask, self.compared = analysis, mask, 0

    def run_node(self, n: fx.Node) -> Any:
        origin: fx.Node | None = n.meta.get("origin")
        try:
            result = super().run_node(n)
        except Exception as error:
            raise RuleError(_text(origin or n, f"does not run once carved: {error}")) from error
        if origin is not None and origin in self.analysis.values:
            results = result if isinstance(result, (list, tuple)) else [result]
            for value, dims in zip(results, self.analysis.values[origin], strict=False):
                self.compare(origin, value, dims)
        return result

    def compare(self, origin: fx.Node, value: Any, dims: list[Dim]) -> None:
        masks = [self.mask(d) for d in dims]
        expected = [dim_size(d) if m is None else int(m.sum()) for d, m in zip(dims, masks, strict=True)]
        if isinstance(value, Tensor) and list(value.shape) != expected:
            raise RuleError(_text(origin, f"gives {list(value.shape)} once carved, its rule says {expected}"))
        self.compared += 1


def _text(node: fx.Node, what: str) -> str:
    where = source_line(node)
    return (
        f"{node.target}{f' ({where})' if where else ''} {what}; please report it, and keep the layers around it whole"
    )
