import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from niwaki.distill import accuracy
from niwaki.search.context import Context, InHand, RunFolder, open_context
from niwaki.search.equip import equip
from niwaki.search.events import ignore
from niwaki.search.examine import examine
from niwaki.search.files import read_tensors
from niwaki.search.models import Models
from niwaki.search.outcome import Job, Outcome
from niwaki.search.store import RunStore
from niwaki.search.trial import run_trial
from niwaki.spaces import Candidate, count
from tests.search.tiny import tiny


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A prepared run folder, as a worker reads it."""
    from niwaki.search.config import to_yaml

    folder = RunFolder(tmp_path_factory.mktemp("trial") / "run")
    config = tiny(folder.path)
    subject = examine(config, folder, InHand(), ignore)
    RunStore.create(folder.path, to_yaml(config))
    equip(subject, folder, ignore)
    return open_context(folder.path)


def a_job(context: Context, ratio: float = 0.5, **changes: object) -> Job:
    return replace(Job(context.space.uniform(ratio), "search", 0, 256, 0), **changes)  # type: ignore[arg-type]


def sparse(context: Context) -> Candidate:
    layers = list(context.space.sparsities)[1:3]
    return Candidate(context.space.uniform(0.75).widths, frozenset(), dict.fromkeys(layers, "0.5"))


def test_a_trial_leaves_a_model_that_costs_and_judges_as_it_says(context: Context) -> None:
    job = a_job(context)
    outcome = run_trial(job, context)
    assert outcome.complete, outcome.error
    assert outcome.images == 256
    model = Models(context.folder, context.teacher, context.space).load(job.key)
    assert count(model, context.example) == replace(outcome.cost, latency_ms=None)
    assert accuracy(model, context.data, "validation") == outcome.accuracy
    assert Outcome.from_json(outcome.to_json()) == outcome
    files = {p.name for p in context.folder.store.trial(job.key).iterdir()}
    assert files == {"job.json", "outcome.json", "student.safetensors", "kept.safetensors", "log.txt"}


def test_a_trial_is_a_function_of_its_job(context: Context) -> None:
    before = copy.deepcopy(context.teacher.state_dict())
    job = a_job(context, seed=5)
    run_trial(job, context)
    first = read_tensors(context.folder.store.trial(job.key) / "student.safetensors")
    (context.folder.store.trial(job.key) / "outcome.json").unlink()
    torch.manual_seed(99)
    run_trial(job, context)
    second = read_tensors(context.folder.store.trial(job.key) / "student.safetensors")
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(torch.equal(v, before[k]) for k, v in context.teacher.state_dict().items())


def test_a_finished_trial_is_not_done_again(context: Context) -> None:
    job = a_job(context, seed=6)
    first = run_trial(job, context)
    written = (context.folder.store.trial(job.key) / "student.safetensors").stat().st_mtime_ns
    assert run_trial(job, context) == first
    assert (context.folder.store.trial(job.key) / "student.safetensors").stat().st_mtime_ns == written


def test_a_promotion_continues_its_parent(context: Context) -> None:
    still = replace(context, recipe=replace(context.recipe, lr=1e-9))
    parent = run_trial(a_job(context, seed=7), context)
    child = run_trial(a_job(context, seed=7, rung=1, images=128, parent=parent.key), still)
    assert child.complete, child.error
    assert child.images == 256 + 128
    kept = [read_tensors(context.folder.store.trial(o.key) / "kept.safetensors") for o in (parent, child)]
    assert all(torch.equal(kept[0][k], kept[1][k]) for k in kept[0])
    states = [read_tensors(context.folder.store.trial(o.key) / "student.safetensors") for o in (parent, child)]
    names = [n for n, _ in Models(context.folder, context.teacher, context.space).load(child.key).named_parameters()]
    assert all(torch.allclose(states[0][n], states[1][n], atol=1e-6) for n in names), "it starts from trained weights"


def test_sparse_layers_stay_sparse_over_a_promotion(context: Context) -> None:
    candidate = sparse(context)
    parent = run_trial(Job(candidate, "search", 0, 256, 0), context)
    child = run_trial(Job(candidate, "search", 1, 128, 0, parent.key), context)
    assert child.complete, child.error
    states = [read_tensors(context.folder.store.trial(o.key) / "student.safetensors") for o in (parent, child)]
    for layer in candidate.sparsity:
        zero = [s[f"{layer}.weight"] == 0 for s in states]
        assert torch.equal(zero[0], zero[1])
        assert int(zero[0].sum()) == zero[0].numel() // 2


def test_a_failure_is_an_outcome_with_its_traceback(context: Context) -> None:
    other = a_job(context, ratio=0.75, rung=1, parent=run_trial(a_job(context), context).key)
    outcome = run_trial(other, context)
    assert outcome.status == "failed"
    assert "another candidate" in (outcome.error or "")
    assert outcome.cost.macs == context.space.cost(other.candidate).macs
    log = (context.folder.store.trial(other.key) / "log.txt").read_text()
    assert "Traceback" in log
    assert "another candidate" in log


def test_a_cost_that_was_not_promised_fails(context: Context) -> None:
    class Wrong:
        def cost(self, candidate: Candidate) -> object:
            return replace(context.costing.cost(candidate), macs=1)

    outcome = run_trial(a_job(context, seed=8), replace(context, costing=Wrong()))  # type: ignore[arg-type]
    assert outcome.status == "failed"
    assert "expected 1" in (outcome.error or "")


def test_threads_are_set_for_the_trial_and_put_back(context: Context) -> None:
    torch.set_num_threads(2)
    try:
        outcome = run_trial(a_job(context, seed=9), context)
        log = (context.folder.store.trial(outcome.key) / "log.txt").read_text()
        assert "1 threads" in log
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_worker_cannot_see_the_test_split(context: Context) -> None:
    with pytest.raises(RuntimeError, match="test split"):
        accuracy(context.teacher, context.data, "test")


def test_a_context_says_what_is_missing(context: Context, tmp_path: Path) -> None:
    from niwaki.spaces import InputError

    (tmp_path / "config.yaml").write_text(context.folder.store.config.read_text())
    with pytest.raises(InputError, match=r"teacher\.safetensors"):
        open_context(tmp_path)


def test_an_untrained_candidate_is_judged_and_refitting_helps_it(context: Context) -> None:
    plain = run_trial(a_job(context, 0.75, images=0, seed=8), context)
    criterion = context.config.criterion.model_copy(update={"refit": 256})
    refitting = replace(context, config=context.config.model_copy(update={"criterion": criterion}))
    refit = run_trial(a_job(context, 0.75, images=0, seed=9), refitting)
    assert plain.complete, plain.error
    assert refit.complete, refit.error
    assert plain.images == refit.images == 0
    assert "loss" not in refit.metrics
    assert refit.accuracy > plain.accuracy
    child = run_trial(a_job(context, 0.75, images=64, seed=9, rung=1, parent=refit.key), context)
    assert child.images == 64
