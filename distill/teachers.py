"""The model to compress, by name, and its weights, read without ever unpickling."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from niwaki.distill.cifar_resnet import CIFAR_DEPTHS, cifar_resnet
from niwaki.distill.data import Data
from niwaki.distill.evaluate import main_logits
from niwaki.distill.objects import resolve_object, told
from niwaki.distill.small_cnn import SmallCNN
from niwaki.distill.sources._base import expanded
from niwaki.spaces.errors import InputError, nearest

OWN: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"small_cnn": SmallCNN} | {f"cifar_resnet{depth}": partial(cifar_resnet, depth) for depth in CIFAR_DEPTHS}
)
"""Our own networks; every torchvision classifier is there beside them."""


def names() -> list[str]:
    """All names that :func:`build` knows.

    Example:
        >>> {"resnet50", "cifar_resnet20", "small_cnn"} <= set(names())
        True
    """
    import torchvision

    return sorted([*OWN, *torchvision.models.list_models(module=torchvision.models)])


def build(spec: str, classes: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """An untrained network.

    Args:
        spec: one of :func:`names`, or ``package.module:function`` (called with ``options`` alone; returns a module).
        classes: outputs of the network.
        options: keyword arguments of the builder.

    Raises:
        InputError: unknown name (the nearest are shown), an option the builder does not take, not a module.

    Example:
        >>> build("cifar_resnet20", 10, {"shortcut": "B"}).linear.out_features
        10
    """
    options = dict(options or {})
    if ":" in spec:
        return _called(resolve_object(spec, "teacher.name"), spec, options)
    if spec not in names():
        raise InputError(
            f"teacher.name: unknown network {spec!r}; {nearest(spec, names())}, or 'package.module:function'"
        )
    if clash := {"classes", "num_classes", "weights"} & set(options):
        raise InputError(
            f"teacher.options: {sorted(clash)[0]!r} is set by Niwaki (classes come from the data, weights from "
            "teacher.weights)"
        )
    if spec in OWN:
        return _called(OWN[spec], spec, {"classes": classes, **options})
    import torchvision

    return _called(
        partial(torchvision.models.get_model, spec), spec, {"weights": None, "num_classes": classes, **options}
    )


def _called(builder: Callable[..., Any], spec: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        model = builder(**options)
    except InputError:
        raise
    except Exception as error:  # a builder, the user's or torchvision's, may raise anything
        raise InputError(f"teacher.options: {spec!r} cannot be built with {dict(options)}: {told(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"teacher.name: {spec!r} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a safetensors file, or one that ``torch.load(weights_only=True)`` reads, into ``model``.

    Unwraps ``{"state_dict": ...}`` and ``{"model": ...}``; strips ``module.`` (DataParallel) and ``_orig_mod.``
    (torch.compile).
    A missing ``num_batches_tracked`` (old files) is left as it is; everything else must match key by key.

    Raises:
        InputError: no such file, damaged, a pickle of code, NaN, keys missing or unexpected, a shape that differs.

    Example:
        >>> import tempfile, safetensors.torch
        >>> model, path = build("small_cnn", 10), tempfile.mktemp(suffix=".safetensors")
        >>> safetensors.torch.save_file(model.state_dict(), path)
        >>> load_weights(build("small_cnn", 10), path)
    """
    file = expanded(str(path), "teacher.weights")
    if not file.is_file():
        raise InputError(f"teacher.weights: no file {str(file)!r}")
    state = _stripped(_read(file), file)
    own = model.state_dict()
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in state and k not in optional]
    unexpected = [k for k in state if k not in own]
    if missing or unexpected:
        key, what = (missing[0], "has no") if missing else (unexpected[0], "holds an unexpected")
        hint = nearest(key, state if missing else own)
        raise InputError(
            f"teacher.weights: {str(file)!r} {what} {key!r} ({len(missing)} missing, {len(unexpected)} "
            f"unexpected keys for a {type(model).__name__}); {hint}"
        )
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            raise InputError(
                f"teacher.weights: {str(file)!r}: {key!r} is {tuple(tensor.shape)}, the model needs "
                f"{tuple(own[key].shape)}{_class_hint(key, tensor, own)}"
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(f"teacher.weights: {str(file)!r}: {key!r} holds NaN or infinity")
    model.load_state_dict(state, strict=False)


def check(model: nn.Module, data: Data) -> None:
    """Run the model on two images; its logits must be (2, classes of the data).

    Raises:
        InputError: the model cannot read the images, or answers with another number of classes (both are named).
    """
    training = [m for m in model.modules() if m.training]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            logits = main_logits(model.eval()(data.example(2).to(device)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"teacher: {type(model).__name__} cannot read images {data.shape} of {data.name!r}: {error}"
        ) from error
    finally:
        for module in training:
            module.training = True
    if logits.dim() != 2 or logits.shape[1] != data.classes:
        raise InputError(
            f"teacher: {type(model).__name__} answers with {tuple(logits.shape)} for 2 images: "
            f"{logits.shape[-1]} classes, but the data {data.name!r} have {data.classes}"
        )


def _read(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise InputError(f"teacher.weights: {str(file)!r} is no readable safetensors file: {error}") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"teacher.weights: {str(file)!r} is damaged, or holds more than tensors (code in a pickle is never "
            f"run); save a state dict: {str(error).splitlines()[0]}"
        ) from error
    except Exception as error:  # on damaged bytes the unpickler raises whatever its machine stumbles over
        raise InputError(f"teacher.weights: {str(file)!r} cannot be read as weights: {error!r:.300}") from error


def _stripped(found: Any, file: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(k, str) and _plain(v) for k, v in found.items()):
        raise InputError(
            f"teacher.weights: {str(file)!r} holds a {type(found).__name__} that is no state dict of dense tensors"
        )
    state = dict(found)
    for prefix in ("module.", "_orig_mod."):
        if state and all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _plain(value: Any) -> bool:
    ordinary = isinstance(value, Tensor) and value.layout == torch.strided
    return ordinary and not (value.is_quantized or value.is_meta or value.is_complex())


def _class_hint(key: str, tensor: Tensor, own: Mapping[str, Tensor]) -> str:
    last = [k for k in own if k.endswith((".weight", ".bias"))][-2:]
    if key in last and tensor.shape[1:] == own[key].shape[1:]:
        return f" (the weights know {len(tensor)} classes, {len(own[key])} were asked for)"
    return ""
