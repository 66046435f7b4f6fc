"""Live activation tensors of a run: which memory every operation makes, and when it is given back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef as _Reference
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(eq=False)
class Store:
    """The memory of one tensor and all of its views.

    Attributes:
        born: number of the operation that made it; -1 for an input.
        bytes: its size.
        shape: of the tensor it was made as.
        itemsize: bytes of one element.
        part: which of the operation's results that tensor was.
        last: number of the last operation at whose end it was still held.
        source: the first followed memory that the operation read.
    """

    born: int
    bytes: int
    shape: tuple[int, ...]
    itemsize: int
    part: int
    last: int = -1
    source: Store | None = None


@dataclass(eq=False)
class Op:
    """One operation as the dispatcher saw it, and the new memory that it made; ``tag``: the watch's at that time."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    tag: Any
    stores: list[Store] = field(default_factory=list)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage from the operation that makes it to the moment when nobody holds it any more.

    Memory that exists before (parameters, buffers, constants) is not followed, ``inputs`` are.
    """

    def __init__(self, inputs: Iterable[Tensor], known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.stores: list[Store] = []
        self.tag: Any = None
        self.inputs: list[Any] = []
        self._known = {_key(t): _weak(t) for t in known}
        self._held: dict[int, tuple[_Reference, Store]] = {}
        for i, tensor in enumerate(inputs):
            self._add(tensor, -1, i)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = _tensors((args, kwargs))
        for tensor in read:
            if _key(tensor) not in self._held:  # a constant: it was there before
                self._known.setdefault(_key(tensor), _weak(tensor))
        source = next((store for t in read if (store := self.store_of(t)) is not None), None)
        result = func(*args, **(kwargs or {}))
        self._release()
        tensors = _tensors(result)
        op = Op(str(func), tuple(tuple(t.shape) for t in tensors), self.tag)
        self.ops.append(op)
        for i, tensor in enumerate(tensors):
            if (store := self._add(tensor, len(self.ops) - 1, i)) is not None:
                store.source = source
                op.stores.append(store)
        return result

    def _add(self, tensor: Tensor, born: int, part: int) -> Store | None:
        key = _key(tensor)
        if key in self._held or key in self._known:
            return None
        store = Store(born, tensor.untyped_storage().nbytes(), tuple(tensor.shape), tensor.element_size(), part)
        self.stores.append(store)
        self._held[key] = (_weak(tensor), store)
        return store

    def _release(self) -> None:
        """Forget what has gone since the last operation ended."""
        gone = [k for k, (weak, _) in self._held.items() if weak.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            self._held.pop(key)[1].last = len(self.ops) - 1

    def finish(self) -> None:
        """After the run: what is held now was held until its end."""
        self._release()
        for _, store in self._held.values():
            store.last = len(self.ops)

    def store_of(self, tensor: Tensor) -> Store | None:
        """The memory behind a tensor; None where it is not followed."""
        found = self._held.get(_key(tensor))
        return None if found is None else found[1]

    def peak(self) -> int:
        """The largest sum of bytes held at the end of any operation; call :meth:`finish` first."""
        change = [0] * (len(self.ops) + 2)  # of bytes held: by the inputs, at the end of every operation
        for store in self.stores:
            change[store.born + 1] += store.bytes
            change[min(store.last, len(self.ops) - 1) + 2] -= store.bytes  # the last place is after the end
        held = peak = 0
        for step in change[:-1]:
            held += step
            peak = max(peak, held)
        return peak


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Torch's fused encoder layers hide their tensors from everyone: they run step by step meanwhile."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _tensors(values: Any) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def _weak(tensor: Tensor) -> _Reference:
    """Keeps the number of the storage taken, not its memory: no later one is mistaken for it."""
    return _Reference(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
