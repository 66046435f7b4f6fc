"""What happens to a graph when blocks go: additions become their shortcuts, and nobody may notice by shared memory.

``relu_(x + f(x))`` wrote into a new tensor; ``relu_(x)`` would write into ``x``, which others read and which autograd
may have saved. So either the operation is not done in place, or the shortcut is copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from niwaki.spaces.blocks import Cone
from niwaki.spaces.flow import base_name, touched


class Removal:
    """Blocks left out of one graph.

    Attributes:
        dead: operations that are gone.
        replaced: addition -> the end of its shortcut, which stands in for it.
        fresh: operation in place -> the same not in place, where it alone reads such an addition.
        copied: additions that must be copies of their shortcuts, since one of the two is written to later.
    """

    def __init__(self, cones: Iterable[Cone]) -> None:
        cones = list(cones)
        self.dead: frozenset[fx.Node] = frozenset().union(*(c.nodes for c in cones))
        self.replaced = {c.add: c.skip for c in cones if c.add not in self.dead}
        self.fresh: dict[fx.Node, Any] = {}
        for add in self.replaced:
            users = [u for u in add.users if u not in self.dead]
            if len(users) == 1 and touched(users[0], True) == [add] and (twin := _not_in_place(users[0])):
                self.fresh[users[0]] = twin
        self.copied = {add for add in self.replaced if self._written(add)}

    def _written(self, add: fx.Node) -> bool:
        """Whether anything writes to the memory of the shortcut once the addition is that memory too."""
        skip = self.replaced[add]
        views = {self._memory(skip), skip, add}
        todo = list(views)
        while todo:
            node = todo.pop()
            for user in node.users:
                if user in self.dead or user in self.replaced or user in self.fresh or user in views:
                    continue
                if node in touched(user, True) and add < user:
                    return True
                if node in touched(user, True) + touched(user, False):
                    views.add(user)
                    todo.append(user)
        return False

    def _memory(self, node: fx.Node) -> fx.Node:
        """The node that made the memory ``node`` lives in, once the blocks are gone."""
        while True:
            sources = touched(node, True) + touched(node, False) if node not in self.fresh else []
            if node in self.replaced:
                node = self.replaced[node]
            elif sources:
                node = sources[0]
            else:
                return node


def _not_in_place(node: fx.Node) -> Any:
    """``aten.relu.default`` for ``aten.relu_.default``; None where there is no such operation."""
    packet = getattr(torch.ops.aten, base_name(node).removesuffix("_"), None)
    return getattr(packet, str(node.target).rsplit(".", 1)[1], None)
