"""Addresses of databases for a team's studies (``run.study``), checked before a run begins."""

from __future__ import annotations

import os
import re
import string

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from niwaki.spaces.errors import InputError

_LITERAL_PASSWORD = re.compile(r"://[^:/@]*:[^@$]+@")
_PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}


def check_url(url: str) -> None:
    """InputError where ``url`` holds a password, or is no database that this installation can talk to.

    Example:
        >>> check_url("sqlite:///studies.db")
    """
    if _LITERAL_PASSWORD.search(url):
        raise InputError(
            "run.study: the address holds a password, and run folders and reports show their configuration; name a "
            "variable of the environment instead, as in postgresql://me:${PASSWORD}@host/database"
        )
    try:
        make_url(expanded(url)).get_dialect().import_dbapi()
    except ArgumentError as error:  # also of a kind of database that SQLAlchemy does not know
        raise InputError(
            f"run.study: {url!r}: {str(error).splitlines()[0]}; expected an address such as "
            "postgresql://me@host/database or sqlite:///studies.db"
        ) from None
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(error.name or "", error.name)
        raise InputError(
            f"run.study: {url!r} needs {error.name}, which is not installed: pip install {package}"
        ) from None


def expanded(url: str) -> str:
    """``url`` with ``$NAME`` and ``${NAME}`` replaced from the environment; InputError where that lacks one.

    What stands in the environment is taken as it is: in an address, special characters of a password are %-encoded.

    Example:
        >>> expanded("postgresql://me@db/costs_in_$$")
        'postgresql://me@db/costs_in_$'
    """
    try:
        return string.Template(url).substitute(os.environ)
    except KeyError as error:
        raise InputError(f"run.study: {url!r}: the environment has no variable {error.args[0]!r}") from None
    except ValueError:
        raise InputError(f"run.study: {url!r}: after a $ comes a NAME or {{NAME}} ($$ is one $)") from None
