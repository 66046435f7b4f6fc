"""The sweep over many dimensions says of each what the algebra's own function says."""

from __future__ import annotations

import pytest
import torch

from niwaki.spaces import axes, derive
from niwaki.spaces.places import Places, Ranks
from tests.spaces.reference import draw
from tests.zoo import build
from tests.zoo_more import build_more


@pytest.mark.parametrize("name", ["residual_a", "dense", "shuffle", "grouped", "branches", "gpt_rotary", "unet"])
def test_every_dimension_of_a_graph(name: str) -> None:
    space = derive(*(build_more(name) if name in ("gpt_rotary", "unet") else build(name)))
    analysis = space.plan.analysis
    values = [dim for results in analysis.values.values() for dims in results for dim in dims]
    dims = list(dict.fromkeys(axes.resolve(d) for d in values))
    atoms = {g.name: space.plan.atoms[g.name] for g in space.groups}
    order = {g.name: torch.randperm(g.units, generator=torch.Generator().manual_seed(1)) for g in space.groups}
    ranks = Ranks(atoms, order)
    places = Places(dims, ranks)
    kinds = set()
    for seed in range(3):
        candidate, _ = draw(space, seed)
        keep = {}
        for group, atom in atoms.items():
            keep[atom] = torch.zeros(atom.size, dtype=torch.bool)
            keep[atom][order[group][: candidate.widths[group]]] = True
        counts = places.kept(ranks.alive(candidate.widths))
        for i, (dim, cut) in enumerate(zip(dims, places.cuts(counts, torch.device("cpu")), strict=True)):
            mask = axes.mask(dim, keep)
            start = places.starts[i]
            assert [int(counts[start + n] - counts[start]) for n in range(len(mask) + 1)] == [
                int(mask[:n].sum()) for n in range(len(mask) + 1)
            ]
            whole = torch.arange(len(mask))
            got = whole if cut is None else whole.narrow(0, *cut) if isinstance(cut, tuple) else cut
            assert torch.equal(got, mask.nonzero().flatten())
            assert (cut is None) == bool(mask.all())
            kinds.add(type(cut))
    assert kinds >= {type(None), torch.Tensor}


def test_nothing_to_decide() -> None:
    ranks = Ranks({}, {})
    assert ranks.alive({}).tolist() == [True]
    places = Places([], ranks)
    assert places.cuts(places.kept(ranks.alive({})), torch.device("cpu")) == []
