"""What only the SQLite back end does: its file, its settings, and what it says of what is no database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cftools.model.errors import StateUnusable
from cftools.state.sqlite import SqliteDatabase

NOBODY = 65534
WRITE = """
import os, sys
from pathlib import Path
from cftools.state.sqlite import SqliteDatabase
if sys.argv[2]:
    os.setuid(int(sys.argv[2]))
SqliteDatabase(Path(sys.argv[1])).execute("DELETE FROM run")
"""


def complaint(path: Path) -> str:
    """The line with which a state is refused."""
    with pytest.raises(StateUnusable) as caught:
        SqliteDatabase(path)
    assert caught.value.exit_code == 70
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_fresh_file_gets_its_folder_and_survives_a_power_cut(path: Path) -> None:
    with SqliteDatabase(path) as database:
        assert path.is_file()
        assert database.rows("PRAGMA journal_mode") == [("wal",)]
        assert database.rows("PRAGMA synchronous") == [(2,)], "a committed row must survive a power cut"
        assert database.rows("PRAGMA foreign_keys") == [(1,)]


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a database": (lambda path: path.write_bytes(b"historyheader:1524468282\n" * 99), "file is not a database"),
    "a folder": (lambda path: path.mkdir(), "unable to open database file"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_no_database_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, why = UNUSABLE[case]
    path = tmp_path / "state.db"
    make(path)
    assert complaint(path) == f"{path}: state database unusable: {why}; nothing is deleted without it"


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = complaint(tmp_path / "file" / "state" / "state.db")
    assert "state database unusable: [Errno 20] Not a directory" in said


@pytest.mark.parametrize("case", ["folder", "file"])
def test_what_cannot_be_written_is_refused_in_one_line(case: str) -> None:
    # As an ordinary user: root may write everywhere. Below /tmp itself, for pytest's own folders are private.
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "state.db"
        if case == "file":
            SqliteDatabase(path).close()
            path.chmod(0o444)
        folder.chmod(0o555)
        user = str(NOBODY) if os.getuid() == 0 else ""
        done = subprocess.run([sys.executable, "-c", WRITE, path, user], capture_output=True, check=False)
        folder.chmod(0o755)
        left = sorted(entry.name for entry in folder.iterdir())
    (last,) = done.stderr.decode().splitlines()[-1:]
    assert last.startswith(f"cftools.model.errors.StateUnusable: {path}: state database unusable: "), done.stderr
    assert re.search("unable to open database file|readonly database", last), last
    assert left == (["state.db"] if case == "file" else [])
