"""The README names every command and every kind of row with its fields."""

from __future__ import annotations

from pathlib import Path

import msgspec
import typer

from cftools.cli.app import app
from cftools.model.rows import KINDS

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_command_is_named() -> None:
    root = typer.main.get_command(app)
    groups = {name: sorted(getattr(command, "commands", {})) for name, command in root.commands.items()}  # type: ignore[attr-defined]
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    words = {word.strip("`,;:.") for word in table.split()}
    assert {name for name, inner in groups.items() if name not in words} == set()
    assert {inner for commands in groups.values() for inner in commands if inner not in words} == set()


def test_every_kind_of_row_is_told_with_its_fields() -> None:
    lines = README.partition("## Rows")[2].partition("\n## ")[0].splitlines()
    told = {line.split("|")[1].strip(): line.split("|")[2] for line in lines if line.startswith("| ")}
    for kind, row in KINDS.items():
        fields = [field.encode_name for field in msgspec.structs.fields(row)]
        assert [name for name in fields if name not in told[kind].replace(",", " ").split()] == [], kind
