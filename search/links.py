"""A run folder is closed: a link in it could make a run read, append to or empty a file that lies elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from niwaki.spaces.errors import InputError

_OPTUNA = "study.journal.lock"  # Optuna's lock is a link that nobody follows; it comes and goes while a run works


def refuse_links(folder: Path, deep: bool = False) -> None:
    """InputError naming the first symbolic link in ``folder``, its trials and exports; ``deep``: and in each of those.

    The folder may itself be reached through links. Hard links are fine: they are files of the run.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "LOCK").symlink_to("/etc/hostname")
        >>> refuse_links(folder)
        Traceback (most recent call last):
        niwaki.spaces.errors.InputError: ...LOCK: a link in a run folder, to '/etc/hostname'; ...
    """
    places = [folder, folder / "trials", folder / "export"]
    if deep:
        places += [Path(entry.path) for place in places[1:] for entry in _entries(place) if entry.is_dir()]
    for place in places:
        for entry in _entries(place):
            if entry.is_symlink() and not entry.name.startswith(_OPTUNA):
                raise InputError(
                    f"{entry.path}: a link in a run folder, to {os.readlink(entry.path)!r}; links are not followed: "
                    "put what it leads to in its place, or delete it"
                )


def _entries(place: Path) -> Iterator[os.DirEntry[str]]:
    if place.is_symlink() or not place.is_dir():
        return
    with os.scandir(place) as entries:
        yield from entries
