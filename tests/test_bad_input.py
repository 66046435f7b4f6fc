"""Whatever is wrong with what a user brings: exit code 2, a message that says what; nothing trained or written."""

from __future__ import annotations

import hashlib
import html
import io
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from niwaki import cli
from niwaki.search.report.compared import write_page
from tests import bad_input_cases as table
from tests.bad_input_cases import Case

TINY = [
    "--runner", "local", "--trials", "2", "--macs", "50%", "--set", "train.rungs=[64]", "--set",
    "train.final_images=128", "--set", "teacher.train.images=256", "--set", "search.members=1", "--set",
    "search.levels=[1.0]", "--set", "search.starts=[uniform]", "--set", "export.formats=[safetensors]", "--set",
    "latency.samples=4", "--set", "latency.seconds=0.01", "--set", "latency.near=0", "--set", "latency.rounds=2",
    "--set", "latency.max_error=1.0", "--set", "budget.latency=null", "--set", "space.sparsity=[]", "--set",
    "train.views=1", "--set", "space.ratios=[0.25, 0.5, 1.0]",
]  # fmt: skip
CASES = [*table.CONFIGS, *table.VALUES, *table.NAMES, *table.WEIGHTS, *table.DATA, *table.RUNS, *table.COMMANDS]


def call(*arguments: str) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of one command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit_:
        cli.main(list(arguments))
    return exit_.value.code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with everything in it but its page."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    code, _, err = call("search", "quickstart", "--to", str(folder), *TINY)
    assert code == 0, err
    (folder / "report.html").unlink()
    return folder


def state(folder: Path) -> dict[str, tuple[str, int]]:
    """Everything below ``folder``: content (or where a link leads) and time of change; whose turn it is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "LOCK" and not path.is_symlink():
            continue
        held = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else _digest(path)
        found[str(path.relative_to(folder))] = held, path.lstat().st_mtime_ns if not path.is_dir() else 0
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def set_up(case: Case, folder: Path, finished: Path) -> None:
    if case.prepare is not None:
        shutil.copytree(finished, folder / "run")
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if case.prepare is not None:
        case.prepare(folder)


def test_the_table_is_long_and_names_every_case_once() -> None:
    names = [case.name for case in CASES]
    assert len(names) >= 300
    assert len(set(names)) == len(names), {n for n in names if names.count(n) > 1}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_input(case: Case, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def training(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    set_up(case, tmp_path, finished)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.Tensor, "backward", training)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = state(tmp_path)
    code, out, err = call(*case.command)
    assert (code, out) == (2, ""), err
    shown = " ".join(err.replace("│", " ").split())
    assert not [text for text in case.says if text not in err and text not in shown], err
    assert "Traceback" not in err
    assert len(err) < 5000
    assert state(tmp_path) == before


def test_the_run_of_these_cases_is_a_good_one(finished: Path, tmp_path: Path) -> None:
    """Or they could fail for another reason than the one they are about."""
    copy = shutil.copytree(finished, tmp_path / "run")
    for command in (["front"], ["front", "--csv"], ["report"], ["status"], ["resume"]):
        code, _, err = call(command[0], str(copy), *command[1:])
        assert code == 0, err
    assert call("export", str(copy), "--to", str(tmp_path / "x"), "--format", "safetensors")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "mine.yaml", "--to", "new"], "mine.yaml: train.lr: 'fast'"),
        (["search", "quickstart", "--to", "new", "--set", "teacher.weights=w.pt"], "code in a pickle is never run"),
    ],
)
def test_wrong_input_in_a_process_of_its_own(arguments: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("budget: {macs: 50%}\ntrain: {lr: fast}\n")
    table.content(table.pickle.dumps(table.Owner()))(tmp_path / "w.pt")
    done = subprocess.run(
        [sys.executable, "-m", "niwaki", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.yaml", "w.pt"]


def test_the_code_in_these_pickles_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the cases with pickled code would prove nothing."""
    monkeypatch.chdir(tmp_path)
    table.pickle.loads(table.pickle.dumps(table.Owner()))
    assert (tmp_path / "owned").is_dir()


HOSTILE = "<img src=x onerror=alert(1)>\"'&<b>"


class _Tags(HTMLParser):
    """Tags of a page that stand outside its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_the_page_of_a_hostile_run_shows_its_texts_as_texts(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / HOSTILE.replace("/", ""))
    table.edit("facts.json", ("teacher/name", HOSTILE), ("data", HOSTILE), ("precision", HOSTILE))(run)
    table.edit("front.json", ("teacher/name", HOSTILE), ("budget/macs", HOSTILE), ("name", HOSTILE),
               ("members/0/candidate/skipped", [HOSTILE]), ("members/0/candidate/sparsity", {HOSTILE: HOSTILE}),
               ("dropped", [{"candidate": HOSTILE, "latency_ms": 1.0}]))(run)  # fmt: skip
    table.edit("space.json", ("groups/0/name", HOSTILE))(run)
    table.edit("latency.json", ("source/target", HOSTILE), ("source/warnings", [HOSTILE]))(run)
    table.edit("env.json", ("versions", {HOSTILE: HOSTILE}))(run)
    table.edit("export/m1/card.json", ("formats", {HOSTILE: {}}))(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["run"]["name"] = config["teacher"]["name"] = config["data"]["path"] = HOSTILE
    config["teacher"]["options"] = {HOSTILE: HOSTILE}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = call("report", str(run))
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert "img" not in _Tags(page).found
    assert HOSTILE not in page
    assert page.count(html.escape(HOSTILE)) >= 14


def test_the_page_of_a_comparison_shows_its_texts_as_texts(tmp_path: Path) -> None:
    searched = SimpleNamespace(proposer=HOSTILE + "</script>", seed=0, curve=((0, 0.0), (10, 0.5)))
    page = write_page([searched], tmp_path / "c.html").read_text()  # type: ignore[list-item]
    assert "img" not in _Tags(page).found
    assert HOSTILE not in page
    trace = page[page.index("Plotly.newPlot(") :]
    assert "onerror" in trace  # the name is there, as characters of a script's string
    assert "<img" not in trace


def test_names_do_not_steer_the_terminal(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    table.edit("front.json", ("name", "[/red]\x1b[2J"), ("teacher/name", "[/red]\x1b[2J"))(run)
    for command in ("front", "report"):
        code, out, err = call(command, str(run))
        assert code == 0, err
        assert "\x1b" not in out
