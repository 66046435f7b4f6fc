"""Every file in ``distill/losses`` is a loss: found by its name, with these properties."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from niwaki.spaces import registry

PACKAGE = "niwaki.distill.losses"
NAMES = registry.names(PACKAGE)


def made(name: str) -> Any:
    return registry.load(PACKAGE, name)()


def test_the_folder_is_not_empty() -> None:
    assert {"hinton", "cross_entropy"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_frozen_dataclass_with_defaults_and_a_docstring(name: str) -> None:
    loss = made(name)
    assert loss == made(name)
    assert "label_smoothing" in {f.name for f in dataclasses.fields(loss)}
    assert type(loss).__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.label_smoothing = 0.5


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_finite_scalar_that_teaches_the_student_alone(name: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)
    target = teacher.argmax(1)
    loss = made(name).loss(student, teacher if made(name).needs_teacher else None, target)
    assert loss.shape == ()
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    with torch.no_grad():
        better = made(name).loss(student - 0.1 * student.grad, teacher, target)
    assert better < loss


@pytest.mark.parametrize("name", NAMES)
def test_it_survives_extreme_logits(name: str) -> None:
    student = torch.tensor([[6e4, -6e4, 0.0]], requires_grad=True)
    loss = made(name).loss(student, torch.tensor([[-6e4, 6e4, 0.0]]), torch.tensor([1]))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_batch_and_of_the_classes_does_not_matter(name: str) -> None:
    torch.manual_seed(1)
    student, teacher, target = torch.randn(8, 5), torch.randn(8, 5), torch.randint(0, 5, (8,))
    rows, columns = torch.randperm(8), torch.randperm(5)
    moved = columns.argsort()[target[rows]]
    first = made(name).loss(student, teacher, target)
    torch.testing.assert_close(made(name).loss(student[rows][:, columns], teacher[rows][:, columns], moved), first)


@pytest.mark.parametrize("name", NAMES)
def test_who_needs_a_teacher_says_so(name: str) -> None:
    loss = made(name)
    if loss.needs_teacher:
        with pytest.raises(ValueError, match="needs the teacher"):
            loss.loss(torch.zeros(2, 3), None, torch.tensor([0, 1]))
