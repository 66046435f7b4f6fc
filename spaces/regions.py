"""Parts of a model that run without gradients or under autocast: torch.export folds each into one opaque call.

Here they become plain operations again, between the calls that switch the mode and put it back, so that rules see them
and generated source runs them.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_HIGHER = torch.ops.higher_order
_enter, _exit = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast


def inline_regions(graph: fx.Graph) -> None:
    """Unfold every such call of ``graph`` in place, nested ones included.

    Raises:
        ValueError: another operation that holds a graph of its own (``cond``, ``while_loop``...).
    """
    for node in list(graph.nodes):
        if node.target is _HIGHER.wrap_with_set_grad_enabled:
            _unfold(graph, node, switches=1)
        elif node.target is _HIGHER.wrap_with_autocast:
            _unfold(graph, node, switches=4)
    for node in list(graph.nodes):
        if node.op == "get_attr":
            if node.users:
                raise ValueError(f"{next(iter(node.users)).target} holds a graph of its own")
            graph.erase_node(node)


def _unfold(graph: fx.Graph, node: fx.Node, switches: int) -> None:
    """``node(*switches, subgraph, *operands)`` returns a tuple, read by ``getitem`` alone."""
    holder: Any = node.args[switches]
    owner: Any = graph.owning_module
    inner: fx.Graph = owner.get_submodule(holder.target).graph
    inline_regions(inner)
    with graph.inserting_before(node):
        leave = _switch(graph, node.args[:switches])
        results = _copied(graph, inner, node.args[switches + 1 :])
        leave()
    for user in list(node.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(results[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(node)


def _switch(graph: fx.Graph, switches: tuple[Any, ...]) -> Any:
    """Emit the call that enters the mode; returns what emits the one that leaves it."""
    if len(switches) == 1:
        before = graph.call_function(torch.is_grad_enabled)
        graph.call_function(torch._C._set_grad_enabled, switches)
        return lambda: graph.call_function(torch._C._set_grad_enabled, (before,))
    entered = graph.call_function(_enter, switches)
    return lambda: graph.call_function(_exit, (entered,))


def _copied(graph: fx.Graph, inner: fx.Graph, operands: tuple[Any, ...]) -> Any:
    """The nodes of ``inner`` with its placeholders replaced; returns what it gives out."""
    given = iter(operands)
    new: dict[fx.Node, Any] = {}
    for node in inner.nodes:
        if node.op == "placeholder":
            new[node] = next(given)
        elif node.op == "output":
            return fx.map_arg(node.args[0], new.__getitem__)
        else:
            new[node] = graph.node_copy(node, new.__getitem__)
    raise AssertionError("a graph without an output")
