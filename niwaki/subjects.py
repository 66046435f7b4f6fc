"""The network that a command asks about, by name, and an example of what it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:  # torch is imported inside the functions: `niwaki --help` should not wait for it
    from torch import nn

    from niwaki.spaces.trace import Example

_USUAL = {"small_cnn": [1, 1, 8, 8], "inception_v3": [1, 3, 299, 299]}
_BY_PREFIX = {"cifar_": [1, 3, 32, 32], "mvit": [1, 3, 16, 224, 224], "swin3d": [1, 3, 16, 224, 224]}
_VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")


def subject(spec: str, shape: str | None, classes: int, example: str | None) -> tuple[nn.Module, Example]:
    """An untrained network and two examples of its input.

    Args:
        spec: what :func:`niwaki.distill.build` takes, or any other torchvision model.
        shape: of one input, batch first, such as ``1,3,224,224``.
        classes: outputs of a classifier.
        example: ``package.module:function`` that returns a tensor, or a tuple of tensors, with a batch of two or more.
    """
    network = _network(spec, classes).eval()
    if example is None:
        return network, _random(spec, shape)
    from niwaki.distill.objects import resolve_object, told
    from niwaki.spaces.errors import InputError

    function = resolve_object(example, "--example")
    try:
        made = function()
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"--example: {example!r} raised {told(error)}") from error
    if not _are_tensors(made):
        raise InputError(f"--example: {example!r} returned a {type(made).__name__}, not a tensor or a tuple of tensors")
    return network, made


def in_double(example: Example) -> Example:
    """Floating-point inputs in float64, others as they are."""
    if isinstance(example, tuple):
        return tuple(t.double() if t.is_floating_point() else t for t in example)
    return example.double() if example.is_floating_point() else example


def _are_tensors(value: Any) -> bool:
    from torch import Tensor

    return all(isinstance(t, Tensor) and t.dim() for t in (value if isinstance(value, tuple) and value else [value]))


def _network(spec: str, classes: int) -> nn.Module:
    import torchvision

    from niwaki.distill import build, names

    others = {n for n in torchvision.models.list_models() if not n.startswith("quantized_")}
    if spec not in others - set(names()):
        return build(spec, classes, {})
    backbone = {} if spec.startswith("raft") or len(_sizes(spec)) == 5 else {"weights_backbone": None}
    network: nn.Module = torchvision.models.get_model(spec, weights=None, **backbone)
    return network


def _sizes(spec: str) -> list[int]:
    if spec in _VIDEO:
        return [1, 3, 16, 224, 224] if spec == "s3d" else [1, 3, 16, 112, 112]
    prefixed = next((sizes for prefix, sizes in _BY_PREFIX.items() if spec.startswith(prefix)), [1, 3, 224, 224])
    return _USUAL.get(spec, prefixed)


def _random(spec: str, shape: str | None) -> Example:
    import torch

    sizes = _sizes(spec)
    if shape is not None:
        try:
            sizes = [int(part) for part in shape.split(",")]
        except ValueError:
            sizes = []
        if len(sizes) < 2 or min(sizes) < 1:
            expected = "expected positive whole numbers, batch first, such as 1,3,224,224"
            raise typer.BadParameter(f"{shape!r}: {expected}", param_hint="--input")
    try:
        one = torch.rand(2, *sizes[1:], generator=torch.Generator().manual_seed(0))
    except (RuntimeError, TypeError) as error:  # more memory than there is, numbers of more than 64 bits
        raise typer.BadParameter(f"{sizes}: {str(error).splitlines()[0]:.200}", param_hint="--input") from error
    return (one, one.flip(-1)) if spec.startswith("raft") else one
