"""Links in a run folder are found wherever a run reads or writes."""

import os
from pathlib import Path

import pytest

from niwaki.search.links import refuse_links
from niwaki.search.store import RunStore
from niwaki.spaces.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for trial in ("search-0-a-1", "search-0-b-1"):
        (folder / "trials" / trial).mkdir(parents=True)
        (folder / "trials" / trial / "log.txt").touch()
    (folder / "export" / "m1").mkdir(parents=True)
    (folder / "config.yaml").write_text("budget: {macs: 50%}\n")
    return folder


@pytest.mark.parametrize(("place", "deep"), [
    ("LOCK", False), ("trials/c", False), ("export/m2", False), ("trials/search-0-a-1/log.txt", True),
    ("export/m1/card.json", True),
])  # fmt: skip
def test_a_link_is_named_with_where_it_leads(folder: Path, place: str, deep: bool) -> None:
    refuse_links(folder, deep=True)
    (folder / place).unlink(missing_ok=True)
    (folder / place).symlink_to("/nowhere/at/all")
    with pytest.raises(InputError, match=f"{place}: a link.*'/nowhere/at/all'"):
        refuse_links(folder, deep=True)
    if deep:
        refuse_links(folder)
    else:
        with pytest.raises(InputError, match=place):
            refuse_links(folder)


def test_a_linked_folder_is_not_walked_into(folder: Path, tmp_path: Path) -> None:
    (folder / "trials").rename(tmp_path / "elsewhere")
    (folder / "trials").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="trials: a link"):
        refuse_links(folder, deep=True)


def test_the_way_to_a_run_and_hard_links_in_it_are_fine(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "config.yaml", folder / "trials" / "search-0-a-1" / "config.yaml")
    (tmp_path / "shortcut").symlink_to(folder)
    refuse_links(tmp_path / "shortcut", deep=True)
    assert RunStore.open(tmp_path / "shortcut").outcomes() == []


def test_a_lock_that_leads_to_another_file_leaves_that_file_alone(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious\n")
    (folder / "LOCK").symlink_to(precious)
    store = RunStore(folder)
    with pytest.raises(InputError, match="LOCK: a link"), store.lock():
        raise AssertionError("the lock was given")
    assert precious.read_text() == "precious\n"
