"""What a wheel holds: every module of the four folders, the configurations, and nothing but `niwaki` at the top."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("spaces", "pruning", "distill", "search", "configs")


def test_wheel(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in ("niwaki", *FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        os.symlink(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("niwaki-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"niwaki/{p.relative_to(ROOT)}"
        for folder in FOLDERS
        for p in (ROOT / folder).rglob("*")
        if p.suffix in {".py", ".yaml", ".html", ".css", ".js"} and "__pycache__" not in p.parts
    }
    expected |= {f"niwaki/{p.name}" for p in (ROOT / "niwaki").glob("*.py")}
    assert expected <= held, sorted(expected - held)
    assert {n.split("/")[0] for n in held if ".dist-info" not in n} == {"niwaki"}
