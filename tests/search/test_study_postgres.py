"""A team's database: a real PostgreSQL server, started here where one is installed, on a socket and no port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from niwaki.search.aside import Aside, Told
from niwaki.search.events import Event, Notice, PhaseProgress, TrialFinished
from niwaki.search.study import RunStudy
from niwaki.search.study_url import check_url, expanded
from tests.search.made_up import outcomes
from tests.search.studies import add, run_with, setup, summary, told, trials_of

FOUND = [shutil.which("initdb"), *Path("/usr/lib/postgresql").glob("*/bin/initdb")]
BIN = next((Path(program).parent for program in FOUND if program), None)
pytestmark = pytest.mark.skipif(BIN is None, reason="no PostgreSQL server is installed")


@dataclass
class Server:
    """A cluster in ``folder`` that only its own user can reach, through a socket there."""

    folder: Path
    user: str

    def run(self, program: str, *args: str) -> None:
        """Run one of PostgreSQL's programs, which refuse to be run by root."""
        assert BIN is not None
        user = self.user if os.geteuid() == 0 else None
        command = [str(BIN / program), *args]
        done = subprocess.run(
            command, user=user, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self.run("pg_ctl", "-D", "data", "-l", "log.txt", "-w", "-o", options, "start")

    def stop(self) -> None:
        """As a crash would: connections break in the middle of what they are doing."""
        self.run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    @property
    def url(self) -> str:
        return "postgresql+psycopg://niwaki:${NIWAKI_TEST_PASSWORD}@/postgres?host=" + str(self.folder)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # not pytest's: the path of a socket is 107 characters at most
    try:
        (folder / "password").write_text("p@ss/word")
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        server = Server(folder, user)
        server.run("initdb", "-D", "data", "-U", "niwaki", "-A", "scram-sha-256", "--pwfile", "password", "-N")
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIWAKI_TEST_PASSWORD", "p%40ss%2Fword")


def test_runs_of_a_team_stand_side_by_side(server: Server, tmp_path: Path) -> None:
    check_url(server.url)
    one, two = outcomes(6), outcomes(4, seed=9)
    first = run_with(tmp_path / "one", one[:2])
    study = RunStudy(setup(first, server.url, "first"))
    RunStudy(setup(run_with(tmp_path / "two", two), server.url, "second")).close()
    for outcome in one[2:]:
        study.tell(outcome)
    study.close()
    add(first, one[2:])
    RunStudy(setup(first, server.url, "first")).close()  # a resume
    storage = RDBStorage(expanded(server.url))
    found = trials_of(storage, "first")
    assert told(found) == [(o.key, "COMPLETE" if o.complete else "FAIL") for o in one]
    for trial, outcome in zip(found, one, strict=True):
        if outcome.complete:
            assert trial.values == [outcome.accuracy, outcome.cost.macs, outcome.cost.bytes]
            assert trial.constraints["macs"] == outcome.cost.macs / 4e6 - 1
    assert set(told(trials_of(storage, "second"))) == summary(two)
    storage.remove_session()


def test_a_database_that_dies_is_a_notice_and_gets_all_once_it_is_back(server: Server, tmp_path: Path) -> None:
    made, events = outcomes(5, seed=4), list[Event]()
    store = run_with(tmp_path / "run", [])
    aside = Aside("run.study", partial(RunStudy, setup(store, server.url, "third")), pause=1e6)
    with Told(events.append, (aside,), []) as tell:
        for number, outcome in enumerate(made):
            if number == 2:
                server.stop()
            add(store, [outcome])
            tell(TrialFinished("search", outcome, number, 5))
        end = time.monotonic() + 60
        while not any(isinstance(e, Notice) for e in events) and time.monotonic() < end:
            time.sleep(0.05)
            tell(PhaseProgress("test", 1, 2))
        server.start()
    (notice,) = [e.message for e in events if isinstance(e, Notice)]
    assert notice.startswith("run.study: ")
    assert notice.endswith("the run goes on without")
    assert [e.outcome for e in events if isinstance(e, TrialFinished)] == made
    storage = RDBStorage(expanded(server.url))
    assert sorted(told(trials_of(storage, "third"))) == sorted(summary(made))
    storage.remove_session()
