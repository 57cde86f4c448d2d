"""The one error tree, and the exit code of each branch.

    CftoolsError                 70  only its branches are raised
      GivenUp                     1  what was waited for is over, and something failed
      UsageFault                  2  the command line asks for something impossible
      InputUnusable              65  an input file or stream cannot be used for what was asked
      Unreachable                69  a needed server or service cannot be reached, nothing was done
      StateUnusable              70  the state database cannot be read or written
      GuardRefused               73  a guard refused the whole plan, nothing was deleted
      LockHeld                   75  somebody else runs the same job
      NotOver                    75  what was waited for takes longer
      ConfigFaults               78  every fault of the config file at once
      Stopped              130, 143  SIGINT or SIGTERM arrived

Errors carry data; ``str(error)`` is the text for the operator, one line a fault, and tells what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

SOME_FAILED = 1  # exit code when some items failed and others were done; not an exception, the rows tell


class CftoolsError(Exception):
    """Base of every error that a command turns into one line and an exit code."""

    exit_code = 70


class GivenUp(CftoolsError):
    """What was waited for is over, and something failed."""

    exit_code = SOME_FAILED


class UsageFault(CftoolsError):
    """The command line asks for something impossible."""

    exit_code = 2


class InputUnusable(CftoolsError):
    """An input cannot be used: ``path`` names it, ``fault`` says what is wrong, ``remedy`` what to do."""

    exit_code = 65

    def __init__(self, path: str, fault: str, remedy: str = "", *, line: int | None = None) -> None:
        self.path, self.fault, self.remedy, self.line = path, fault, remedy, line
        place = path if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {fault}" + (f"; {remedy}" if remedy else ""))


class Unreachable(CftoolsError):
    """A needed server or service cannot be reached and nothing was done."""

    exit_code = 69


class StateUnusable(CftoolsError):
    """The state database cannot be read or written; nothing may be deleted without it."""


class GuardRefused(CftoolsError):
    """One or more guards refused the whole plan; ``broken`` holds one sentence a guard."""

    exit_code = 73

    def __init__(self, broken: Sequence[str]) -> None:
        self.broken = tuple(broken)
        super().__init__("\n".join(f"guard {line}" for line in broken))


class LockHeld(CftoolsError):
    """A lock is held by another process.

    ``command``, ``host``, ``pid`` and ``since`` (ISO 8601) tell by whom; they are empty or 0 when the holder
    did not get as far as writing its name.
    """

    exit_code = 75

    def __init__(self, lock: str, command: str = "", host: str = "", pid: int = 0, since: str = "") -> None:
        self.lock, self.command, self.host, self.pid, self.since = lock, command, host, pid, since
        who = f"by {command} on {host}, pid {pid}, since {since}" if pid else "by a process that is just starting"
        super().__init__(f"lock {lock} is held {who}")


class NotOver(CftoolsError):
    """What was waited for takes longer than it was waited for."""

    exit_code = 75


class ConfigFaults(CftoolsError):
    """Every fault of a config file, each as ``FILE:LINE:COLUMN KEY: what``."""

    exit_code = 78

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(faults))


class Stopped(CftoolsError):
    """A signal asked the job to stop; the current step was finished or undone."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped by signal {signal_number}")
