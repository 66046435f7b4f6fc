"""One training for all candidates: the loss against carved students, a stop and a resume, and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from niwaki.distill import Data, DataSpec, Recipe, accuracy, build, fit, load, main_logits, recalibrate
from niwaki.distill.losses.hinton import softened_divergence
from niwaki.search.controller import resume, search
from niwaki.search.files import write_tensors_atomic
from niwaki.search.proposers._setup import Lesson, Report
from niwaki.search.supernet import FILE, Sandwich, SupernetPlan, learn_supernet, supernet_weights
from niwaki.spaces import Elastic, Space, carve, derive
from tests.search.tiny import tiny

RECIPE = Recipe(images=600, batch_size=50, lr=0.05, augment="none", loss="cross_entropy", precision="fp32",
                layout="contiguous")  # fmt: skip
PLAN = SupernetPlan(images=2_000, middles=1, seed=3)


def first_units(space: Space) -> dict[str, Tensor]:
    """Scores by which the first units of every group are its best."""
    return {g.name: -torch.arange(float(g.units)) for g in space.groups}


def lesson(
    teacher: nn.Module, space: Space, data: Data, folder: Path, report: Report = lambda done, total: None
) -> Lesson:
    return Lesson(teacher, data, first_units(space), folder, torch.device("cpu"), recipe=RECIPE, report=report)


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


def test_running_statistics_are_those_of_the_largest(teacher: nn.Module, space: Space, data: Data) -> None:
    """Students are refit towards the largest in eval mode: a mixture of candidates would make it a broken model."""
    elastic, alone = Elastic(teacher, space).train(), Elastic(teacher, space).train()
    images = images_of(data, 16)
    Sandwich(elastic, space, PLAN)(images, main_logits(elastic(images)))
    alone(images)
    buffers = dict(elastic.named_buffers())
    assert any(not torch.equal(b, teacher.get_buffer(name)) for name, b in buffers.items())
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)


def test_a_stopped_training_goes_on_to_the_same_end(
    teacher: nn.Module, space: Space, data: Data, tmp_path: Path
) -> None:
    def trained(folder: Path, stop_at: int | None = None) -> None:
        def report(done: int, total: int) -> None:
            assert total == PLAN.images
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

        learn_supernet(lesson(teacher, space, data, folder, report), space, PLAN)

    trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", 1_100)
    assert supernet_weights(tmp_path / "stopped") is None, "half a training is no supernet"
    trained(tmp_path / "stopped")
    whole, again = (supernet_weights(tmp_path / name) for name in ("whole", "stopped"))
    assert whole is not None
    assert again is not None
    assert whole.keys() == teacher.state_dict().keys()
    for key, value in whole.items():
        torch.testing.assert_close(again[key], value)


def test_small_students_inherit_what_they_need(
    teacher: nn.Module, space: Space, data: Data, tmp_path: Path
) -> None:
    """The same smallest candidate, its BatchNorm recalibrated: carved from the supernet, and from the teacher."""
    learn_supernet(lesson(teacher, space, data, tmp_path), space, replace(PLAN, images=6_000))
    heir, elastic = build("small_cnn", 10, {}), Elastic(teacher, space, first_units(space))
    heir.load_state_dict(supernet_weights(tmp_path) or {})
    judged = []
    for source in (heir.eval(), teacher):
        student = carve(source, space, space.smallest(), elastic.kept(space.smallest()))
        recalibrate(student, data, recipe=RECIPE)
        judged.append(accuracy(student, data, "validation"))
    assert judged[0] > judged[1] + 0.2
    assert accuracy(heir, data, "validation") > 0.85


def test_a_run_ranks_inherited_weights_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(tmp_path / "a", "search.proposer=supernet", "search.options={images: 2000, middles: 1}",
                  "train.rungs=[0]", "search.trials=6")  # fmt: skip
    written: list[int] = []

    def stop_in_the_middle(path: Path, tensors: Mapping[str, Tensor]) -> None:
        if path.name == FILE:
            written.append(int(tensors["niwaki.parts"]))
            if written[-1] == 6 and written.count(6) == 1:
                raise KeyboardInterrupt
        write_tensors_atomic(path, tensors)

    monkeypatch.setattr("niwaki.search.supernet.write_tensors_atomic", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        search(config)
    result = resume(tmp_path / "a")
    assert written == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10], "one part was done twice"
    learned, *first = [o for o in result.outcomes() if o.job.kind in ("learn", "search")]
    assert (learned.job.kind, learned.images, dict(learned.metrics)) == ("learn", 6_000, {})
    assert "2000/2000" in (result.folder.store.trial(learned.key) / "log.txt").read_text()
    assert len(first) == 6
    assert all(o.complete and o.images == 0 for o in first)
    weights = supernet_weights(tmp_path / "a")
    assert weights is not None
    assert weights.keys() == result.models.teacher.state_dict().keys()
    assert result.front


@pytest.mark.parametrize("options", ["{images: 3}", "{middles: -1}", "{temperature: 0}", "{lr: 0}"])
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(ValueError, match=r"search.options: supernet"):
        search(tiny(tmp_path / "a", "search.proposer=supernet", f"search.options={options}"))
    assert not (tmp_path / "a").exists()
