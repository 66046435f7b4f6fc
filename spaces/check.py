"""Proofs on the user's own model: what ``niwaki check`` runs, and what the tests run over whole zoos."""

from __future__ import annotations

import copy
import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from niwaki.spaces.carve import carve
from niwaki.spaces.count import count, weigh
from niwaki.spaces.cut import Cut
from niwaki.spaces.mask import mask
from niwaki.spaces.space import Space
from niwaki.spaces.trace import restored_modes
from niwaki.spaces.types import Candidate, Cost

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class Proof:
    """One property: its ``name``, what it ``says``, whether it ``held``, and figures or what went wrong."""

    name: str
    says: str
    held: bool
    detail: str


@dataclass(frozen=True, eq=False)
class Trial:
    """What the proofs are about: a random candidate of uneven widths, carved.

    ``model`` and ``student`` are what was traced: the whole, or its parts.
    """

    model: nn.Module
    space: Space
    example: tuple[Tensor, ...]
    candidate: Candidate
    kept: dict[str, Tensor]
    whole: nn.Module
    student: nn.Module

    def carved(self, candidate: Candidate) -> nn.Module:
        return self.space.plan.subject(carve(self.model, self.space, candidate)).eval()

    @property
    def tolerance(self) -> float:
        floats = [p.dtype for p in self.model.parameters() if p.dtype in TOLERANCES]
        return TOLERANCES[floats[0]] if floats else 1e-4


def draw(space: Space, generator: torch.Generator, depth: bool = True) -> tuple[Candidate, dict[str, Tensor]]:
    """Uneven random widths (1 to all units, not only the choices on offer), random units, random depth."""
    units = {g.name: g.units for g in space.groups}
    widths: dict[str, int] = {}
    for first, names in space.members.items():
        widths |= dict.fromkeys(names, int(torch.randint(1, units[first] + 1, (), generator=generator)))
    kept = {
        g.name: torch.randperm(g.units, generator=generator)[: widths[g.name]].sort().values for g in space.groups
    }
    skipped: set[str] = set()
    for stage, blocks in space.stages.items():
        k = int(torch.randint(space.least[stage], len(blocks) + 1, (), generator=generator)) if depth else len(blocks)
        skipped |= set(blocks[k:])
    return Candidate(widths, frozenset(skipped)), kept


