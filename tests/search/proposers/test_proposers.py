"""What every proposer must keep to; the registry says which there are, so a new one is covered by being a file.

Without a lesson a proposer that trains (:class:`Learner`) has nothing to learn from and works on costs and outcomes.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import optuna
import pytest

from niwaki.search.budget import Budget, Costing, Limits
from niwaki.search.outcome import Job, Outcome, Proposal
from niwaki.search.proposers._setup import Learner, ProposerSetup
from niwaki.spaces import registry
from niwaki.spaces.types import Candidate
from tests.search.fake_space import FakeLatency, FakeSpace, accuracy

PACKAGE = "niwaki.search.proposers"
NAMES = registry.names(PACKAGE)
LEVELS = (1.0, 0.7)
SPACE = FakeSpace(stages=2, blocks=3, sparse=2)
COSTING = Costing(SPACE, FakeLatency(SPACE))
LIMITS = Budget(latency="75%", size="70%").resolve(COSTING.cost(SPACE.largest()))


def setup(**changes: Any) -> ProposerSetup:
    given = {"space": SPACE, "costing": COSTING, "limits": LIMITS, "levels": LEVELS, "seed": 3, **changes}
    return ProposerSetup(**given)


def build(name: str, **changes: Any) -> Any:
    return registry.load(PACKAGE, name)(setup(**changes))


def answer(proposal: Proposal, costing: Costing = COSTING, *, failed: bool = False, rung: int = 0) -> Outcome:
    job = Job(proposal.candidate, "search", rung, 10, 0, level=proposal.level)
    cost = costing.cost(proposal.candidate)
    if failed:
        return Outcome(job, cost, status="failed", error="boom")
    return Outcome(job, cost, {"accuracy": accuracy(cast(FakeSpace, costing.space), proposal.candidate)})


def play(proposer: Any, count: int, fail_every: int = 0) -> list[tuple[Proposal, Outcome]]:
    log = []
    for i in range(count):
        proposal = proposer.ask()
        log.append((proposal, answer(proposal, failed=bool(fail_every) and i % fail_every == 0)))
        proposer.tell(log[-1][1])
    return log


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_those_of_the_issues_are_there() -> None:
    assert {"random", "nsga2", "tpe", "tas", "supernet"} <= set(NAMES)
    assert [name for name in NAMES if isinstance(build(name), Learner)] == ["supernet", "tas"]


def test_what_learns_says_what_it_spends_and_learns_nothing_from_nothing(name: str) -> None:
    proposer = build(name)
    if isinstance(proposer, Learner):
        assert proposer.lessons > 0
        assert not proposer.reusable
        proposer.learn()
        assert proposer.ask() == build(name).ask()


def test_proposals_are_members_within_their_level_canonical_and_new(name: str) -> None:
    log = play(build(name), 60, fail_every=5)
    proposals = [p for p, _ in log]
    assert [p.number for p in proposals] == list(range(60))
    assert [p.level for p in proposals] == [LEVELS[i % 2] for i in range(60)]
    assert len({p.candidate for p in proposals}) == 60
    for p in proposals:
        assert SPACE.contains(p.candidate)
        assert SPACE.canonical(p.candidate) == p.candidate
        assert all(e <= p.level - 1 + 1e-9 for e in LIMITS.excess(COSTING.cost(p.candidate)).values())


def test_most_proposals_use_their_budget(name: str) -> None:
    """Within 5 % under it, unless the canonical form saves what a skipped layer had taken."""
    fractions = [1 + max(LIMITS.excess(COSTING.cost(p.candidate)).values()) for p, _ in play(build(name), 40)]
    used = np.array(fractions) / np.tile(LEVELS, 20)
    assert (used > 0.95).mean() >= 0.9


def test_the_same_seed_asks_the_same_and_another_does_not(name: str) -> None:
    first, again, other = (
        [p.candidate for p, _ in play(build(name, seed=seed), 30)] for seed in (3, 3, 4)
    )
    assert first == again
    assert len(set(first) & set(other)) < 10


def test_built_anew_and_told_everything_it_goes_on_where_it_was(name: str) -> None:
    whole = play(build(name), 45)
    resumed = build(name)
    for _, outcome in whole[:30]:
        resumed.tell(outcome)
    rest = play(resumed, 15)
    assert [p for p, _ in rest] == [p for p, _ in whole[30:]]


def test_start_candidates_come_first_at_every_level_also_after_a_resume(name: str) -> None:
    exact = build("random", seed=9).ask().candidate  # uses level 1.0 of the budget: nothing to fit there
    start = (exact, SPACE.uniform(0.6))
    log = play(build(name, start=start), 6)
    assert log[0][0] == Proposal(exact, 0, 1.0)
    plain = [p.candidate for p, _ in play(build(name), 20)]
    for proposal, _ in log[:4]:
        row = np.array(SPACE.encode(start[proposal.number // 2]))
        moved = [int(np.abs(np.array(SPACE.encode(c)) - row).sum()) for c in (proposal.candidate, *plain)]
        assert moved[0] < np.mean(moved[1:])
    for told in range(1, 5):
        resumed = build(name, start=start)
        for _, outcome in log[:told]:
            resumed.tell(outcome)
        assert resumed.ask() == log[told][0]


def starts_at() -> dict[float, tuple[Candidate, ...]]:
    """Two for each level that use it as they are, so that nothing is fitted; one of them twice."""
    found: dict[float, tuple[Candidate, ...]] = {}
    for level in LEVELS:
        proposer = build("random", levels=(level,), seed=11)
        pair = proposer.ask().candidate, proposer.ask().candidate
        found[level] = (*pair, pair[0])
    return found


def test_what_a_level_starts_with_is_asked_there_first_and_once(name: str) -> None:
    start_at = starts_at()
    log = play(build(name, start_at=start_at), 10)
    first, second = ([p.candidate for p, _ in log if p.level == level] for level in LEVELS)
    assert tuple(first[:2]) == start_at[1.0][:2]
    assert tuple(second[:2]) == start_at[0.7][:2]
    assert len(set(first + second)) == 10


def test_failed_starts_are_not_asked_again(name: str) -> None:
    start_at = starts_at()
    log = play(build(name, start_at=start_at), 12, fail_every=1)
    assert [p.candidate for p, _ in log[:4]] == [start_at[level][i] for i in range(2) for level in LEVELS]
    assert len({p.candidate for p, _ in log}) == 12


@pytest.mark.parametrize("told", [0, 1, 3, 4, 9, 24, 37])
def test_any_history_replayed_leads_to_the_same_next_proposals(name: str, told: int) -> None:
    """Starts and failures among what was told, the last two proposals still in flight when the search stopped."""
    changes = {"start_at": starts_at(), "start": (SPACE.uniform(0.5),)}
    first, log = build(name, **changes), []
    for i in range(told):
        proposal = first.ask()
        log.append(answer(proposal, failed=i % 4 == 1))
        first.tell(log[-1])
    expected = [first.ask() for _ in range(2)]
    again = build(name, **changes)
    for outcome in log:
        again.tell(outcome)
    assert [again.ask() for _ in range(2)] == expected


def test_many_in_flight_and_told_in_any_order(name: str) -> None:
    proposer = build(name)
    asked = [proposer.ask() for _ in range(12)]
    for proposal in reversed(asked[:-2]):
        proposer.tell(answer(proposal))
    more = [proposer.ask() for _ in range(6)]
    assert len({p.candidate for p in asked + more}) == 18


def test_all_failed_is_survived(name: str) -> None:
    assert len(play(build(name), 25, fail_every=1)) == 25


def test_other_rungs_kinds_and_repeats_change_nothing(name: str) -> None:
    plain, told = build(name), build(name)
    for _ in range(24):
        a, b = plain.ask(), told.ask()
        assert a == b
        plain.tell(answer(a))
        later = answer(b, rung=1)
        told.tell(Outcome(later.job, later.cost, {"accuracy": 1 - later.accuracy}))
        told.tell(answer(b))
        told.tell(answer(b))
        told.tell(Outcome(Job(SPACE.largest(), "uniform", 0, 1, 0), COSTING.cost(SPACE.largest()), {"accuracy": 1.0}))


def test_a_space_runs_out_and_then_none(name: str) -> None:
    space = FakeSpace(stages=1, blocks=3, units=8, sparse=0, choices=3)
    costing = Costing(space)
    limits = Budget(macs="60%").resolve(costing.cost(space.largest()))
    proposer = registry.load(PACKAGE, name)(ProposerSetup(space, costing, limits, (1.0, 0.8), 0))
    found: set[Candidate] = set()
    while (proposal := proposer.ask()) is not None:
        found.add(proposal.candidate)
        proposer.tell(answer(proposal, costing))
    assert 1 <= len(found) <= 3**3 * 2
    assert proposer.ask() is None


def test_levels_of_a_loose_budget_are_of_the_largest_candidate(name: str) -> None:
    full = COSTING.cost(SPACE.largest()).macs
    log = play(build(name, limits=Limits({"macs": 10.0 * full}, {}), levels=(0.9, 0.6)), 10)
    for proposal, outcome in log:
        assert 0.9 * proposal.level * full <= outcome.cost.macs <= proposal.level * full


def test_without_a_budget_candidates_are_still_new_members(name: str) -> None:
    log = play(build(name, limits=Limits({}, {})), 20)
    assert len({p.candidate for p, _ in log if SPACE.contains(p.candidate)}) == 20


def test_optuna_is_as_loud_as_before(name: str) -> None:
    before = optuna.logging.get_verbosity()
    play(build(name), 4)
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize("levels", [(), (0.0,), (1.2,), (1.0, -0.5)])
def test_wrong_levels_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="levels"):
        setup(levels=levels)
