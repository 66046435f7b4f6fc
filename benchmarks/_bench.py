"""What every benchmark shares: a table on the terminal, a JSON file with figures and machine under runs/bench."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

OUT = Path("runs/bench")


def report(name: str, title: str, rows: Sequence[dict[str, Any]], note: str = "") -> None:
    """Print ``rows`` as a table and write them to ``runs/bench/<name>.json`` with versions and machine."""
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()])
    console = Console()
    console.print(table)
    if note:
        console.print(note)
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.platform()}
    (OUT / f"{name}.json").write_text(
        json.dumps({"title": title, "rows": list(rows), "note": note, **machine}, indent=1)
    )


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall-clock seconds of ``repeats`` calls."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return sorted(found)[len(found) // 2]
