"""What the options before the command say, and what every command does with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cftools.config.schema import Config
    from cftools.jobs.job import Job
    from cftools.jobs.stop import StopFlag
    from cftools.model.rows import Row

FORMATS = ("ndjson", "table", "csv")


@dataclass(frozen=True)
class Settings:
    """The global options. ``format`` is empty for: a table on a terminal, NDJSON otherwise."""

    config_file: Path | None = None
    quiet: bool = False
    verbose: bool = False
    format: str = ""

    def say(self, text: str) -> None:
        """One line to stderr."""
        if not self.quiet:
            self.complain(text)

    def complain(self, text: str) -> None:
        """One line to stderr about something that failed; -q does not hide it."""
        print(f"cftools: {text}", file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """One line to stderr with -v."""
        if self.verbose:
            self.say(text)

    def config(self) -> Config:
        """The node's config. Raises ConfigFaults."""
        from cftools.config.load import find_config, load

        return load(find_config(self.config_file, os.environ))


def settings_of(context: typer.Context) -> Settings:
    """The global options of the running command."""
    found = context.find_object(Settings)
    return found if found else Settings()


def stop_flag() -> StopFlag:
    """A flag that SIGINT and SIGTERM set."""
    from cftools.jobs.stop import StopFlag

    flag = StopFlag()
    flag.install()
    return flag


@contextmanager
def opened_job(context: typer.Context, command: str, at: float | None = None) -> Iterator[Job]:
    """A job with config, state and servers, whose talk goes to stderr."""
    from cftools.jobs.job import Talk, open_job

    settings = settings_of(context)
    # Before the config is read, which may hang; and after the imports above, for Polars takes SIGINT over.
    stop = stop_flag()
    with open_job(settings.config(), command, at, Talk(settings.say, settings.detail, stop, settings.complain)) as job:
        yield job


@contextmanager
def unless_busy(context: typer.Context, if_free: bool) -> Iterator[None]:
    """With --if-free a job that finds its lock held ends quietly; its run is noted all the same."""
    from cftools.model.errors import LockHeld

    try:
        yield
    except LockHeld as held:
        if not if_free:
            raise
        settings_of(context).detail(str(held))


def show(context: typer.Context, rows: Generator[Row, None, None]) -> None:
    """Writes a job's rows in the asked format; ends the command with 1 when one of its items failed.

    Whatever happens to stdout, the job is closed, with its state true, before the state and the servers are.
    """
    from cftools.cli.output import Writer

    settings = settings_of(context)
    writer = Writer(settings)
    with closing(rows):
        failed = writer.write(rows)
    if failed:
        raise typer.Exit(1)


def moment(text: str | None) -> float | None:
    """The value of --at as epoch seconds. Raises UsageFault."""
    if text is None:
        return None
    from cftools.config.units import parse_time
    from cftools.model.errors import UsageFault

    try:
        return parse_time(text)
    except ValueError as fault:
        raise UsageFault(f"--at {text}: {fault}") from fault


def duration(option: str, text: str | None) -> float | None:
    """The value of a duration option in seconds. Raises UsageFault."""
    if text is None:
        return None
    from cftools.config.units import parse_duration
    from cftools.model.errors import UsageFault

    try:
        return parse_duration(text)
    except ValueError as fault:
        raise UsageFault(f"{option} {text}: {fault}") from fault
