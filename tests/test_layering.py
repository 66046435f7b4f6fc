"""Imports point one way, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "spaces": {"spaces"},
    "pruning": {"spaces", "pruning"},
    "distill": {"spaces", "distill"},
    "search": {"spaces", "pruning", "distill", "search", "configs"},
}
ONLY_UNDER_SEARCH = {"optuna", "ray", "onnx", "onnxruntime", "onnxscript", "plotly"}
FILES = sorted(p for folder in ALLOWED for p in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        top, *rest = name.split(".")
        assert top not in ALLOWED, f"{name}: import it as niwaki.{name}"
        if top == "niwaki":
            assert rest, f"{path}: the package itself is above its parts"
            assert rest[0] in ALLOWED[folder], f"{folder} may not import {name}"
        assert folder == "search" or top not in ONLY_UNDER_SEARCH, f"{name} belongs under search/"


def test_ray_is_imported_by_its_runner_its_bench_and_trackers_that_use_it_alone() -> None:
    users = {p.name for p in FILES if any(n.split(".")[0] == "ray" for n in imported(p))}
    runner = {"tune.py", "_bridge.py", "_courier.py", "_session.py", "_worker.py"}
    assert users <= {"bench_ray.py", "mlflow.py", "wandb.py"} | runner
