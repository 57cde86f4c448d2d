"""The demo's story as tables: the servers before and after, each file with its part, what was refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from cftools.model import names
from cftools.model.rows import Copy, Delete, End, Outcome, Row, Server
from cftools.report.tables import COLUMNS, cell, plain_table, show_rich


class View(NamedTuple):
    """The servers and the holders of each file at one moment."""

    servers: Mapping[str, Server]
    holders: Mapping[str, list[str]]


def view(servers: Mapping[str, Server], holdings: pl.DataFrame) -> View:
    """What an inventory shows of the destinations."""
    destinations = {name for name, row in servers.items() if row.role == "destination"}
    holders: dict[str, list[str]] = defaultdict(list)
    for server, name in holdings.select(pl.col("server").cast(pl.String), "name").iter_rows():
        if server in destinations:
            holders[name].append(server)
    return View(servers, holders)


def show(parts: Sequence[tuple[str, str]], before: View, rows: Sequence[Row], after: View, *, terminal: bool) -> None:
    """Prints the story. ``parts``: each file's name and the part it plays."""
    table = _table(terminal)
    columns = COLUMNS["server"]
    table("Before", columns, [[cell(one, getattr(row, one)) for one in columns] for row in before.servers.values()])
    happened = _happened(rows)
    changed: list[list[str]] = []
    stayed: dict[str, list[list[str]]] = {}
    for name, part in parts:
        was, now = before.holders.get(name, []), after.holders.get(name, [])
        line = [
            names.display(name),
            part,
            " ".join(was) or "-",
            " ".join(now) or "-",
            "; ".join(happened.get(name, [])),
        ]
        if happened.get(name):
            changed.append(line)
        else:
            stayed.setdefault(part, []).append(line)
    table("What was done", ("file", "its part", "before", "after", "what happened"), changed)
    calm = [[part, str(len(lines)), lines[0][0], lines[0][2]] for part, lines in stayed.items()]
    table("What stayed as it was", ("its part", "files", "for instance", "on"), calm)
    end = next((row for row in rows if isinstance(row, End)), None)
    if end is not None:
        refused = [[reason.split(": ")[0], reason.split(": ")[1], str(count)] for reason, count in end.refused.items()]
        table("Refused, and why", ("planner", "reason", "files"), refused)
    table("After", columns, [[cell(one, getattr(row, one)) for one in columns] for row in after.servers.values()])


def _happened(rows: Sequence[Row]) -> dict[str, list[str]]:
    planned: dict[tuple[str, str], Copy | Delete] = {}
    happened: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if isinstance(row, Copy):
            planned.setdefault((row.destination, row.name), row)
        elif isinstance(row, Delete):
            planned[row.server, row.name] = row
        elif isinstance(row, Outcome):
            happened[row.name].append(_sentence(row, planned.get((row.server, row.name))))
    return happened


def _sentence(outcome: Outcome, plan: Copy | Delete | None) -> str:
    ending = "" if outcome.state == "done" else f": {outcome.state}, {outcome.detail}"
    if isinstance(plan, Copy):
        return f"copied {plan.source} to {outcome.server} ({plan.reason}){ending}"
    if isinstance(plan, Delete):
        why = f"{plan.keeper} keeps it" if plan.keeper else f"rank {plan.rank}, disk too full"
        return f"deleted on {outcome.server} ({why}){ending}"
    return f"{outcome.verb} {outcome.server}{ending}"


def _table(terminal: bool) -> Callable[[str, tuple[str, ...], list[list[str]]], None]:
    def shown(title: str, columns: tuple[str, ...], cells: list[list[str]]) -> None:
        if terminal:
            show_rich(title, columns, cells)
        else:
            print(f"{title}\n{plain_table(columns, cells)}\n")

    return shown
