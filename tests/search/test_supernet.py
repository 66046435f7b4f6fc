"""One training for all candidates: the loss against carved students, a stop and a resume, and what it is good for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from niwaki.distill import Data, DataSpec, Recipe, accuracy, build, fit, load, main_logits, recalibrate
from niwaki.distill.losses.hinton import softened_divergence
from niwaki.search.context import RunFolder
from niwaki.search.controller import resume, search
from niwaki.search.supernet import Sandwich, SupernetPlan, SupernetRun, supernet_weights, train_supernet
from niwaki.spaces import Elastic, Space, carve, derive
from tests.search.tiny import tiny

RECIPE = Recipe(images=600, batch_size=50, lr=0.05, augment="none", loss="cross_entropy", precision="fp32",
                layout="contiguous")  # fmt: skip
PLAN = SupernetPlan(images=2_000, middles=1, seed=3)


@pytest.fixture(scope="module")
def data() -> Data:
    return load(DataSpec("digits", limit=600))


@pytest.fixture(scope="module")
def teacher(data: Data) -> nn.Module:
    torch.manual_seed(0)
    net = build("small_cnn", 10, {})
    fit(net, data, replace(RECIPE, images=6_000))
    return net.eval()


@pytest.fixture(scope="module")
def space(teacher: nn.Module, data: Data) -> Space:
    return derive(teacher, data.example(2), ratios=[0.25, 0.5, 1.0])


def images_of(data: Data, count: int) -> Tensor:
    return data.normalise(data.train.batch(torch.arange(count))[0])


def test_the_loss_is_what_carved_students_are_off_the_largest(teacher: nn.Module, space: Space, data: Data) -> None:
    elastic, images = Elastic(teacher, space).eval(), images_of(data, 16)
    drawn = []
    sandwich = Sandwich(elastic, space, replace(PLAN, middles=2))
    draw = sandwich.middle
    sandwich.middle = lambda: drawn.append(draw()) or drawn[-1]  # type: ignore[func-returns-value, method-assign]
    logits = main_logits(elastic(images))
    found = sandwich(images, logits)
    assert len({c.key for c in drawn}) == 2
    students = [carve(teacher, space, c, elastic.kept(c)).eval() for c in (space.smallest(), *drawn)]
    expected = sum(softened_divergence(main_logits(s(images)), logits.detach(), 4.0) for s in students)
    torch.testing.assert_close(found, expected)
    assert elastic.candidate == space.largest()


def test_the_largest_learns_from_the_task_alone(teacher: nn.Module, space: Space, data: Data) -> None:
    elastic = Elastic(teacher, space)
    logits = main_logits(elastic(images_of(data, 8))).detach().requires_grad_()
    Sandwich(elastic, space, PLAN)(images_of(data, 8), logits).backward()
    assert logits.grad is None
    touched = {name for name, p in elastic.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {"head.weight", "head.bias"} <= touched


def test_a_stopped_training_goes_on_to_the_same_end(
    teacher: nn.Module, space: Space, data: Data, tmp_path: Path
) -> None:
    def trained(file: Path, stop_at: int | None = None) -> None:
        def report(done: int, total: int) -> None:
            assert total == PLAN.images
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

        train_supernet(Elastic(teacher, space), data, RECIPE, PLAN, SupernetRun(None, file, report))

    trained(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped.safetensors", 1_100)
    assert supernet_weights(tmp_path / "stopped.safetensors") is None, "half a training is no supernet"
    trained(tmp_path / "stopped.safetensors")
    whole, again = (supernet_weights(tmp_path / f"{n}.safetensors") for n in ("whole", "stopped"))
    assert whole is not None
    assert again is not None
    assert whole.keys() == teacher.state_dict().keys()
    for key, value in whole.items():
        torch.testing.assert_close(again[key], value)


def test_small_students_inherit_what_they_need(
    teacher: nn.Module, space: Space, data: Data, tmp_path: Path
) -> None:
    """The same smallest candidate, its BatchNorm recalibrated: carved from the supernet, and from the teacher."""
    elastic = Elastic(teacher, space)
    train_supernet(elastic, data, RECIPE, replace(PLAN, images=6_000), SupernetRun(None, tmp_path / "s.safetensors"))
    heir = build("small_cnn", 10, {})
    heir.load_state_dict(elastic.state_dict())
    judged = []
    for source in (heir.eval(), teacher):
        student = carve(source, space, space.smallest(), elastic.kept(space.smallest()))
        recalibrate(student, data, recipe=RECIPE)
        judged.append(accuracy(student, data, "validation"))
    assert judged[0] > judged[1] + 0.2
    assert accuracy(heir, data, "validation") > 0.85


def test_a_run_ranks_inherited_weights_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    config = tiny(tmp_path / "a", "search.proposer=supernet", "search.options={images: 2000, middles: 1}",
                  "train.rungs=[0]", "search.trials=6")  # fmt: skip

    class Stopped(Exception): ...

    def stop(event: object) -> None:
        if getattr(event, "phase", "") == "supernet" and getattr(event, "done", 0) > 1_000:
            raise Stopped

    with pytest.raises(Stopped):
        search(config, stop)
    result = resume(tmp_path / "a")
    first = [o for o in result.outcomes() if o.job.kind == "search"]
    assert len(first) == 6
    assert all(o.complete and o.images == 0 for o in first)
    weights = supernet_weights(RunFolder(tmp_path / "a").supernet)
    assert weights is not None
    assert weights.keys() == result.models.teacher.state_dict().keys()
    assert result.front


@pytest.mark.parametrize("options", ["{images: 3}", "{middles: -1}", "{temperature: 0}", "{lr: 0}"])
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(ValueError, match=r"search.options: supernet"):
        search(tiny(tmp_path / "a", "search.proposer=supernet", f"search.options={options}"))
