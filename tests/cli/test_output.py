"""What commands print: the three formats, quiet and verbose, colours, pipes; and the config's own commands."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cftools import __version__

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_json_lines_open_with_begin_and_close_with_end(run: Run) -> None:
    for words in (["parse-history"], ["--format", "ndjson", "parse-history"]):
        done = run(*words)
        assert (done.returncode, done.stderr) == (0, "")
        begin, *files, end = map(json.loads, done.stdout.splitlines())
        assert (begin["kind"], begin["command"], begin["cftools"]) == ("begin", "parse-history", __version__)
        assert [(row["name"], row["rank"], row["holders"], row["unknown_holders"]) for row in files] == [
            ("two words.mpg", 1, [], 0),
            ("a.mpg", 2, ["127.0.0.2"], 1),
        ]
        assert (end["kind"], end["complete"], end["counts"]) == ("end", True, {"file": 2})
        assert end["skipped"]["history_short"] == 1


def test_csv_has_a_header_and_one_line_a_row(run: Run) -> None:
    done = run("--format", "csv", "parse-history")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(csv.DictReader(io.StringIO(done.stdout))) == [
        {"kind": "file", "name": "two words.mpg", "rank": "1", "size": "5", "bitrate": "0"}
        | {"registered": "1508301143", "holders": "", "unknown_holders": "0"},
        {"kind": "file", "name": "a.mpg", "rank": "2", "size": "920910664", "bitrate": "6399785"}
        | {"registered": "1508301143", "holders": "127.0.0.2", "unknown_holders": "1"},
    ]


def test_a_table_is_for_people(run: Run) -> None:
    done = run("--format", "table", "parse-history")
    assert (done.returncode, done.stderr) == (0, "")
    header, first, second, *closing = done.stdout.splitlines()
    assert header.split() == ["rank", "name", "size", "holders", "unknown_holders"]
    assert first.split() == ["1", "two", "words.mpg", "5B", "0"]
    assert second.split() == ["2", "a.mpg", "920.9MB", "127.0.0.2", "1"]
    assert closing[0] == "2 file"


def test_an_odd_name_is_one_line_in_every_format(run: Run, node: Path) -> None:
    (node / "grades").write_bytes(b'filename\tx\nb\xff "q\x1b[31m.mpg\t1\n')
    (node / "history").write_bytes(b'historyheader:1\nb\xff "q\x1b[31m.mpg,1,0,5,,2,0,0,1=1\n')
    shown = 'b\\xff "q\\x1b[31m.mpg'
    assert f"1  {shown}" in run("--format", "table", "parse-history").stdout.splitlines()[1]
    assert next(csv.reader([run("--format", "csv", "parse-history").stdout.splitlines()[1]]))[1] == shown
    row = json.loads(run("parse-history").stdout.splitlines()[1])
    assert os.fsencode(row["name"]) == b'b\xff "q\x1b[31m.mpg'


def test_what_was_found_before_a_fault_is_shown(run: Run) -> None:
    for shape in ("table", "ndjson"):
        done = run("--format", shape, "heartbeat")
        assert done.returncode == 69
        assert "src1" in done.stdout
        assert "dst1" in done.stdout


def test_verbose_says_more_and_quiet_nothing_on_stderr_only(run: Run) -> None:
    plain, verbose, quiet = (
        run("hot-files", "--at", "1527953525"),
        run("-v", "hot-files", "--at", "1527897600"),
        run("-q", "parse-history"),
    )
    assert (plain.returncode, plain.stderr) == (0, "")
    assert [json.loads(line).get("name") for line in plain.stdout.splitlines()] == [None, "a.mpg", None]
    assert verbose.stderr.startswith("cftools: ")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    told = run("-v", "parse-history")
    assert "cftools: history_short: 1\n" in told.stderr
    assert len(told.stdout.splitlines()) == 4


def test_an_error_is_told_in_quiet_too(run: Run) -> None:
    done = run("-q", "parse-history", "--history", "none")
    assert done.returncode == 65
    assert done.stderr.startswith("cftools: none: cannot be read")


@pytest.mark.parametrize("shape", ["ndjson", "csv", "table"])
def test_a_reader_that_goes_away_is_no_bug(node: Path, shape: str) -> None:
    rows = range(20_000)
    (node / "history").write_text("historyheader:1\n" + "".join(f"{n}.mpg,1,0,5,127.0.0.2,2,0,0,1=1\n" for n in rows))
    (node / "grades").write_text("filename\tx\n" + "".join(f"{n}.mpg\t1\n" for n in rows))
    command = f"{sys.executable} -m cftools --config {node / 'cftools.yaml'} --format {shape} parse-history"
    pipe = f"{command} | head -1; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.count("\n") == 1
    assert done.stderr == "1\n"


def test_a_full_disk_is_told_without_the_word_bug(node: Path) -> None:
    command = [sys.executable, "-m", "cftools", "--config", str(node / "cftools.yaml"), "parse-history"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (70, "cftools: No space left on device; make room and run it again\n")


def on_terminal(node: Path, *words: str, **environment: str) -> str:
    """What the command shows when its stdout is a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cftools", "--config", str(node / "cftools.yaml"), *words]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # Linux's word for: the other end is closed
        pass
    os.close(ours)
    assert process.wait(20) == 0, shown
    return shown.decode()


def test_a_terminal_gets_a_table_and_colours_unless_they_are_not_wanted(node: Path) -> None:
    coloured = on_terminal(node, "parse-history")
    assert "\x1b[" in coloured
    assert "two words.mpg" in coloured
    assert '"kind"' not in coloured
    plain = on_terminal(node, "parse-history", NO_COLOR="1")
    assert "two words.mpg" in plain
    colours = r"\x1b\[(\d+;)*([349]\d|10\d)(;\d+)*m"
    assert not re.search(colours, plain), plain
    assert re.search(colours, on_terminal(node, "--help"))
    assert not re.search(colours, on_terminal(node, "--help", NO_COLOR="1"))
    assert '"kind":"begin"' in on_terminal(node, "--format", "ndjson", "parse-history")


def test_the_config_is_checked(run: Run) -> None:
    done = run("config", "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "test: 1 sources, 1 destinations, no faults\n", "")


def test_the_example_config_needs_no_config_and_has_no_fault(run: Run, node: Path) -> None:
    done = run("config", "example", config=None)
    assert (done.returncode, done.stderr) == (0, "")
    (node / "example.yaml").write_text(done.stdout)
    assert run("config", "check", config="example.yaml").returncode == 0


def test_the_schema_is_json_with_every_section(run: Run) -> None:
    done = run("config", "schema", config=None)
    assert (done.returncode, done.stderr) == (0, "")
    text = json.dumps(json.loads(done.stdout))
    for key in ("hitcount_history", "deletes_per_file", "limit_percent", "mount_marker", "served_by"):
        assert f'"{key}"' in text


def test_held_locks_are_none_in_every_format(run: Run) -> None:
    assert [run("--format", shape, "locks").stdout for shape in ("ndjson", "table", "csv")] == [
        "",
        "no lock is held\n",
        "kind,lock,command,host,pid,since\n",
    ]
