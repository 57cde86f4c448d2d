"""parse-history against a plain csv loop: whole processes writing into a pipe, in turn.

    python tests/benchmarks/parse_history.py --files 1000000

Prints seconds, CPU seconds, ratio and peak memory of both. The agreement: at least 4 times as fast, below 1.2 GB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from generate import addresses, write_inputs

REPOSITORY = Path(__file__).resolve().parents[2]
PLAIN = Path(__file__).with_name("plain_history.py")


class Run(NamedTuple):
    """One whole process: seconds of the clock and of the processors, peak memory in MB, bytes of rows."""

    seconds: float
    processor: float
    megabytes: float
    written: int


def config(directory: Path, history: Path, grades: Path, servers: int) -> Path:
    """Writes a config file for the generated inputs."""
    destinations = "".join(
        f"  - {{name: dst{number}, address: {address}, root: /data}}\n"
        for number, address in enumerate(addresses(servers), 1)
    )
    path = directory / "cftools.yaml"
    path.write_text(
        f"node: benchmark\nstate: {{directory: {directory}/state}}\n"
        f"inputs:\n  hitcount_history: {history}\n  grade_info: {grades}\n  event_log_dir: {directory}\n"
        "hot_files: {served_by: [125.159.40.3]}\n"
        f"sources:\n  - {{name: src1, address: 172.31.0.1, roots: [/data2]}}\ndestinations:\n{destinations}"
    )
    return path


def measure(command: Sequence[str]) -> Run:
    """Runs ``command`` with its output going through a pipe. Raises SystemExit when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert process.stdout is not None
    with process.stdout as out:
        written = sum(len(block) for block in iter(lambda: out.read(1 << 20), b""))
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, written)


def show(runs: dict[str, list[Run]]) -> None:
    """Prints the middle value of each figure; the ratio is that of the clock."""
    base = statistics.median(run.seconds for run in runs["plain loop"])
    print(f"{'':14}{'seconds':>9}{'CPU s':>9}{'times as fast':>15}{'peak MB':>9}{'MB written':>12}")
    for label, measured in runs.items():
        seconds, processor, megabytes, written = (statistics.median(figures) for figures in zip(*measured, strict=True))
        print(
            f"{label:14}{seconds:9.2f}{processor:9.2f}{base / seconds:15.1f}{megabytes:9.0f}{written / 1e6:12.1f}",
        )


def main() -> None:
    """Command line: how many files, how many rounds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=1_000_000)
    options.add_argument("--servers", type=int, default=40)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        history, grades = write_inputs(directory, given.files, given.servers)
        settings = config(directory, history, grades, given.servers)
        commands = {
            "plain loop": [sys.executable, str(PLAIN), str(history), str(grades), ",".join(addresses(given.servers))],
            "parse-history": [
                sys.executable,
                "-m",
                "cftools",
                f"--config={settings}",
                "--format=ndjson",
                "parse-history",
            ],
        }
        runs: dict[str, list[Run]] = {label: [] for label in commands}
        for _ in range(given.rounds):
            for label, command in commands.items():
                runs[label].append(measure(command))
    show(runs)


if __name__ == "__main__":
    main()
