"""Claim: distillation costs a trial almost nothing, because the teacher's answers are computed once per run.

CIFAR ResNet-20 on images of CIFAR-10's size (random pixels: speed does not depend on them), 1 thread; trainings with
and without distillation alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics

import torch
from _bench import report

from niwaki.distill import DataSpec, FitRun, Recipe, answers, assemble, build, fit, resolve
from niwaki.distill.sources import Parts
from niwaki.distill.splits import ArraySplit

PAIRS, IMAGES = 7, 2560


def main() -> None:
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    split = ArraySplit(torch.randint(256, (4000, 3, 32, 32), dtype=torch.uint8, generator=g), torch.arange(4000) % 10)
    data = assemble(Parts(split, split, "random"), DataSpec())
    teacher = build("cifar_resnet20", 10, {})
    given = answers(teacher, data, Recipe(), 0)
    student = build("cifar_resnet20", 10, {})
    kd = resolve(Recipe(images=IMAGES, lr=0.001), student, data)
    plain = resolve(
        Recipe(images=IMAGES, lr=0.001, loss="cross_entropy", precision=kd.precision, layout=kd.layout), student, data
    )
    pairs = []
    for _ in range(PAIRS):
        with_kd = fit(student, data, kd, FitRun(answers=given)).seconds
        without = fit(student, data, plain, FitRun()).seconds
        pairs.append((with_kd, without))
    ratio = statistics.median(a / b for a, b in pairs)
    spread = statistics.stdev(a / b for a, b in pairs)
    rows = [
        {"trial": "plain", "images/s": IMAGES / min(b for _, b in pairs), "time / plain": 1.0, "spread": 0.0},
        {"trial": "distilled", "images/s": IMAGES / min(a for a, _ in pairs), "time / plain": ratio, "spread": spread},
    ]
    report(
        "distillation",
        f"ResNet-20, {kd.precision}, {kd.layout}, 1 thread, {PAIRS} alternating pairs",
        rows,
        "target: distilled / plain <= 1.10 (median of the pairs)",
    )


if __name__ == "__main__":
    main()
