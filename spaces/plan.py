"""What carving and costing need beside the choices of a space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from niwaki.spaces.axes import Atom
from niwaki.spaces.blocks import Cone
from niwaki.spaces.parts import Part, Parts
from niwaki.spaces.passes import Analysis
from niwaki.spaces.trace import Mode, Program, batch_of_two


@dataclass(eq=False)
class Plan:
    """What carving needs beside the choices: graphs, dimensions, blocks' nodes; not part of the public interface.

    ``pinned``: the atoms of what is fixed, by name. ``parts``: the submodules that were traced, where torch.export
    refuses the whole model; ``example`` is then what they were given.
    """

    programs: dict[Mode, Program]
    analysis: Analysis
    cones: dict[Mode, dict[str, Cone]]
    atoms: dict[str, Atom]
    kinds: dict[str, tuple[bool, int]]
    example: tuple[Tensor, ...]
    pinned: dict[str, Atom] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict)

    def subject(self, model: nn.Module) -> nn.Module:
        """What was traced of a model: itself, or its parts."""
        return Parts(model, self.parts) if self.parts else model

    @property
    def example_pair(self) -> tuple[Tensor, ...]:
        """The example with the batch that was traced."""
        return tuple(batch_of_two(e) for e in self.example)

    def block_sets(self) -> dict[fx.Node, frozenset[str]]:
        """Node -> the removable blocks it lies in (both graphs)."""
        found: dict[fx.Node, set[str]] = {}
        for cones in self.cones.values():
            for cone in cones.values():
                for node in cone.nodes:
                    found.setdefault(node, set()).add(cone.name)
        return {n: frozenset(b) for n, b in found.items()}

    def users(self) -> dict[str, tuple[frozenset[str], ...]]:
        """Tensor -> for every operation that reads it (under any of its names), the blocks that operation lies in."""
        blocks = self.block_sets()
        found: dict[str, set[frozenset[str]]] = {}
        ties = {k: v for program in self.programs.values() for k, v in program.ties.items()}
        for program in self.programs.values():
            for node in program.graph.nodes:
                if (name := program.keys.get(node.name)) is not None:
                    mine = found.setdefault(ties.get(name, name), set())
                    mine.update(blocks.get(user, frozenset()) for user in node.users)
        return {key: tuple(found.get(ties.get(key, key), ())) for key in self.kinds}
