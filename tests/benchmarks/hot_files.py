"""hot-files on one day's event log against grep and awk: whole processes, in turn.

    python tests/benchmarks/hot_files.py --size 2GB --dir /var/tmp/logs

Prints seconds, ratio, peak memory and the share of the log that was read, and fails when the answers differ. The
agreement: a 10-minute window costs less than 3 % of a full scan; the last line tells it with and without the start of
the process, for which the window of one second stands.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from generate_event_log import DAY, MIDNIGHT, NAME_PATTERN, WATCHED, bytes_of, write_day

REPOSITORY = Path(__file__).resolve().parents[2]
MIN_HITS = 5
WINDOWS = {
    "1 second": (MIDNIGHT + 1, 1),
    "10 minutes": (MIDNIGHT + 3 * DAY // 4, 600),
    "whole day": (MIDNIGHT + DAY - 1, DAY - 1),
}
AWK = """$3 >= start && $3 <= end {
    name = substr($0, index($0, "file(") + 5); sub(/[)].*/, "", name); hits[name]++
} END { for (name in hits) if (hits[name] >= least) print hits[name], name }"""


class Run(NamedTuple):
    """One whole process: seconds of the clock and of the processors, peak memory in MB, what it wrote."""

    seconds: float
    processor: float
    megabytes: float
    output: bytes


def config(directory: Path) -> Path:
    """Writes a config file for the generated log."""
    path = directory / "cftools.yaml"
    path.write_text(
        f"node: benchmark\nstate: {{directory: {directory}/state}}\n"
        f"inputs:\n  hitcount_history: {directory}/none\n  grade_info: {directory}/none\n"
        f"  event_log_dir: {directory}\n  event_log_name: '{NAME_PATTERN}'\n  event_log_timezone: UTC\n"
        f"hot_files: {{served_by: [{WATCHED}], min_hits: {MIN_HITS}}}\n"
        "sources:\n  - {name: src1, address: 172.31.0.1, roots: [/data2]}\n"
        "destinations:\n  - {name: dst1, address: 172.18.0.1, root: /data}\n"
    )
    return path


def measure(command: list[str]) -> Run:
    """Runs ``command``. Raises SystemExit when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=os.environ | {"LC_ALL": "C"})
    assert process.stdout is not None
    with process.stdout as out:
        output = out.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, output)


def commands(settings: Path, log: Path, at: int, length: int) -> dict[str, list[str]]:
    """What is compared, by label."""
    own = [sys.executable, "-m", "cftools", f"--config={settings}", "--format=ndjson", "hot-files"]
    marker = f"Server {WATCHED} Selected".replace(".", "[.]")
    awk = f"awk -F, -v start={at - length} -v end={at} -v least={MIN_HITS} {shlex.quote(AWK)}"
    return {
        "hot-files": [*own, f"--at={at}", f"--window={length}s"],
        "grep | awk": ["/bin/sh", "-c", f"grep {shlex.quote(marker)} {shlex.quote(str(log))} | {awk}"],
    }


def hot_in_rows(output: bytes) -> tuple[set[tuple[int, str]], int]:
    """Hits and name of each hot file in our rows, and the bytes that were read."""
    rows = [json.loads(row) for row in output.splitlines()]
    return {(row["hits"], row["name"]) for row in rows if row["kind"] == "hot"}, rows[-1]["counts"]["bytes_read"]


def hot_in_words(output: bytes) -> set[tuple[int, str]]:
    """The same in awk's lines."""
    pairs = (one.split(" ", 1) for one in output.decode().splitlines())
    return {(int(hits), name) for hits, name in pairs}


def compare(settings: Path, log: Path, rounds: int) -> None:
    """Measures and prints the table."""
    size = log.stat().st_size
    print(f"{'':26}{'seconds':>9}{'CPU s':>9}{'times as fast':>15}{'peak MB':>9}{'read':>9}")
    cost: dict[str, float] = {}
    for window, (at, length) in WINDOWS.items():
        runs: dict[str, list[Run]] = {}
        for _ in range(rounds):
            for label, command in commands(settings, log, at, length).items():
                runs.setdefault(label, []).append(measure(command))
        found, bytes_read = hot_in_rows(runs["hot-files"][0].output)
        if found != hot_in_words(runs["grep | awk"][0].output) or (length > 1 and not found):
            raise SystemExit(f"{window}: the answers differ")
        base = statistics.median(run.seconds for run in runs["grep | awk"])
        for label, every in runs.items():
            seconds = statistics.median(run.seconds for run in every)
            processor = statistics.median(run.processor for run in every)
            share = bytes_read / size if label == "hot-files" else 1.0
            cost.setdefault(window, processor)  # that of hot-files, which is the first
            megabytes = max(run.megabytes for run in every)
            print(
                f"{window:14}{label:12}{seconds:9.3f}{processor:9.3f}{base / seconds:15.2f}{megabytes:9.0f}{share:9.2%}"
            )
    start, short, full = (cost[window] for window in WINDOWS)
    print(
        f"CPU of 10 minutes / whole day: {short / full:.1%}, without the start {(short - start) / (full - start):.1%}"
    )


def main() -> None:
    """Command line: how large a log, where, how many rounds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", type=bytes_of, default=bytes_of("2GB"))
    options.add_argument("--dir", type=Path, help="where the log is written [default: a temporary folder]")
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    if given.dir:
        given.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.dir) as name:
        directory = Path(name)
        compare(config(directory), write_day(directory, given.size), given.rounds)


if __name__ == "__main__":
    main()
