"""What is left of a run: promotions as the search makes them, and times that can be worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.search.config import parse_config
from niwaki.search.forecast import Forecast, Seen, Tally, _promoted, forecast, tallies
from niwaki.search.outcome import Job, Outcome
from niwaki.search.progress import Progress, Running
from niwaki.search.promotion import Ladder, promote
from niwaki.spaces import Candidate, Cost


def config(**search):
    search = {"trials": 8, "levels": [1.0, 0.5], "keep": 0.5, "members": 2, "baselines": ["uniform"]} | search
    return parse_config({
        "budget": {"macs": "50%"}, "search": search, "train": {"rungs": [100, 300], "final_images": 1000},
        "run": {"workers": 2},
    }, "test")  # fmt: skip


def trial(number, kind="search", rung=0, images=100, seconds=10.0, failed=False):
    job = Job(Candidate({"conv": number}), kind, rung, images, 0, level=1.0 if number % 2 else 0.5)
    if failed:
        return Outcome(job, Cost(1, 2, 3), status="failed", error="boom")
    return Outcome(job, Cost(1, 2, 3), {"accuracy": 0.5 + number / 100}, images=images, seconds=seconds)


def seen(outcomes=(), running=None, progress=None, given=None, now=1000.0, finished=False):
    return Seen(given or config(), list(outcomes), running or {}, progress, now, finished)


def rows(found):
    return {t.name: (t.planned, t.done, t.running, t.failed, t.open) for t in found}


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 60), st.lists(st.sampled_from([1.0, 0.8, 0.6, 0.5, 0.25]), min_size=1, max_size=5, unique=True),
    st.sampled_from([0.1, 0.25, 0.34, 0.5, 0.9, 1.0]),
)
def test_as_many_are_expected_to_be_promoted_as_the_search_promotes(count, levels, keep):
    outcomes = [
        Outcome(Job(Candidate({"c": i + 1}), "search", 0, 9, 0, level=levels[i % len(levels)]), Cost(1, 2, 3),
                {"accuracy": 0.5})
        for i in range(count)
    ]  # fmt: skip
    jobs = promote(outcomes, 0, Ladder((9, 9), 1 / keep, ()))
    assert _promoted(count, config(levels=levels, keep=keep)) == len(jobs)


def test_a_run_that_has_not_begun_is_as_its_configuration_says():
    found = tallies(seen())
    assert rows(found) == {
        "search, rung 1": (8, 0, 0, 0, 8), "search, rung 2": (4, 0, 0, 0, 4), "final": (2, 0, 0, 0, 2),
        "uniform": (2, 0, 0, 0, 2),
    }
    assert [t.images for t in found] == [100, 200, 700, 1000]
    assert forecast(seen(), found) is None


@pytest.mark.parametrize(("finish", "planned", "images"), [
    ("continue", 6, 700), ("fresh", 6, 1000), ("inherit", 2, 0),
])  # fmt: skip
def test_finals_are_as_the_configuration_finishes_them(finish, planned, images):
    found = tallies(seen(given=config(finish=finish, repeats=3, baselines=[])))
    assert found[-1] == Tally("final", images, planned, 0, 0, 0)


def test_the_first_rung_that_ended_early_is_over_when_the_second_runs():
    outcomes = [trial(n) for n in range(1, 7)]
    key = trial(1, rung=1).key
    running = {key: Running(50, 200, 990.0)}
    at = Progress(0.0, 1000.0, 1000.0, "search", "search, rung 2", 0, 2, 985.0, running, at_once=1)
    found = rows(tallies(seen(outcomes, running, at)))
    assert found["search, rung 1"] == (6, 6, 0, 0, 0)
    assert found["search, rung 2"] == (2, 0, 1, 0, 1)


def test_what_the_run_announced_counts_more_than_what_was_expected():
    running = {trial(9).key: Running(0, 100, 990.0)}
    at = Progress(0.0, 1000.0, 1000.0, "search", "search, rung 1", 0, 11, 985.0, running, at_once=1)
    found = rows(tallies(seen([trial(1), trial(2, failed=True)], running, at)))
    assert found["search, rung 1"] == (11, 1, 1, 1, 8)
    assert found["search, rung 2"][0] == _promoted(10, config())


def test_a_finished_run_has_nothing_open():
    outcomes = [trial(n) for n in range(1, 7)] + [trial(1, rung=1, images=200), trial(1, "final", images=700)]
    found = tallies(seen(outcomes, finished=True))
    assert rows(found) == {
        "search, rung 1": (6, 6, 0, 0, 0), "search, rung 2": (1, 1, 0, 0, 0), "final": (1, 1, 0, 0, 0),
    }


def test_learning_is_a_kind_of_its_own():
    running = {"learn-0-abc-0": Running(100, 400, 900.0)}
    found = tallies(seen([], running))
    assert found[0] == Tally("learn", 400, 1, 0, 1, 0)
    assert forecast(seen([], running), found) is None  # it trains in another way than trials do


def test_time_left_in_proportion_to_images():
    """8 trials of 10 s at the first rung, none further: 4 x 20, 2 x 70, 2 x 100 s to come, two at a time."""
    outcomes = [trial(n) for n in range(1, 9)]
    given = seen(outcomes)
    assert forecast(given, tallies(given)) == Forecast((4 * 20 + 2 * 70 + 2 * 100) / 2, 8, 8, 2)


def test_time_left_by_what_trials_of_the_kind_took():
    outcomes = [trial(n) for n in range(1, 9)] + [trial(1, rung=1, images=200, seconds=30.0)]
    given = seen(outcomes)
    left = forecast(given, tallies(given))
    assert left.seconds == pytest.approx((3 * 30 + 2 * 30 / 200 * 700 + 2 * 30 / 200 * 1000) / 2)


def test_failed_trials_say_nothing_of_time_and_are_not_done_again():
    outcomes = [trial(n) for n in range(1, 8)] + [trial(8, failed=True)]
    given = seen(outcomes)
    found = tallies(given)
    assert rows(found)["search, rung 1"] == (8, 7, 0, 1, 0)
    assert rows(found)["search, rung 2"][0] == 1 + 2  # of seven that may be promoted
    assert forecast(given, found).ended == 7


def test_time_left_by_the_progress_of_running_trials_alone():
    """Half of the images after 20 s: 40 s each; the other trials wait for a free worker."""
    running = {trial(1).key: Running(50, 100, 980.0)}
    at = Progress(0.0, 1000.0, 1000.0, "search", "search, rung 1", 0, 8, 980.0, running, at_once=1)
    given = seen([], running, at)
    left = forecast(given, tallies(given))
    assert left.ended == 0
    assert left.open == 8 + 4 + 2 + 2
    assert left.seconds == pytest.approx(40 * 7.5 + 4 * 80 + 2 * 280 + 2 * 400)


def test_workers_that_outnumber_the_trials_do_not_make_a_trial_shorter():
    outcomes = [trial(n) for n in range(1, 9)]
    at = Progress(0.0, 1000.0, 1000.0, "search", "search, rung 1", 0, 8, 980.0, {}, at_once=100)
    given = seen(outcomes, {}, at)
    assert forecast(given, tallies(given)).seconds == pytest.approx(20 + 70 + 100)


def test_a_run_with_nothing_left_needs_no_time():
    given = seen([trial(1), trial(1, "final", images=700)], finished=True)
    left = forecast(given, tallies(given))
    assert (left.seconds, left.open) == (0.0, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1), st.booleans()), unique_by=lambda t: t[:2]))
def test_tallies_count_every_trial_once(drawn):
    outcomes = [trial(n, rung=rung, failed=failed) for n, rung, failed in drawn]
    found = tallies(seen(outcomes))
    assert sum(t.done + t.failed for t in found) == len(outcomes)
    assert all(t.planned == t.done + t.failed + t.running + t.open for t in found)
