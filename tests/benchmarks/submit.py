"""bulk-delete submit against a plain loop that puts the same names into a bare SQLite table: whole processes, in turn.

    python tests/benchmarks/submit.py --files 1000000

Prints seconds, CPU seconds, ratio and peak memory of both. The agreement: 1,000,000 in less than 10 s and 200 MB on
two processors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as database, open(sys.argv[2], encoding="utf-8") as lines:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE name (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    database.executemany("INSERT INTO name (name) VALUES (?)", ((line.rstrip("\\n"),) for line in lines))
"""


class Run(NamedTuple):
    """One whole process: seconds of the clock and of the processors, peak memory in MB."""

    seconds: float
    processor: float
    megabytes: float


def names(count: int) -> Iterator[str]:
    """The files of an application: some folders deep, a few dozen bytes."""
    return (f"photos/2026/album-{number // 100:07d}/img_{number:07d}_original.jpg" for number in range(count))


def write(directory: Path, count: int) -> dict[str, Path]:
    """The same names in each form; in pieces, for a process begins with the peak memory of the one that starts it."""
    files = {form: directory / f"names.{form}" for form in ("lines", "ndjson", "json")}
    with files["lines"].open("w") as lines, files["ndjson"].open("w") as rows, files["json"].open("w") as array:
        for number, name in enumerate(names(count)):
            lines.write(f"{name}\n")
            rows.write(f'{{"resource":"{name}"}}\n')
            array.write(f'{", " if number else "["}"{name}"')
        array.write("]")
    return files


def config(directory: Path, servers: int) -> Path:
    """Writes a config file with one target on so many servers."""
    path = directory / "cftools.yaml"
    known = [f"img{number}" for number in range(1, servers + 1)]
    addresses = [f"{{name: {name}, address: {name}.example.com}}" for name in known]
    path.write_text(
        "node: benchmark\nstate: {directory: state}\ninputs: {hitcount_history: h, grade_info: g}\n"
        "sources: [{name: src1, address: 172.31.0.1, roots: [/data2]}]\n"
        "destinations: [{name: dst1, address: 172.31.0.2, root: /data}]\n"
        f"servers: [{', '.join(addresses)}]\n"
        f"bulk_delete: {{targets: {{images: {{root: /images, servers: [{', '.join(known)}]}}}}}}\n"
    )
    return path


def measure(command: Sequence[str]) -> Run:
    """Runs ``command``. Raises SystemExit when it fails."""
    started = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    _, status, used = os.wait4(process.pid, 0)
    seconds = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def show(runs: dict[str, list[Run]]) -> None:
    """Prints the middle value of each figure; the ratio is that of the clock."""
    base = statistics.median(run.seconds for run in runs["plain loop"])
    print(f"{'':14}{'seconds':>9}{'CPU s':>9}{'times as fast':>15}{'peak MB':>9}")
    for label, measured in runs.items():
        seconds, processor, megabytes = (statistics.median(figures) for figures in zip(*measured, strict=True))
        print(f"{label:14}{seconds:9.2f}{processor:9.2f}{base / seconds:15.1f}{megabytes:9.0f}")


def main() -> None:
    """Command line: how many files, servers and rounds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=1_000_000)
    options.add_argument("--servers", type=int, default=4)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        forms = write(directory, given.files)
        settings = config(directory, given.servers)
        submit = [sys.executable, "-m", "cftools", f"--config={settings}", "bulk-delete", "submit"]
        commands = {"plain loop": [sys.executable, "-c", PLAIN, str(directory / "plain.db"), str(forms["lines"])]}
        for form, path in forms.items():
            commands[f"submit {form}"] = [*submit, str(path), "--request", form, "--target", "images"]
        runs: dict[str, list[Run]] = {label: [] for label in commands}
        for _ in range(given.rounds):
            for label, command in commands.items():
                runs[label].append(measure(command))
                shutil.rmtree(directory / "state", ignore_errors=True)
                for path in directory.glob("plain.db*"):
                    path.unlink()
    show(runs)


if __name__ == "__main__":
    main()
