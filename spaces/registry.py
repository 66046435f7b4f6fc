"""The folder is the registry: a method's config name is its file name, and the file holds one public class."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from niwaki.spaces.errors import InputError, nearest


def names(package: str) -> list[str]:
    """Names of the methods in ``package``: its modules without a leading underscore.

    Example:
        >>> "conv" in names("niwaki.spaces.rules")
        True
    """
    folder = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))


def load(package: str, name: str, key: str | None = None) -> type:
    """The one public class of module ``package.name``; InputError with the nearest names when there is none.

    ``key``: where a configuration names it, for the message; None: the folder's name is shown.
    """
    if name not in names(package):
        kind = package.rsplit(".", 1)[-1]
        raise InputError(f"{key or kind}: unknown name {name!r}; {nearest(name, names(package))}")
    module = importlib.import_module(f"{package}.{name}")
    classes = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not c.__name__.startswith("_")
    ]
    if len(classes) != 1:
        raise TypeError(
            f"{module.__name__} must define exactly one public class, found {[c.__name__ for c in classes]}"
        )
    return classes[0]
