"""The command that prints a server's gate."""

from __future__ import annotations

from typing import Annotated

import typer

from cftools.cli.settings import settings_of


def add_to(app: typer.Typer) -> None:
    """Adds the command of this file."""
    app.command("gate")(gate)


def gate(
    context: typer.Context,
    server: Annotated[str, typer.Option("--server", metavar="NAME", help="A server of the config.")] = "",
    root: Annotated[
        list[str] | None, typer.Option("--root", metavar="DIR", help="Instead: a folder (repeat it), without a config.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Let nothing be changed; sources never do.")] = False,
    allow_rsync: Annotated[
        bool, typer.Option("--allow-rsync", help="Let rsync fetch files; sources do when destinations pull.")
    ] = False,
) -> None:
    """Print the script that binds an SSH key to what cftools sends to a server. It says at its top how to install it.

    Example: cftools gate --server dst1 > cftools-gate
    """
    from cftools.jobs import gate as job
    from cftools.model.errors import UsageFault

    if bool(server) == bool(root):
        raise UsageFault("say which gate: --server NAME, or one --root DIR or more")
    if root:
        text = job.for_roots(root, read_only=read_only, rsync=allow_rsync)
    else:
        text = job.for_server(settings_of(context).config(), server, read_only=read_only, rsync=allow_rsync)
    typer.echo(text, nl=False)
