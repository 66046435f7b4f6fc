"""A search over a space with tied groups: every proposer and the repair keep to the ties and the budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwaki.search.budget import closest
from niwaki.search.costing import Costing, Limits
from niwaki.search.latency import calibration_candidates
from niwaki.search.outcome import Job, Outcome
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers.nsga2 import NSGA2
from niwaki.search.proposers.random import Random
from niwaki.search.proposers.tpe import TPE
from niwaki.search.repair import fit_to
from niwaki.spaces import Candidate, derive
from tests.zoo import build

SPACE = derive(*build("residual_b"), tie=["layer1.*.conv1", "layer2.*.conv1"])
COSTING = Costing(SPACE)
FULL = SPACE.cost(SPACE.largest())
LIMITS = Limits({"macs": 0.5 * FULL.macs}, {})
SIZES = [len(v.choices) for v in SPACE.variables]


def tied(candidate: Candidate) -> bool:
    return all(len({candidate.widths[n] for n in names}) == 1 for names in SPACE.ties)


def test_the_space_has_ties() -> None:
    assert len(SPACE.ties) == 2
    assert len(SPACE.members) < len(SPACE.groups)


@given(st.tuples(*(st.integers(0, n - 1) for n in SIZES)), st.integers(0, 9))
def test_repaired_rows_decode_to_tied_candidates_within_the_budget(row: tuple[int, ...], seed: int) -> None:
    fitted = fit_to(np.array(row), COSTING, LIMITS, 1.0, np.random.default_rng(seed))
    assert fitted is not None
    candidate = SPACE.canonical(SPACE.decode(fitted.tolist()))
    assert tied(candidate)
    assert SPACE.cost(candidate).macs <= LIMITS.values["macs"]


@pytest.mark.parametrize("kind", [Random, NSGA2, TPE])
def test_proposals_are_tied_and_different(kind: type) -> None:
    proposer = kind(ProposerSetup(SPACE, COSTING, LIMITS, start=(SPACE.uniform(0.5), SPACE.uniform(0.5, 1.0))))
    asked: set[str] = set()
    for _ in range(12):
        proposal = proposer.ask()
        assert proposal is not None
        assert tied(proposal.candidate)
        assert SPACE.contains(proposal.candidate)
        assert SPACE.cost(proposal.candidate).macs <= LIMITS.values["macs"]
        asked.add(proposal.candidate.key)
        job = Job(proposal.candidate, "search", 0, 10, 0, level=proposal.level)
        proposer.tell(Outcome(job, SPACE.cost(proposal.candidate), {"accuracy": 0.5}))
    assert len(asked) == 12


def test_calibration_and_descent_stay_in_the_space() -> None:
    found = calibration_candidates(SPACE, 12, 0)
    assert len(found) == 12
    assert all(tied(c) for c in found)
    matrix = np.array([SPACE.encode(c) for c in found], dtype=np.int64)
    rows = SPACE.layers(matrix)
    for a, b in zip(rows, SPACE.layers(found), strict=True):
        assert a.macs.tolist() == b.macs.tolist()
        assert a.outputs.tolist() == b.outputs.tolist()
    best, fraction = closest(LIMITS, COSTING)
    assert fraction <= 1
    assert tied(SPACE.decode(best.tolist()))
