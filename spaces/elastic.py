"""One set of weights that runs any candidate of a space at the candidate's own sizes (one-shot search, TAS)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from niwaki.spaces.carve import carve, checked
from niwaki.spaces.cut import Cut
from niwaki.spaces.elastic_code import Code, Kind, Table, cut_view, put_back, write
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.places import Ranks
from niwaki.spaces.space import Space
from niwaki.spaces.trace import Example, as_tuple, restored_modes
from niwaki.spaces.types import Candidate

_CODES = 512
"""Sources kept, one for each set of skipped blocks and mode; the oldest goes first."""


class Elastic(nn.Module):
    """A model of which any candidate runs, without rebuilding, on shared weights.

    The parameters are a copy of the model's, whole and under its state-dict keys: what is trained here can be loaded
    back into the model. A candidate runs the source that carving generates, in which sizes are read from a table and
    each tensor is what the candidate keeps of the shared one: a view where that is a run of units, else a selection
    through which gradients flow. :meth:`switch` fills the table; the sources (one for each set of skipped blocks) are
    generated when first needed and kept.

    Units stay where they are in the teacher; ``scores`` order them, and a candidate keeps the best of each group, so
    that smaller candidates are nested in larger ones. That is the same function as a prefix of sorted tensors, but
    holds for every group: no permutation has to be a symmetry of the network (GroupNorm, heads, shuffles).

    Running statistics: in train mode a candidate updates its part of the shared ones, which so become a mixture of
    candidates, unless :attr:`tracks` is False. :meth:`recalibrate` gives the present candidate its own, until the next
    :meth:`switch`.
    As in all generated source, ``train()`` and ``eval()`` switch the network as a whole.

    Args:
        model: what ``space`` was derived from, or one with the same state-dict shapes; copied, not changed.
        space: what may be chosen. Sparsity of a candidate is not applied here (it is a mask).
        scores: group -> ``(units,)`` finite values, larger = keep; of equal units the lower index is the better one,
            and the first units are the best where None.

    Raises:
        InputError: torch.export took only parts of the model (detectors); scores that do not fit the space.

    Example:
        >>> from niwaki.spaces import carve, derive
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> x = torch.randn(2, 3, 8, 8)
        >>> space = derive(net, x)
        >>> elastic, half = Elastic(net, space), space.uniform(0.5)
        >>> elastic.switch(half)
        >>> torch.allclose(elastic(x), carve(net, space, half, elastic.kept(half))(x), atol=1e-6)
        True
    """

    def __init__(self, model: nn.Module, space: Space, scores: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        if space.plan.parts:
            paths = [part.path for part in space.plan.parts]
            raise InputError(f"model {type(model).__name__}: torch.export takes only its parts {paths}: not elastic")
        everything = {g.name: torch.arange(g.units) for g in space.groups}
        whole = Cut(model, space, space.largest(), everything).as_source()
        # Not by add_module: a child of the model may be called as a method here.
        self._modules, self._parameters, self._buffers = whole._modules, whole._parameters, whole._buffers
        self._non_persistent_buffers_set = whole._non_persistent_buffers_set
        self.training = model.training
        self._space = space
        self._shell = (_shell(model),)  # in a tuple: no submodule of this one
        self._order = {g.name: _order(g.name, g.units, scores) for g in space.groups}
        self._ranks = Ranks({g.name: space.plan.atoms[g.name] for g in space.groups}, self._order)
        self._codes: dict[tuple[frozenset[str], Kind], Code] = {}
        self._units = {g.name: g.units for g in space.groups}
        self._depths: set[frozenset[str]] = set()
        self.tracks = True
        """Whether train mode updates buffers (running statistics)."""
        self.switch(space.largest())

    @property
    def space(self) -> Space:
        """What may run."""
        return self._space

    @property
    def candidate(self) -> Candidate:
        """The one that runs at present."""
        return self._candidate

    def switch(self, candidate: Candidate) -> None:
        """Run this candidate from now on; InputError where it is none of this space."""
        widths = candidate.widths
        fits = widths.keys() == self._units.keys() and all(0 < widths[n] <= u for n, u in self._units.items())
        if not fits or candidate.skipped not in self._depths:
            checked(self._space, candidate, None)
            self._depths.add(candidate.skipped)
        self._candidate = candidate
        self._alive = self._ranks.alive(widths)
        self._tables: dict[Kind, Table] = {}
        self._statistics: dict[str, Tensor] = {}
        self._ready(self._kind)

    def forward(self, *inputs: Any) -> Any:
        code, table = self._ready(self._kind)
        tensors = self._entries(code, table)
        if not self.training and self._statistics:
            tensors |= {f"t{i}": self._statistics[key] for i, key in enumerate(code.keys) if key in self._statistics}
        flat = code.run(SimpleNamespace(s=table.sizes, **tensors), *inputs)
        with torch.no_grad():
            for i in code.written if self.tracks else ():
                put_back(self._shared(code.keys[i]), tensors[f"t{i}"], table.cuts[i])
        return pytree.tree_unflatten(list(flat), code.out_spec)

    def kept(self, candidate: Candidate) -> dict[str, Tensor]:
        """Which units of the teacher a candidate has here: group -> ``(width,)`` int64, ascending; for ``carve``."""
        best = {n: order[: candidate.widths.get(n, 0)].sort().values for n, order in self._order.items()}
        return checked(self._space, candidate, best)

    def student(self, candidate: Candidate) -> nn.Module:
        """An ordinary carved module with a copy of the weights (and of recalibrated statistics): the same outputs."""
        shell = self._shell[0]
        parameters, buffers = (f(remove_duplicate=False) for f in (shell.named_parameters, shell.named_buffers))
        memo: dict[int, object] = {id(t): self._shared(key) for key, t in (*parameters, *buffers)}
        student = carve(copy.deepcopy(shell, memo), self._space, candidate, self.kept(candidate))
        if candidate == self._candidate:
            with torch.no_grad():
                for key, own in self._statistics.items():
                    student.get_buffer(key).copy_(own)
        return student.train(self.training)

    def recalibrate(self, batches: Iterable[Example]) -> None:
        """Average the BatchNorm statistics of the present candidate alone over batches; ``eval()`` then uses them.

        Every BatchNorm works on its batch while the rest (dropout) is in eval mode. The result is the mean over
        batches, weighted by their sizes, of the batch's mean and unbiased variance: what ``momentum=None`` computes
        of equal batches. The shared statistics are not touched.

        Raises:
            InputError: no batches, or statistics that are not finite (one value per channel, NaN in the data).
        """
        code, table = self._ready("calibrate")
        tensors = self._entries(code, table)
        sums: dict[str, Tensor] = {}
        weights: dict[str, int] = {}
        for batch in batches:
            fresh = {
                f"{name}{k}": torch.zeros_like(tensors[f"t{i}"])
                for k, pair in enumerate(code.normed)
                for name, i in zip("mv", pair, strict=True)
            }
            inputs = as_tuple(batch)
            with torch.no_grad():
                code.run(SimpleNamespace(s=table.sizes, **tensors, **fresh), *inputs)
            for k, pair in enumerate(code.normed):
                for name, i in zip("mv", pair, strict=True):
                    key, found = code.keys[i], fresh[f"{name}{k}"] * len(inputs[0])
                    sums[key] = sums[key] + found if key in sums else found
                    weights[key] = weights.get(key, 0) + len(inputs[0])
        means = {key: total / weights[key] for key, total in sums.items()}
        if code.normed and not means:
            raise InputError("recalibrate: no batches")
        if wrong := [key for key, value in means.items() if not bool(value.isfinite().all())]:
            raise InputError(f"recalibrate: {wrong[0]} is not finite: batches of one example, or NaN in the data")
        self._statistics = means

    def source(self) -> str:
        """The text that runs now; ``self`` in it is the table of the candidate."""
        return self._ready(self._kind)[0].source

    @property
    def _kind(self) -> Kind:
        return "train" if self.training else "eval"

    def _ready(self, kind: Kind) -> tuple[Code, Table]:
        """The source and the table of the present candidate."""
        skipped, plan = self._candidate.skipped, self._space.plan
        code = self._codes.get((skipped, kind))
        if code is None:
            program = plan.programs.get("train" if kind == "train" else "eval")
            if program is None:
                raise RuntimeError("torch.export could not trace this model in train mode: it runs in eval mode only")
            if len(self._codes) >= _CODES:
                del self._codes[next(iter(self._codes))]
            code = self._codes[skipped, kind] = write(program, plan, skipped, kind, self._ranks)
        if kind not in self._tables:
            device = next((t.device for t in chain(self.parameters(), self.buffers())), torch.device("cpu"))
            self._tables[kind] = code.table(self._alive, device)
        return code, self._tables[kind]

    def _entries(self, code: Code, table: Table) -> dict[str, Tensor]:
        """What the candidate keeps of every tensor that the source reads."""
        pairs = zip(code.keys, table.cuts, strict=True)
        found = {f"t{i}": cut_view(self._shared(key), cuts) for i, (key, cuts) in enumerate(pairs)}
        for i in code.written:  # copies, put back afterwards: a later pass must not write into what autograd has saved
            found[f"t{i}"] = found[f"t{i}"].clone()
        return found

    def _shared(self, key: str) -> Tensor:
        module: nn.Module = self
        *path, name = key.split(".")
        for step in path:
            module = module._modules[step]  # type: ignore[assignment]
        found = module._parameters[name] if name in module._parameters else module._buffers[name]
        assert found is not None
        return found

    def _apply(self, fn: Any, recurse: bool = True) -> Elastic:
        """Tables and statistics follow the parameters to another device or type."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._tables = {}
        self._statistics = {key: fn(value) for key, value in self._statistics.items()}
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Elastic:
        """Tensors are copied; the space and the sources, which hold none, are shared."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        for shared in (self._space, self._shell, self._ranks, self._codes):
            memo[id(shared)] = shared
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new


def _shell(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters and buffers take no memory."""
    memo: dict[int, object] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    for b in model.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    with restored_modes(model):
        return copy.deepcopy(model, memo)


def _order(name: str, units: int, scores: Mapping[str, Tensor] | None) -> Tensor:
    """The units of a group, best first."""
    if scores is None:
        return torch.arange(units)
    if name not in scores:
        raise InputError(f"scores: group {name!r} has none; {nearest(name, scores)}")
    score = scores[name].detach().cpu()
    if score.shape != (units,) or not bool(score.isfinite().all()):
        raise InputError(f"scores[{name!r}]: expected {units} finite values, got {score.tolist()}")
    return score.argsort(descending=True, stable=True)
