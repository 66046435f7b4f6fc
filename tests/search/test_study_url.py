"""Addresses of databases: what is refused before a run begins, and how passwords stay out of configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from niwaki.search.checks import check_choices
from niwaki.search.study_url import check_url, expanded
from niwaki.spaces import InputError
from tests.search.tiny import tiny

REFUSED = {
    "postgresql://me:secret@host/db": "holds a password.*PASSWORD",
    "postgresql+psycopg://me:s$x@host/db": "no variable 'x'",
    "mysql://:hunter2@host/db": "holds a password",
    "study.db": "'study.db'.*expected an address such as",
    "": "expected an address such as",
    "http://host/db": "sqlalchemy.dialects:http.*expected an address such as",
    "postgresql+nonsense://host/db": "postgresql.nonsense.*expected an address such as",
    "mssql+pymssql://host/db": "needs pymssql, which is not installed: pip install pymssql",
    "postgresql://me:${NIWAKI_NO_SUCH_VARIABLE}@host/db": "no variable 'NIWAKI_NO_SUCH_VARIABLE'",
    "postgresql://me:$@host/db": "after a \\$ comes a NAME",
}


@pytest.mark.parametrize("url", REFUSED)
def test_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"run.study: .*{REFUSED[url]}"):
        check_choices(tiny(tmp_path / "run", f"run.study={url!r}"))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:////data/a:b@c.db", "sqlite:///x$$y.db"])
def test_accepted(url: str) -> None:
    check_url(url)


def test_a_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_PASSWORD", "p%40ss")
    assert expanded("postgresql://me:${TEAM_PASSWORD}@host/db") == "postgresql://me:p%40ss@host/db"
    monkeypatch.setenv("TEAM_STUDY", "sqlite:///whole.db")
    check_url("$TEAM_STUDY")
    monkeypatch.setenv("TEAM_STUDY", "nothing like it")
    with pytest.raises(InputError, match="'\\$TEAM_STUDY'") as refused:
        check_url("$TEAM_STUDY")
    assert "nothing like it" not in str(refused.value), "what the environment holds is not shown"
