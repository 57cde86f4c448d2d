"""Commands that are forked off one process that has everything imported, so that hundreds can be killed in a minute.

Run as a program it reads a JSON row a line: ``start`` forks a child that runs the command line and answers with its
process number, ``wait`` waits for the end of one and answers with its exit code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import cftools

FAULT_POINTS = Path(__file__).with_name("fault_points") / "sitecustomize.py"
PATCHED = ("cftools.state.database", "cftools.remote.ssh")
USED = ("cftools.cli.app", "cftools.jobs.bulk_submit", "cftools.jobs.bulk_drain", "cftools.state.sqlite", *PATCHED)


class Victim(NamedTuple):
    """A command under way: its process, and the files with the points it went through and what it said."""

    pid: int
    log: Path
    talk: Path

    def points(self) -> list[str]:
        """The fault points it went through, see ``fault_points``."""
        return self.log.read_text().splitlines()


class Victims:
    """The process that forks; a context manager. ``folder`` is for the files of its children."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._config, self._folder = config, folder
        folder.mkdir(exist_ok=True)
        self._count = 0
        pipe = subprocess.PIPE
        path = os.pathsep.join([str(Path(cftools.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=os.environ | {"PYTHONPATH": path}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def start(self, *words: str, stdin: bytes = b"", point: str = "") -> Victim:
        """Starts a command, which kills itself at this fault point."""
        self._count += 1
        base = self._folder / str(self._count)
        base.with_suffix(".in").write_bytes(stdin)
        line = {"words": ["--config", str(self._config), *words], "base": str(base), "point": point}
        return Victim(self._ask("start", line), base.with_suffix(".log"), base.with_suffix(".err"))

    def wait(self, victim: Victim) -> int:
        """Waits for its end; its exit code, below zero for a signal."""
        return self._ask("wait", {"pid": victim.pid})

    def _ask(self, what: str, row: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **row}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def main() -> None:
    """The program."""
    for name in USED:
        importlib.import_module(name)
    spec = importlib.util.spec_from_file_location("fault_points", FAULT_POINTS)
    assert spec is not None
    assert spec.loader is not None
    faults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faults)
    for line in sys.stdin:
        row = json.loads(line)
        if row["do"] == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(row["pid"], 0)[1])
        elif not (answer := os.fork()):
            run(row, faults)
        print(answer, flush=True)


def run(row: dict[str, Any], faults: Any) -> None:
    """The child: it never returns."""
    from cftools.cli import app

    code = 99
    try:
        base = Path(row["base"])
        for number, end in enumerate((".in", ".out", ".err")):
            opened = os.open(base.with_suffix(end), os.O_CREAT | os.O_WRONLY if number else os.O_RDONLY, 0o644)
            os.dup2(opened, number)
            os.close(opened)
        points = faults.FaultPoints(str(base.with_suffix(".log")), row["point"], "")
        for name, patch in zip(PATCHED, (faults.database_points(points), faults.ssh_points(points)), strict=True):
            patch(sys.modules[name])
        sys.addaudithook(points.audit)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (what was read ahead is the parent's)
        code = app.run(row["words"])
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
