"""Files that are either whole or absent: written beside their place, synced, then moved into it."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from niwaki.spaces.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; move it there when the block ends well, else remove it.

    The folder is created where it is missing. The temporary name starts with a dot and ends in ``.tmp``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def as_os_error(path: Path) -> Iterator[None]:
    """A full disk is an OSError, whoever found it full: safetensors has an exception of its own."""
    try:
        yield
    except SafetensorError as error:
        code = next((c for c in DISK_FULL if f"os error {c})" in str(error)), None)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut, as fsync of a file alone does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with atomic(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, data: Any) -> None:
    """Write indented JSON whole or not at all; raises ValueError on NaN and infinities, which are not JSON."""
    write_text_atomic(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_tensors_atomic(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all. Tensors may be on any device, strided, or share memory."""
    used: set[int] = set()
    ready: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        memory = copy.untyped_storage()
        if memory.data_ptr() in used or memory.nbytes() != copy.numel() * copy.element_size():
            copy = copy.clone(memory_format=torch.contiguous_format)  # safetensors refuses views and tied tensors
        used.add(copy.untyped_storage().data_ptr())
        ready[name] = copy
    with atomic(path) as draft, as_os_error(path):
        save_file(ready, draft, dict(metadata) if metadata else None)


def read_text(path: Path) -> str:
    """The UTF-8 text in ``path``; InputError naming the file where it is missing or broken."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not readable as text: {error}") from error


def read_json(path: Path) -> Any:
    """The JSON in ``path``; InputError naming the file and the place where it is missing or broken."""
    try:
        return json.loads(read_text(path))
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"{path}: not readable as JSON: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON: {error}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong in the block, which makes an object of what ``path`` holds, is an InputError that names the file.

    Example:
        >>> with reading(Path("figures.json")):
        ...     {"macs": 1}["params"]
        Traceback (most recent call last):
        niwaki.spaces.errors.InputError: figures.json: damaged, or of another version: KeyError 'params'
    """
    try:
        yield
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(f"{path}: damaged, or of another version: {what:.300}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; InputError where it is missing or broken."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable as safetensors: {error}") from error
