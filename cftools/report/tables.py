"""Rows as tables: rich on a terminal when there are few, tabulate otherwise."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from cftools.config.units import show_size
from cftools.model import names
from cftools.model.rows import Begin, End, Row

RICH_ROWS = 400  # rich lays out every cell twice; beyond this tabulate is ten times as fast
NUMBERS = frozenset(
    {
        "rank",
        "size",
        "resources",
        "done",
        "already",
        "failed",
        "waiting",
        "retrying",
        "dead",
        "attempts",
        "hits",
        "milliseconds",
        "files",
        "total",
        "used",
        "available",
        "used_percent",
        "port",
    }
)
LONG = frozenset(
    {
        "resource",
        "request",
        "name",
        "detail",
        "error",
        "holders",
        "reason",
        "file",
        "its part",
        "what happened",
        "for instance",
    }
)
COLUMNS: dict[str, tuple[str, ...]] = {
    "file": ("rank", "name", "size", "holders", "unknown_holders"),
    "hot": ("hits", "name", "first", "last"),
    "holding": ("server", "name", "size", "mtime"),
    "server": ("server", "role", "address", "state", "files", "used", "available", "used_percent", "error"),
    "heartbeat": ("server", "role", "ok", "milliseconds", "error"),
    "copy": ("name", "size", "source", "destination", "reason"),
    "delete": ("server", "name", "size", "reason", "keeper", "rank"),
    "outcome": ("verb", "server", "name", "size", "state", "detail", "milliseconds"),
    "request": ("request", "target", "resources", "duplicate"),
    "refused_request": ("origin", "request", "target", "reason"),
    "partition": ("request", "target", "server", "resources", "done", "already", "failed", "waiting", "detail"),
    "request_status": (
        *("request", "target", "state", "resources", "done", "already", "waiting", "retrying", "dead"),
        *("accepted", "finished", "expected_end"),
    ),
    "place_status": ("target", "server", "waiting", "retrying", "dead", "oldest", "paused_until", "error"),
    "dead_letter": ("request", "server", "resource", "attempts", "error", "at"),
    "host_key": ("server", "address", "port", "type", "fingerprint", "state", "error"),
}
TITLES = {
    "file": "Files",
    "hot": "Hot files",
    "holding": "Holdings",
    "server": "Servers",
    "heartbeat": "Heartbeats",
    "copy": "Copies planned",
    "delete": "Deletions planned",
    "outcome": "What was done",
    "host_key": "Host keys",
    "request": "Requests accepted",
    "refused_request": "Requests refused",
    "partition": "Calls",
    "request_status": "Requests",
    "place_status": "Servers",
    "dead_letter": "Dead letters",
}
COLOURS = {"done": "green", "ok": "green", "already": "cyan", "skipped": "yellow", "refused": "yellow", "failed": "red"}
COLOURS |= {"unreachable": "red", "incomplete": "red", "no": "red", "yes": "green"}
COLOURS |= {"known": "green", "added": "cyan", "replaced": "cyan", "new": "yellow", "changed": "red", "revoked": "red"}


def _time(value: Any) -> str:
    return datetime.fromtimestamp(value).strftime("%Y-%m-%d %H:%M:%S") if value else ""


SHOWN: dict[str, Callable[[Any], str]] = {
    "size": show_size,
    "total": show_size,
    "used": show_size,
    "available": show_size,
    "used_percent": lambda value: f"{value} %",
    "files": lambda value: "?" if value < 0 else f"{value:,}",
    "mtime": _time,
    "first": _time,
    "last": _time,
    "ok": lambda value: "yes" if value else "no",
    **dict.fromkeys(("accepted", "finished", "expected_end", "oldest", "paused_until", "at"), _time),
    **dict.fromkeys(("resources", "done", "already", "failed", "waiting", "retrying", "dead"), "{:,}".format),
    "duplicate": lambda value: "yes" if value else "no",
    "resource": names.display,
    "holders": " ".join,
    "name": names.display,
}


def cell(column: str, value: Any) -> str:
    """One value as people read it."""
    return SHOWN.get(column, str)(value)


class Tables:
    """Collects rows and shows one table a kind, in the order in which the kinds first came."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._rows: dict[str, list[Row]] = {}
        self._end: End | None = None
        self._is_stream = False

    def add(self, row: Row) -> None:
        """Takes a row in."""
        if isinstance(row, End):
            self._end = row
        elif isinstance(row, Begin):
            self._is_stream = True
        else:
            self._rows.setdefault(str(row.__struct_config__.tag), []).append(row)

    def show(self) -> None:
        """Prints the tables and what the end row counts."""
        for kind, rows in self._rows.items():
            cells = [[cell(column, getattr(row, column)) for column in COLUMNS[kind]] for row in rows]
            if self._terminal and len(rows) <= RICH_ROWS:
                show_rich(TITLES[kind], COLUMNS[kind], cells)
            else:
                print(plain_table(COLUMNS[kind], cells))
        for line in closing_lines(self._end) if self._is_stream else []:
            print(line)


def plain_table(columns: tuple[str, ...], cells: list[list[str]]) -> str:
    """A table for pipes and files."""
    from tabulate import tabulate

    align = ["right" if column in NUMBERS else "left" for column in columns]
    return tabulate(cells, headers=list(columns), tablefmt="plain", disable_numparse=True, colalign=align)


def show_rich(title: str, columns: tuple[str, ...], cells: list[list[str]]) -> None:
    """A table on a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in NUMBERS else "left"
        table.add_column(column.replace("_", " "), justify=justify, overflow="fold", no_wrap=column not in LONG)
    for row in cells:
        table.add_row(*(Text(value, style=COLOURS.get(value, "")) for value in row))
    console = Console()
    console.print(table)
    console.print()


def closing_lines(end: End | None) -> list[str]:
    """What the end row says, one line each for counts, refusals and skipped lines."""
    if end is None:
        return ["not finished"]
    lines = []
    for title, counts in (("", end.counts), ("refused: ", end.refused), ("skipped lines: ", end.skipped)):
        if counts:
            lines.append(title + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if not end.complete:
        lines.append("incomplete: an input was not whole")
    return lines
