"""Random programs: whatever is combined with whatever, the properties of a carve hold, and nothing hangs."""

from __future__ import annotations

import inspect
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from niwaki.spaces import Candidate, Kept, Space, carve, count, derive, mask
from niwaki.spaces.cut import Cut
from tests.spaces.programs import NAMES, Choice, Plan, Program, build, plans
from tests.spaces.reference import draw, masked, relative
from tests.zoo import randomise

SECONDS = 60
"""Far above what the slowest example takes on a busy machine; a hang is a failure, not a timeout of the suite."""
EXACT = 1e-9
HOPEFUL = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
CONVOLUTIONAL = """
    conv1 conv3 conv_stride conv_bn_relu depthwise grouped transposed batch_norm activation prelu add cat swap_chunks
    split_uneven slice_channels pad_channels shuffle residual padded_shortcut
"""


@contextmanager
def watchdog(plan: Plan) -> Iterator[None]:
    """TimeoutError with the program's text where an example does not come to an end."""

    def bark(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {SECONDS} s:\n{plan!r}")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(module: nn.Module, x: Tensor) -> list[Tensor]:
    return tree_leaves(module.eval()(x))


def worst(a: list[Tensor], b: list[Tensor]) -> float:
    assert len(a) == len(b)
    return max(relative(p, q) for p, q in zip(a, b, strict=True))


@torch.no_grad()
def check(plan: Plan, draws: int = 2) -> Space:
    """Properties 1 to 4 of one network: both routes, ``draws`` random candidates with uneven widths."""
    with watchdog(plan):
        model, x = build(plan)
        before, truth = {k: v.clone() for k, v in model.state_dict().items()}, run(model, x)
        space = derive(model, x)
        largest = space.largest()
        student = carve(model, space, largest)
        assert all(torch.equal(a, b) for a, b in zip(run(student, x), truth, strict=True))
        assert space.cost(largest) == count(model, x)
        whole = {g.name: torch.arange(g.units) for g in space.groups}
        assert worst(run(Cut(model, space, largest, whole).as_source(), x), truth) < 1e-12
        for seed in range(draws):
            _candidate(model, x, space, *draw(space, seed))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return space


def _candidate(model: Program, x: Tensor, space: Space, candidate: Candidate, kept: Kept) -> None:
    student = carve(model, space, candidate, kept)
    out, cut = run(student, x), Cut(model, space, candidate, kept)
    assert cut.verify() > 0
    assert worst(out, run(cut.as_source(), x)) < EXACT
    assert worst(out, run(mask(model, space, candidate, kept), x)) < EXACT
    assert space.cost(candidate) == count(student, x)
    assert all(len(o) == 3 for o in run(student, x[:1].repeat(3, 1, 1, 1)))


@settings(HOPEFUL, max_examples=30)
@given(plan=plans())
def test_random_programs(plan: Plan) -> None:
    check(plan)


@pytest.mark.slow
@settings(HOPEFUL, max_examples=500)
@given(plan=plans())
def test_five_hundred_random_programs(plan: Plan) -> None:
    check(plan)


@settings(HOPEFUL, max_examples=12)
@given(plan=plans(tuple(CONVOLUTIONAL.split())))
def test_against_a_reference_without_a_graph(plan: Plan) -> None:
    """Convolutional programs: deaf layers (zero input weights) are a second truth that shares nothing with rules."""
    space = check(plan, draws=1)
    model, x = build(plan)
    candidate, kept = draw(space, 7, depth=False)
    with torch.no_grad():
        student, deaf = carve(model, space, candidate, kept), masked(model, space, candidate, kept)
        assert worst(run(student, x), run(deaf, x)) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_step(name: str) -> None:
    """Each kind twice, in two variants, between layers: none is only met by chance."""
    first, second = Choice(name, b=1, n=0), Choice(name, b=1, n=1)
    plan = Plan((Choice("conv1", n=0), first, Choice("conv1", n=3), second, Choice("conv1", n=2)))
    assert any(line.name == name for line in build(plan)[0].lines)
    check(plan, draws=1)


FOUND = {
    "a convolution slides over what are units elsewhere": (Choice("maxout", n=6), Choice("conv1d", n=1)),
    "a block within a block, both skipped": (
        Choice("position"),
        Choice("perceptron", n=7),
        Choice("add_sequences", b=1),
    ),
    "the batch of an expanded token": (Choice("class_token"), Choice("linear")),
    "a scale that follows the width": (Choice("conv1", n=1), Choice("cross_attention", b=1, n=2), Choice("conv1", n=2)),
    "groups of a transposed convolution": (Choice("conv1", n=3), Choice("transposed_grouped", n=1)),
    "a product that no rule describes": (Choice("bilinear", n=1), Choice("contracted")),
}


@pytest.mark.parametrize("what", FOUND)
def test_programs_that_were_once_wrong(what: str) -> None:
    check(Plan(FOUND[what]))


@torch.library.custom_op("niwaki_tests::mirror", mutates_args=())
def mirror(x: Tensor) -> Tensor:
    """An operation that no rule can know."""
    return x.flip(1).clone()


@mirror.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.free = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        self.after, self.scores = nn.Conv2d(6, 7, 1), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = mirror(self.before(x))
        return self.scores(torch.relu(self.after(torch.relu(self.free(x)))).mean((2, 3)))


def test_an_operation_without_a_rule_is_pinned_and_named() -> None:
    torch.manual_seed(0)
    model, x = randomise(Unknown()).double(), torch.randn(2, 3, 4, 4).double()
    space = derive(model, x)
    lines, start = inspect.getsourcelines(Unknown.forward)
    number = start + next(i for i, line in enumerate(lines) if "mirror" in line)
    pinned = {f.name: str(f) for f in space.fixed}
    assert pinned["before"] == f"before: no rule for niwaki_tests.mirror.default (test_programs.py:{number})"
    assert [g.name for g in space.groups] == ["free", "after"]
    with torch.no_grad():
        candidate, kept = draw(space, 3)
        student = carve(model, space, candidate, kept).eval()
        assert relative(student(x), masked(model, space, candidate, kept)(x)) < EXACT
        assert space.cost(candidate) == count(student, x)


def test_a_failing_program_reads_as_a_program() -> None:
    plan = Plan((Choice("split_uneven", n=1), Choice("conv1", a=1, n=2), Choice("cat")), 4, 1)
    assert repr(plan).splitlines()[1:] == [
        "v0 = input  # 2x3x4x4",
        "v1 = conv3(v0, n=0)  # 2x4x4x4",
        "v2, v3 = split_uneven(v1, n=1)  # 2x2x4x4 2x2x4x4",
        "v4 = conv1(v2, n=2)  # 2x6x4x4",
        "v5 = cat(v4, v4, n=0)  # 2x12x4x4",
        "return tuple of scores(v3, v5)",
    ]


def test_the_watchdog_barks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SECONDS", 1)
    with pytest.raises(TimeoutError, match=r"v1 = conv3\(v0, n=0\)"), watchdog(Plan((Choice("conv1"),))):
        time.sleep(3)
