"""Where commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout; progress goes to stderr.")]


def stdout() -> Console:
    """Tables are laid out for at least 80 columns, wherever they are piped to."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(100, console.width))


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Whatever libraries print while they work goes to stderr."""
    with redirect_stdout(sys.stderr):
        yield
