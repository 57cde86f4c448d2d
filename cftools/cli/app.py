"""The command line as a whole: global options, the commands, and errors turned into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cftools import __version__
from cftools.cli import bulk_requests, bulk_work, facts, gate, hosts, node, work
from cftools.cli.settings import FORMATS, Settings

app = typer.Typer(
    name="cftools",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    # rich takes half of the time that --help takes; it is worth that only where its colours are seen.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Logs and inventories become facts; facts become plans; plans become actions; actions leave journal lines.",
)


@app.callback()
def main(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Config file (default: $CFTOOLS_CONFIG, conf/cftools.yaml, /etc/cftools/cftools.yaml).",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    output: Annotated[
        str, typer.Option("--format", help="ndjson, table or csv (default: table on a terminal, else ndjson).")
    ] = "",
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Global options."""
    if version:
        typer.echo(f"cftools {__version__}")
        raise typer.Exit
    if output and output not in FORMATS:
        raise typer.BadParameter(f"{output!r} is none of {', '.join(FORMATS)}", param_hint="--format")
    context.obj = Settings(config, quiet, verbose, output)


facts.add_to(app)
work.add_to(app)
node.add_to(app)
hosts.add_to(app)
gate.add_to(app)
bulk_delete = typer.Typer(
    no_args_is_help=True, help="Delete the files that applications ask for: durable, each failure on its own."
)
bulk_requests.add_to(bulk_delete)
bulk_work.add_to(bulk_delete)
app.add_typer(bulk_delete, name="bulk-delete")


def run(arguments: list[str]) -> int:
    """Runs one command line; returns its exit code. No error leaves here as a traceback unless -v asks for it."""
    from cftools.model.errors import CftoolsError

    try:
        try:
            outcome = app(args=arguments, prog_name="cftools", standalone_mode=False)
            sys.stdout.flush()
        except typer.Exit as ended:
            return int(ended.exit_code)
        return int(outcome) if isinstance(outcome, int) else 0
    except CftoolsError as fault:
        for line in str(fault).splitlines():
            print(f"cftools: {line}", file=sys.stderr)
        return fault.exit_code
    except SystemExit as ended:  # Typer's word for: the reader of stdout went away
        return ended.code if isinstance(ended.code, int) else 1
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except Exception as fault:
        return _other(fault, arguments)


def _other(fault: Exception, arguments: list[str]) -> int:
    from cftools.model.errors import CftoolsError

    show = getattr(fault, "show", None)
    if show is not None and hasattr(fault, "exit_code"):  # what Typer says about the command line
        show()
        return int(fault.exit_code)
    if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
        # What stdout still holds must not be tried again at the end, which would end in a traceback and code 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"cftools: {fault.strerror}; make room and run it again", file=sys.stderr)
        return CftoolsError.exit_code
    if {"-v", "--verbose"} & set(arguments):
        import traceback

        traceback.print_exc()
    print(
        f"cftools: a bug: {type(fault).__name__}: {fault}; run it again with -v and report the traceback",
        file=sys.stderr,
    )
    return 70
