"""Commands about the node as a whole: config, locks, demo, lab."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cftools.cli.settings import settings_of

config_app = typer.Typer(no_args_is_help=True, help="Check the config file, or show an example or its schema.")


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("locks")(locks)
    app.command("demo")(demo)
    app.command("lab")(lab)
    app.add_typer(config_app, name="config")


@config_app.command("check")
def check(context: typer.Context) -> None:
    """Load the config and report every fault of it as FILE:LINE:COLUMN KEY: what.

    Example: cftools --config conf/cftools.yaml config check
    """
    config = settings_of(context).config()
    typer.echo(f"{config.node}: {len(config.sources)} sources, {len(config.destinations)} destinations, no faults")


@config_app.command("example")
def example() -> None:
    """Print an example config with every key, its meaning and default.

    Example: cftools config example > conf/cftools.yaml
    """
    from cftools.config.render import example as text

    typer.echo(text(), nl=False)


@config_app.command("schema")
def schema() -> None:
    """Print the JSON schema of the config, with which editors complete it.

    Example: cftools config schema > cftools.schema.json
    """
    from cftools.config.render import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def locks(context: typer.Context) -> None:
    """Show which locks are held, by whom and since when.

    Example: cftools locks
    """
    from cftools.report.tables import plain_table
    from cftools.state.locks import Holder
    from cftools.state.open import open_locks

    settings = settings_of(context)
    with open_locks(settings.config(), "locks") as opened:
        held = opened.held()
    shape = settings.format or ("table" if sys.stdout.isatty() else "ndjson")
    if shape == "ndjson":
        for one in held:
            typer.echo(json.dumps({"kind": "lock", **one._asdict()}))
    elif shape == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(
            [("kind", *Holder._fields), *(("lock", *one) for one in held)]
        )
    elif held:
        typer.echo(plain_table(Holder._fields, [[str(value) for value in one] for one in held]))
    else:
        typer.echo("no lock is held")


def demo(
    context: typer.Context,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Build the node here and keep it.")] = None,
) -> None:
    """Build a whole node on loopback, run a cycle on it, and show what happened. Needs nothing installed.

    Example: cftools demo --keep /tmp/node
    """
    from cftools.jobs import demo as job
    from cftools.report import demo as report

    settings = settings_of(context)
    story = job.run(keep, settings.detail)
    before, after = (report.view(one.servers, one.holdings) for one in (story.before, story.after))
    parts = [(file.name, file.part) for file in story.node.files]
    report.show(parts, before, story.rows, after, terminal=sys.stdout.isatty())
    if keep is not None:
        typer.echo(f"The node stays in {keep}. Run its servers with:  cftools lab {keep}")
        typer.echo(f"and beside it, for instance:               cftools --config {keep / 'cftools.yaml'} inventory")


def lab(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `cftools demo --keep DIR` made.")],
) -> None:
    """Run the servers of a demo node until Ctrl-C, so that the other commands work on it.

    Example: cftools lab /tmp/node
    """
    from cftools.lab.node import DemoNode, serve

    def ready(node: DemoNode) -> None:
        alive = ", ".join(f"{server.name} {server.address}:{server.port}" for server in node.alive)
        typer.echo(f"serving {alive}; Ctrl-C ends it. In another terminal:  cftools --config {node.config} inventory")

    serve(directory, ready)