def check(model: nn.Module, space: Space, seeds: int = 1) -> list[Proof]:
    """Carve ``seeds`` random candidates and prove each, property by property; nothing raises, what failed is said.

    Args:
        model: the model that ``space`` was derived from, with real (not meta) weights; it is left untouched.
            In float64 the bounds are 1e-9 relative, in float32 1e-4.
        seeds: how many random candidates.

    Returns:
        The proofs, in the order of ``PROOFS``; one that failed for any candidate has failed.

    Example:
        >>> from niwaki.spaces import derive
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
        >>> all(proof.held for proof in check(net, derive(net, torch.randn(2, 3, 8, 8, dtype=torch.double))))
        True
    """
    whole, model = model, space.plan.subject(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = tuple(e.to(device) for e in space.plan.example_pair)
    before = _digests(model)
    found: dict[str, Proof] = {}
    with restored_modes(model):
        model.eval()
        for seed in range(seeds):
            candidate, kept = draw(space, torch.Generator().manual_seed(seed))
            try:
                carved = carve(whole, space, candidate, kept).eval()
                trial = Trial(model, space, example, candidate, kept, carved, space.plan.subject(carved))
            except Exception as error:  # whatever a model does to us, the user is to read it as a finding
                return [Proof("carve", "a random candidate can be carved", False, _line(error))]
            for name, (says, prove) in PROOFS.items():
                if name not in found or found[name].held:
                    found[name] = _proof(name, says, prove, trial)
    changed = [k for k, digest in _digests(model).items() if digest != before[k]]
    says = "the teacher's weights and buffers are as they were"
    found["untouched"] = Proof("untouched", says, not changed, f"changed: {changed[:3]}" if changed else "")
    return list(found.values())


def _digests(model: nn.Module) -> dict[str, str]:
    """State-dict key -> digest of the bytes: a copy of the weights would double the memory of a large model."""
    return {
        k: hashlib.sha256(v.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
        for k, v in model.state_dict().items()
    }


def _proof(name: str, says: str, prove: Callable[[Trial], str], trial: Trial) -> Proof:
    try:
        return Proof(name, says, True, prove(trial))
    except Exception as error:  # as above
        return Proof(name, says, False, _line(error))


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


class NotHeld(Exception):
    """A proof that failed, with its figures."""


def largest(trial: Trial) -> str:
    student = trial.carved(trial.space.largest())
    for mine, truth in zip(outputs(student, trial.example), outputs(trial.model, trial.example), strict=True):
        if not torch.equal(mine, truth):
            raise NotHeld(f"differs by {relative(mine, truth):.1e} relative")
    return ""


def source(trial: Trial) -> str:
    everything = {g.name: torch.arange(g.units) for g in trial.space.groups}
    student = Cut(trial.model, trial.space, trial.space.largest(), everything).as_source().eval()
    return _equal(outputs(student, trial.example), outputs(trial.model, trial.example), trial.tolerance)


def masked(trial: Trial) -> str:
    reference = mask(trial.model, trial.space, trial.candidate, trial.kept).eval()
    return _equal(outputs(trial.student, trial.example), outputs(reference, trial.example), trial.tolerance)


def cost(trial: Trial) -> str:
    predicted = trial.space.cost(trial.candidate)
    counted = Cost(count(trial.student, trial.example).macs, *weigh(trial.whole))
    if predicted != counted:
        raise NotHeld(f"predicted {predicted}, counted {counted}")
    return f"{counted.macs:,} MACs, {counted.params:,} parameters"


def batch(trial: Trial) -> str:
    for n in (1, 3):
        outputs(trial.student, tuple(torch.cat([e, e])[:n] for e in trial.example))
    return "1 and 3 examples"


def backward(trial: Trial) -> str:
    student = copy.deepcopy(trial.student).train()
    results = [t for t in pytree.tree_leaves(student(*trial.example)) if isinstance(t, Tensor) and t.requires_grad]
    torch.stack([r.square().mean() for r in results]).sum().backward()  # type: ignore[no-untyped-call]
    reached = {k: p.grad for k, p in student.named_parameters() if p.grad is not None}
    bad = [k for k, g in reached.items() if not bool(g.isfinite().all())]
    if bad or not reached:
        raise NotHeld(f"gradients that are not finite: {bad[:3]}" if bad else "no parameter gets a gradient")
    return f"{len(reached)} of {sum(1 for _ in student.parameters())} parameters"


def state(trial: Trial) -> str:
    stream = io.BytesIO()
    torch.save(trial.student.state_dict(), stream)
    stream.seek(0)
    twin = trial.carved(trial.candidate)
    twin.load_state_dict(torch.load(stream, weights_only=True))
    unknown = set(trial.student.state_dict()) - set(trial.model.state_dict())
    if unknown:
        raise NotHeld(f"keys that the teacher does not have: {sorted(unknown)[:3]}")
    return _equal(outputs(twin, trial.example), outputs(trial.student, trial.example), 1e-12)


def export(trial: Trial) -> str:
    program = torch.export.export(trial.student, trial.example, strict=False)
    return _equal(outputs(program.module(), trial.example), outputs(trial.student, trial.example), trial.tolerance)


PROOFS: dict[str, tuple[str, Callable[[Trial], str]]] = {
    "largest": ("the largest candidate is the teacher, bit for bit", largest),
    "source": ("the generated source of the whole model computes what the model does", source),
    "masked": ("a carved model equals the teacher with the removed units zeroed", masked),
    "cost": ("the predicted cost equals the cost counted on the carved model", cost),
    "batch": ("the carved model takes other batch sizes", batch),
    "backward": ("the carved model trains: gradients are finite", backward),
    "state": ("its state dict, saved and loaded, gives the same outputs under the teacher's keys", state),
    "export": ("torch.export takes the carved model", export),
}


def outputs(model: nn.Module | Callable[..., object], example: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad(), _seeded():
        return [t for t in pytree.tree_leaves(model(*example)) if isinstance(t, Tensor)]


@contextmanager
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest absolute value of ``b``; inf where shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-12))


def _equal(found: list[Tensor], expected: list[Tensor], tolerance: float) -> str:
    worst = max((relative(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)
    if not worst <= tolerance:
        raise NotHeld(f"differs by {worst:.1e} relative, allowed {tolerance:.0e}")
    return f"{worst:.1e} relative"
