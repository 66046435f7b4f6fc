"""The samplers learn: on a truth in which layers matter to differently, they beat random search."""

from __future__ import annotations

import numpy as np
import pytest

from niwaki.search.budget import Budget, Costing
from niwaki.search.outcome import Job, Outcome
from niwaki.search.pareto import hypervolume
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.spaces import registry
from tests.search.fake_space import FakeLatency, FakeSpace, accuracy

SPACE = FakeSpace(stages=3, blocks=5, sparse=3)
COSTING = Costing(SPACE, FakeLatency(SPACE))
LIMITS = Budget(latency="70%", size="60%").resolve(COSTING.cost(SPACE.largest()))
TRIALS, SEEDS = 120, 5


def points(name: str, seed: int) -> np.ndarray:
    """``(trials, 3)``: error and shares of both budgets, in the order asked."""
    proposer = registry.load("niwaki.search.proposers", name)(ProposerSetup(SPACE, COSTING, LIMITS, (1.0, 0.8), seed))
    rows = []
    for _ in range(TRIALS):
        proposal = proposer.ask()
        cost = COSTING.cost(proposal.candidate)
        truth = accuracy(SPACE, proposal.candidate)
        proposer.tell(Outcome(Job(proposal.candidate, "search", 0, 10, 0), cost, {"accuracy": truth}))
        rows.append([1 - truth, *(1 + e for e in LIMITS.excess(cost).values())])
    return np.array(rows)


@pytest.fixture(scope="module")
def random_runs() -> list[np.ndarray]:
    return [points("random", seed) for seed in range(SEEDS)]


@pytest.mark.parametrize("name", ["nsga2", "tpe"])
def test_beats_random_search_and_its_own_beginning(name: str, random_runs: list[np.ndarray]) -> None:
    runs = [points(name, seed) for seed in range(SEEDS)]
    volume, chance = (np.mean([hypervolume(r, [1, 1.01, 1.01]) for r in group]) for group in (runs, random_runs))
    print(f"{name}: hypervolume {volume:.4f}, random {chance:.4f}")
    assert volume > chance
    late, first = np.mean([r[-40:, 0] for r in runs]), np.mean([r[:16, 0] for r in runs])
    print(f"{name}: mean error {first:.4f} at first, {late:.4f} at last")
    assert late < first - 0.02
    assert late < np.mean([r[-40:, 0] for r in random_runs]) - 0.02
