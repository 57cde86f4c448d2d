"""Exit codes and the one line that goes with each, through real processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
BUG = """
import sys
from cftools.jobs import parse_history
from cftools.cli.app import run
def read(*_):
    raise KeyError("holders")
parse_history.read = read
sys.exit(run(sys.argv[1:]))
"""
WRONG_WORDS: dict[str, tuple[list[str], str]] = {
    "command": (["dedupe"], "No such command 'dedupe'"),
    "option": (["--wrong", "locks"], "No such option: --wrong"),
    "option of a command": (["hot-files", "--wrong"], "No such option: --wrong"),
    "format": (["--format", "xml", "locks"], "'xml' is none of ndjson, table, csv"),
    "number": (["hot-files", "--min-hits", "0"], "0 is not in the range x>=1"),
    "too many words": (["locks", "now"], "unexpected extra argument(s) (now)"),
    "missing word": (["lab"], "Missing argument 'DIR'"),
    "missing value": (["hot-files", "--at"], "Option '--at' requires an argument"),
}
WRONG_VALUES: dict[str, tuple[list[str], str]] = {
    "time": (["hot-files", "--at", "yesterday"], "cftools: --at yesterday: 'yesterday' is no time; write ISO 8601"),
    "time of a plan": (["dedup", "--at", "2018-13-01"], "cftools: --at 2018-13-01: '2018-13-01' is no time"),
    "duration": (["distribute", "--for", "soon"], "cftools: --for soon: 'soon' is no duration; write a number with"),
    "duration without unit": (["cycle", "--for", "55"], "cftools: --for 55: '55' has no unit: 55s, 55m or 55h?"),
    "window": (["hot-files", "--window", "-1m"], "cftools: --window -1m: '-1m' is no duration"),
    "stdin twice": (["dedup", "-", "--files", "-"], "cftools: only one of the inputs can be read from stdin (-)"),
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_a_wrong_command_line_ends_with_2_and_how_it_is_used(run: Run, case: str) -> None:
    words, said = WRONG_WORDS[case]
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert " ".join(said.split()) in " ".join(done.stderr.replace("\u2502", " ").split())
    assert done.stderr.count("Usage: cftools") == (case != "missing value")
    assert len(done.stderr.splitlines()) <= 5


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_a_value_that_means_nothing_ends_with_2_and_one_line(run: Run, node: Path, case: str) -> None:
    words, said = WRONG_VALUES[case]
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    if case != "stdin twice":
        assert not (node / "state").exists(), "it must be found before anything is opened"


def test_every_fault_of_the_config_is_told_at_once_with_78(run: Run, node: Path) -> None:
    text = (node / "cftools.yaml").read_text()
    text = text.replace("min_hits: 1", "min_hits: 0, windw: 10m").replace("connect_timeout: 1s", "connect_timeout: 1")
    (node / "cftools.yaml").write_text(text)
    done = run("config", "check")
    assert (done.returncode, done.stdout) == (78, "")
    lines = text.splitlines()
    places = {"min_hits": "0, windw", "windw": "windw", "connect_timeout": "1}"}
    columns = {key: next(line.index(what) + 1 for line in lines if what in line) for key, what in places.items()}
    assert [line.split(" ")[:3] for line in done.stderr.splitlines()] == [
        ["cftools:", f"cftools.yaml:4:{columns['min_hits']}", "hot_files.min_hits:"],
        ["cftools:", f"cftools.yaml:4:{columns['windw']}", "hot_files.windw:"],
        ["cftools:", f"cftools.yaml:5:{columns['connect_timeout']}", "ssh.connect_timeout:"],
    ]
    for words in (["hot-files"], ["cycle", "--apply"]):
        again = run(*words)
        assert (again.returncode, again.stderr) == (78, done.stderr)
    assert not (node / "state").exists()


def test_a_config_that_is_not_there_is_78_and_says_what_was_looked_for(run: Run) -> None:
    done = run("locks", config="none.yaml")
    assert done.returncode == 78
    assert done.stderr.startswith("cftools: none.yaml: no such config file; write one with: cftools config example > ")
    done = run("locks", config=None)
    assert done.returncode == 78
    assert "looked for --config, $CFTOOLS_CONFIG, conf/cftools.yaml and /etc/cftools/cftools.yaml" in done.stderr
    assert run("locks", config=None, env={"CFTOOLS_CONFIG": "cftools.yaml"}).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["parse-history", "--history", "none"], "cftools: none: cannot be read: No such file or directory"),
        (["hot-files", "--at", "1500000000"], "EventLog[20170714].log: no event log"),
        (["dedup", "--apply", "none"], "cftools: none: cannot be read: No such file or directory"),
        (["distribute", "-"], "cftools: stdin: the stream has no end row, so it was cut off"),
        (["plan-distribute", "--hot", "-"], "cftools: stdin: the stream has no end row, so it was cut off"),
    ],
)
def test_an_input_that_cannot_be_used_is_65_and_one_line(run: Run, words: list[str], said: str) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (65, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_servers_that_cannot_be_reached_are_69_and_nothing_is_done(run: Run, node: Path) -> None:
    (node / "empty.hot").write_text('{"kind":"end","command":"hot-files","complete":true}\n')
    why = f"src1: login refused: {node}/key: No such file or directory"
    done = run("plan-distribute", "--hot", "empty.hot")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr == f"cftools: no source could be listed ({why}); nothing was done\n"
    for command in ("inventory", "heartbeat"):
        done = run(command)
        assert done.returncode == 69
        assert [json.loads(line)["kind"] for line in done.stdout.splitlines()][-1] == "end"
        assert done.stderr.count("\n") == 3


def test_a_state_that_cannot_be_opened_is_70_in_words(run: Run, node: Path) -> None:
    (node / "state").write_text("")
    done = run("heartbeat")
    assert (done.returncode, done.stdout) == (70, "")
    assert done.stderr.startswith(f"cftools: {node}/state/state.db: state database unusable: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("if_free", [False, True])
def test_a_job_that_is_running_already_is_75_and_named_unless_that_is_fine(run: Run, node: Path, if_free: bool) -> None:
    (node / "state" / "locks").mkdir(parents=True)
    body = {"command": "cycle", "host": "manager", "pid": 4711, "since": "2018-06-03T00:00:00+00:00"}
    with (node / "state" / "locks" / "job-cycle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps(body))
        lock.flush()
        done = run("cycle", "--apply", *(["--if-free"] if if_free else []))
        shown = json.loads(run("locks").stdout)
    told = "cftools: lock job-cycle is held by cycle on manager, pid 4711, since 2018-06-03T00:00:00+00:00\n"
    assert (done.returncode, done.stdout, done.stderr) == ((0, "", "") if if_free else (75, "", told))
    assert shown == {"kind": "lock", "lock": "job-cycle", **body}


@pytest.mark.parametrize("verbose", [False, True])
def test_a_bug_is_70_and_one_line_and_its_traceback_comes_with_v(node: Path, verbose: bool) -> None:
    words = ["--config", str(node / "cftools.yaml"), *(["-v"] if verbose else []), "parse-history"]
    done = subprocess.run([sys.executable, "-c", BUG, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (70, "")
    *before, last = done.stderr.splitlines()
    assert last == "cftools: a bug: KeyError: 'holders'; run it again with -v and report the traceback"
    assert bool(before) == verbose
    assert ("Traceback (most recent call last):" in before) == verbose


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_order(node: Path, number: signal.Signals, code: int) -> None:
    # A FIFO as history: the command is certain to be at work, waiting for its input, when the signal comes.
    os.mkfifo(node / "fifo")
    command = [
        sys.executable,
        "-m",
        "cftools",
        "--config",
        str(node / "cftools.yaml"),
        "distribute",
        str(node / "fifo"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with (node / "fifo").open("w"):  # opens when the command has opened its end
        time.sleep(0.2)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    assert err == f"cftools: stopped by signal {int(number)}\n"
