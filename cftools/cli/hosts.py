"""Commands about the servers' host keys: hosts scan."""

from __future__ import annotations

from typing import Annotated

import typer

from cftools.cli.settings import settings_of, show, stop_flag

hosts_app = typer.Typer(no_args_is_help=True, help="Compare the servers' host keys with known_hosts, and learn them.")


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.add_typer(hosts_app, name="hosts")


@hosts_app.command("scan")
def scan(
    context: typer.Context,
    server: Annotated[list[str] | None, typer.Option(help="Only this server; may be given again.")] = None,
    add: Annotated[bool, typer.Option("--add", help="Note new keys in known_hosts.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --add: let a changed key take the place of the old one.")
    ] = False,
) -> None:
    """Ask every server for its host key: a `host_key` row each. Nothing is written without --add.

    Compare the fingerprints with what the servers' owners tell before you add them: on a server,
    `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows its own. Ends with 1 unless all keys are known.

    Example: cftools hosts scan && cftools hosts scan --add
    """
    from cftools.jobs import hosts as job

    settings = settings_of(context)
    stop_flag()
    show(context, job.scan(settings.config(), job.Options(tuple(server or ()), add, replace)))
