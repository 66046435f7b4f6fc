"""Sparse weights: made once from magnitudes, held at zero for as long as the student trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from niwaki.spaces import registry
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.sparsity import Sparsity

PATTERNS = "niwaki.pruning.patterns"


@runtime_checkable
class Pattern(Protocol):
    """Which weights of a layer stay: a frozen dataclass, one file in ``patterns/``; exactly one accepts a token."""

    def accepts(self, sparsity: Sparsity) -> bool: ...

    def mask(self, score: Tensor, sparsity: Sparsity) -> Tensor: ...


def pattern_for(sparsity: Sparsity) -> Pattern:
    """The pattern of the folder that accepts ``sparsity``.

    Example:
        >>> pattern_for(Sparsity.parse("2:4"))
        NOfM()
    """
    for name in registry.names(PATTERNS):
        pattern = registry.load(PATTERNS, name)()
        if isinstance(pattern, Pattern) and pattern.accepts(sparsity):
            return pattern
    raise InputError(f"sparsity: no pattern for {sparsity}; {nearest('', registry.names(PATTERNS))}")


class Masks:
    """Zeros that stay zeros. Call :meth:`apply` once at the start and after EVERY optimiser step.

    An optimiser moves a masked weight by momentum, weight decay or its own gradient; zeroing after each step makes
    the model that runs forward, and the one that is saved, exactly as sparse as the candidate says. A moving
    average of weights keeps the zeros as well if it starts after the first ``apply``.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> masks = Masks.create(model, {"0": "0.75"})
        >>> masks.apply()
        >>> int(model[0].weight.count_nonzero()), masks.density()
        (4, {'0': 0.25})
    """

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """``state``: layer (module path) -> bool mask of its weight's shape, True = stays (see :meth:`state`)."""
        weights = {layer: _weight(model, layer) for layer in state}
        owners: dict[int, str] = {}
        for layer, weight in weights.items():
            if weight.shape != state[layer].shape or state[layer].dtype != torch.bool:
                raise InputError(
                    f"sparsity: {layer}: expected a bool mask of shape {tuple(weight.shape)}, "
                    f"got {state[layer].dtype} of shape {tuple(state[layer].shape)}"
                )
            if (twin := owners.setdefault(id(weight), layer)) != layer:
                raise InputError(f"sparsity: {layer} and {twin} share one weight: give a sparsity to one of them")
        self._model = model
        self._removed = {layer: ~state[layer].to(weights[layer].device) for layer in state}

    @classmethod
    def create(cls, model: nn.Module, sparsity: Mapping[str, str]) -> Masks:
        """Masks by weight magnitude: in each layer exactly ``Sparsity.parse(token).kept(...)`` weights stay.

        Args:
            model: the student; not changed until :meth:`apply`.
            sparsity: layer (module path with a weight of two or more dimensions) -> token, ``candidate.sparsity``.

        Raises:
            InputError: no such layer, a token that does not parse, or two layers with one weight between them.
        """
        return cls(model, {layer: _by_magnitude(model, layer, token) for layer, token in sparsity.items()})

    @torch.no_grad()
    def apply(self) -> None:
        """Zero the removed weights in place (NaN too); follows the model to another device."""
        for layer, removed in self._removed.items():
            weight = _weight(self._model, layer)
            if removed.device != weight.device:
                self._removed[layer] = removed.to(weight.device)
            weight.masked_fill_(self._removed[layer], 0)

    def density(self) -> dict[str, float]:
        """Layer -> share of its weights that stays, 0 to 1."""
        return {layer: 1 - int(removed.sum()) / removed.numel() for layer, removed in self._removed.items()}

    def state(self) -> dict[str, Tensor]:
        """Layer -> bool mask on the CPU, True = stays: picklable; ``Masks(model, state)`` is the inverse."""
        return {layer: (~removed).cpu() for layer, removed in self._removed.items()}


def _by_magnitude(model: nn.Module, layer: str, token: str) -> Tensor:
    weight = _weight(model, layer)
    try:
        sparsity = Sparsity.parse(token)
    except ValueError as error:
        raise InputError(f"sparsity: {layer}: {error}") from error
    return pattern_for(sparsity).mask(weight.detach().abs(), sparsity)


def _weight(model: nn.Module, layer: str) -> nn.Parameter:
    """``layer.weight``; InputError with the nearest names unless it is a parameter of two or more dimensions."""
    key = f"{layer}.weight" if layer else "weight"
    try:
        weight = model.get_parameter(key)
    except AttributeError:
        weight = None
    if weight is None or weight.ndim < 2:
        layers = [k.removesuffix("weight").rstrip(".") for k, p in model.named_parameters() if k.endswith("weight")
                  and p.ndim >= 2]
        reason = "no such layer" if weight is None else f"its weight is a vector {tuple(weight.shape)}"
        raise InputError(f"sparsity: {layer!r}: {reason}; {nearest(layer, layers)}")
    return weight
