"""Generations kept as they grow against Optuna's own sampler, which counts them anew for every trial."""

from __future__ import annotations

import random

import pytest
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import UniformCrossover

from niwaki.search.budget import Budget, Costing
from niwaki.search.outcome import Job, Outcome, Proposal
from niwaki.search.proposers._generations import Generations, GenerationSampler
from niwaki.search.proposers._setup import ProposerSetup
from niwaki.search.proposers._study import StudySearch, distributions
from niwaki.search.proposers.nsga2 import NSGA2
from tests.search.fake_space import FakeSpace, accuracy

SPACE = FakeSpace(stages=2, blocks=3, sparse=2)
COSTING = Costing(SPACE)
LIMITS = Budget(macs="70%", size="75%").resolve(COSTING.cost(SPACE.largest()))
SETUP = ProposerSetup(SPACE, COSTING, LIMITS, (1.0, 0.7), 5)
SIZE = 8


def slow() -> StudySearch:
    """The same proposer on the sampler that reads the whole study each time."""
    def make(seed: int) -> NSGAIISampler:
        return NSGAIISampler(population_size=SIZE, crossover=UniformCrossover(), crossover_prob=0.9, seed=seed)

    return StudySearch(SETUP, make, make)


def ended(proposal: Proposal, failed: bool) -> Outcome:
    job, cost = Job(proposal.candidate, "search", 0, 10, 0, level=proposal.level), COSTING.cost(proposal.candidate)
    if failed:
        return Outcome(job, cost, status="failed", error="boom")
    return Outcome(job, cost, {"accuracy": accuracy(SPACE, proposal.candidate)})


@pytest.mark.parametrize("workers", [1, 7])
def test_the_proposals_are_those_of_optuna_whatever_ends_when(workers: int) -> None:
    both, rng = (slow(), NSGA2(SETUP, population=SIZE)), random.Random(0)
    live: list[Proposal] = []
    for i in range(120):
        proposal, same = (proposer.ask() for proposer in both)
        assert proposal is not None
        assert proposal == same, f"proposal {i}"
        live.append(proposal)
        if len(live) >= workers:
            outcome = ended(live.pop(rng.randrange(len(live))), i % 9 == 4)
            for proposer in both:
                proposer.tell(outcome)


def test_what_is_kept_is_the_end_of_the_study_cut_into_generations() -> None:
    generations = Generations(SIZE)

    def make(seed: int) -> GenerationSampler:
        return GenerationSampler(generations, SIZE, distributions(SPACE), 0.9, seed)

    search = StudySearch(SETUP, make, make, generations.close)
    for _ in range(5 * SIZE):
        proposal = search.ask()
        assert proposal is not None
        search.tell(ended(proposal, failed=False))
    complete = [t.number for t in search.study.trials if t.state.name == "COMPLETE"]
    assert len(complete) == 5 * SIZE
    kept = {g: [t.number for t in members] for g, members in generations.members.items()}
    assert kept == {3: complete[3 * SIZE : 4 * SIZE], 4: complete[4 * SIZE :]}, "no more than the next one needs"
    assert {g: len(parents) for g, parents in generations.parents.items()} == {3: SIZE, 4: SIZE}
    assert not generations._of, "open trials are forgotten when they end"
