from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from niwaki.distill.losses.hinton import Hinton, softened_divergence
from niwaki.spaces.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)
STUDENT = torch.randn(16, 10, generator=GENERATOR)
TEACHER = torch.randn(16, 10, generator=GENERATOR) * 2
TARGET = torch.randint(0, 10, (16,), generator=GENERATOR)


def test_it_is_the_sum_written_out() -> None:
    """Per example and class: p log(p / q), summed over classes, averaged over the batch alone."""
    p, q = (F.softmax(z.double() / 4, 1) for z in (TEACHER, STUDENT))
    expected = 16 * sum(float(a * (a / b).log()) for a, b in zip(p.flatten(), q.flatten(), strict=True)) / len(p)
    assert softened_divergence(STUDENT, TEACHER, 4.0).item() == pytest.approx(expected, rel=1e-5)
    hard = F.cross_entropy(STUDENT, TARGET, label_smoothing=0.2).item()
    found = Hinton(alpha=0.7, temperature=4.0, label_smoothing=0.2).loss(STUDENT, TEACHER, TARGET)
    assert found.item() == pytest.approx(0.3 * hard + 0.7 * expected, rel=1e-5)


def test_shifted_logits_are_the_same_answer() -> None:
    student = (TEACHER + torch.randn(16, 1)).requires_grad_()
    loss = softened_divergence(student, TEACHER, 4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_gradients_keep_their_size_over_temperatures() -> None:
    """For small logits the gradient tends to (z_s - z_t) / (N C), whatever T (section 2.1 of the paper)."""
    teacher = TEACHER - TEACHER.mean(1, keepdim=True)
    centred = STUDENT - STUDENT.mean(1, keepdim=True)
    limit = (centred - teacher) / STUDENT.numel()
    norms = []
    for temperature in (20.0, 50.0, 200.0):
        student = centred.double().requires_grad_()
        softened_divergence(student, teacher.double(), temperature).backward()
        assert student.grad is not None
        norms.append(student.grad.norm().item())
    assert norms == pytest.approx([limit.norm().item()] * 3, rel=0.1)
    torch.testing.assert_close(student.grad.float(), limit, rtol=0.05, atol=1e-4)


def test_a_repeated_batch_has_the_same_loss() -> None:
    twice = softened_divergence(STUDENT.repeat(2, 1), TEACHER.repeat(2, 1), 4.0)
    torch.testing.assert_close(twice, softened_divergence(STUDENT, TEACHER, 4.0))


def test_classes_that_nobody_considers_add_nothing() -> None:
    """``mean`` instead of ``batchmean`` would divide by the number of classes, too."""
    wide = [F.pad(z, (0, 10), value=-1e4) for z in (STUDENT, TEACHER)]
    torch.testing.assert_close(softened_divergence(wide[0], wide[1], 4.0), softened_divergence(STUDENT, TEACHER, 4.0))


@pytest.mark.parametrize("options", [{"alpha": 1.2}, {"temperature": 0.0}, {"label_smoothing": 1.0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Hinton(**options)
