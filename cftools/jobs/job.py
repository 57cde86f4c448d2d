"""What a job works with: the config, the state, the locks, the servers, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cftools import __version__
from cftools.config.schema import Config
from cftools.config.servers import ServerSettings, servers
from cftools.jobs.stop import StopFlag
from cftools.model.errors import CftoolsError
from cftools.model.rows import Begin, Input
from cftools.remote.pool import Fleet, ssh_fleet
from cftools.state import runs
from cftools.state.database import Database
from cftools.state.locks import Locks
from cftools.state.open import open_state


def nothing(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Job:
    """One run of one command. ``at`` is the moment it is to run as of, or None for now; ``detail`` takes what -v shows,
    ``say`` what goes to stderr unless -q forbids it, ``complain`` what failed and always does."""

    command: str
    config: Config
    database: Database
    locks: Locks
    fleet: Fleet
    run: int
    at: float | None = None
    say: Callable[[str], None] = nothing
    detail: Callable[[str], None] = nothing
    stop: StopFlag = field(default_factory=StopFlag)
    complain: Callable[[str], None] = nothing

    def now(self) -> float:
        """The moment plans are made for, epoch seconds."""
        return time.time() if self.at is None else self.at

    def begin(self, inputs: list[Input]) -> Begin:
        """The row that opens this job's stream."""
        return Begin(self.command, __version__, self.now(), inputs)

    @property
    def sources(self) -> list[ServerSettings]:
        """The configured sources."""
        return [server for server in self.fleet.servers.values() if server.role == "source"]

    @property
    def destinations(self) -> list[ServerSettings]:
        """The configured destinations, in numeric order of their addresses."""
        return [server for server in self.fleet.servers.values() if server.role == "destination"]


class Talk:
    """Where a job's talk goes, and the flag that ends it."""

    def __init__(
        self,
        say: Callable[[str], None] = nothing,
        detail: Callable[[str], None] = nothing,
        stop: StopFlag | None = None,
        complain: Callable[[str], None] = nothing,
    ) -> None:
        self.say, self.detail, self.stop, self.complain = say, detail, stop or StopFlag(), complain


@contextmanager
def open_job(config: Config, command: str, at: float | None = None, talk: Talk | None = None) -> Iterator[Job]:
    """Opens the state, notes the run, and closes everything at the end, however it ends."""
    talk = talk or Talk()
    with (
        open_state(config, command, talk.say) as (database, locks),
        ssh_fleet(servers(config), config.ssh.parallel) as fleet,
    ):
        run = runs.begin(database, command, time.time())
        job = Job(command, config, database, locks, fleet, run, at, talk.say, talk.detail, talk.stop, talk.complain)
        exit_code, note = 70, "ended by a bug"
        try:
            yield job
            exit_code, note = 0, ""
        except CftoolsError as fault:
            exit_code, note = fault.exit_code, str(fault)
            raise
        except Exception as fault:  # the command line ends a command with an exception that carries its exit code
            exit_code, note = getattr(fault, "exit_code", 70), type(fault).__name__
            if not hasattr(fault, "exit_code") and (damage := database.damage()):
                raise damage from fault  # it held what it never was given
            raise
        except GeneratorExit:
            exit_code, note = 0, "its reader went away"
            raise
        finally:
            runs.finish(database, run, exit_code, time.time(), note)
