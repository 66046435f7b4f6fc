"""Errors that a user can cause, and the nearest valid name to show beside them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The user's input is wrong: the message names file, key, value and what would be valid. Exit code 2."""


def nearest(name: str, options: Iterable[str], limit: int = 3) -> str:
    """Text to append to a message: the closest valid names, or all of them where there are few.

    Example:
        >>> nearest("nsga", ["random", "nsga2", "tpe"])
        "did you mean 'nsga2'? (valid: nsga2, random, tpe)"
    """
    valid = sorted(options)
    close = difflib.get_close_matches(name, valid, n=limit, cutoff=0.5)
    shown = ", ".join(valid[:12]) + (f", ... ({len(valid)} in all)" if len(valid) > 12 else "")
    guess = "did you mean " + " or ".join(repr(c) for c in close) + "? " if close else ""
    return f"{guess}(valid: {shown})"
