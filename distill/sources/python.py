"""A user's own data: ``package.module:function`` that returns a training and a test dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from niwaki.distill.objects import resolve_object, told
from niwaki.distill.sources._base import Parts
from niwaki.distill.splits import from_dataset
from niwaki.spaces.errors import InputError


@dataclass(frozen=True)
class Python:
    """A function that returns a (train, test) pair of ``torch.utils.data.Dataset`` with (image, label) items.

    Attributes:
        function: ``package.module:function``.
        arguments: keyword arguments for it.
        memory: hold a part in memory where it takes at most so many GiB, else read items when needed.
        workers: threads that read.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    memory: float = 2.0
    workers: int = 4

    def read(self) -> Parts:
        function = resolve_object(self.function, "data.options.function")
        try:
            made = function(**self.arguments)
        except InputError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"data.options.function: {self.function!r} raised {told(error)}") from error
        if not (isinstance(made, tuple | list) and len(made) == 2):
            raise InputError(
                f"data.options.function: {self.function!r} must return a (train, test) pair of datasets, "
                f"it returned a {type(made).__name__}"
            )
        train, test = (
            from_dataset(d, self.memory, self.workers, f"data ({part} of {self.function})")
            for d, part in zip(made, ("train", "test"), strict=True)
        )
        return Parts(train, test, self.function)
