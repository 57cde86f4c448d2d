"""What stands on a server: its files, their sizes and times, and its disks, in one remote command.

The reply is a row of records, each closed by a NUL; the first character tells the kind:

    R<index>                       a root begins
    M<0|1>                         whether the mount marker stands in it (only when one is asked for)
    D<device> <size> <used> <free> its file system, bytes as df counts them
    F<size> <mtime> <name>         a file, name relative to the root
    P<size> <mtime> <name>         a part of an unfinished copy
    C<files> <status>              files counted by the server itself, and find's exit status
    X<text>                        the root cannot be listed
    .                              the end

Only a reply whose every root has its ``C`` record with status 0 and the number of ``F`` records that came, and which
ends in ``.``, is complete. Anything less says nothing about what is not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import polars as pl

from cftools.config.servers import ServerSettings
from cftools.model import names
from cftools.model.errors import InputUnusable
from cftools.model.frames import holdings_schema
from cftools.model.rows import Holding, Role, Server, ServerState
from cftools.pipe import Stream
from cftools.remote.pool import Fleet
from cftools.remote.transport import RemoteFault, Reply, Script, Transport

# find prints each file to fd 5 (stdout) and one byte for it to fd 3, which wc counts: a count the listing did not pass
# through. -ignore_readdir_race: a file that goes away while find looks is no error; it is just not there.
LISTING = r"""
LC_ALL=C; export LC_ALL
marker=$1; shift
exec 5>&1
index=0
for root in "$@"; do
  printf 'R%s\0' "$index"; index=$((index + 1))
  if ! cd -- "$root" 2>/dev/null; then printf 'X%s: not a folder that can be entered\0' "$root"; continue; fi
  if [ -n "$marker" ]; then if [ -e "$marker" ]; then printf 'M1\0'; else printf 'M0\0'; fi; fi
  disk=$(df -B1 --output=size,used,avail .) && device=$(stat -c %d .) ||
    { printf 'X%s: df failed\0' "$root"; continue; }
  set -- $disk  # three words of heading, then the numbers
  printf 'D%s %s %s %s\0' "$device" "$4" "$5" "$6"
  counted=$({ { find . -ignore_readdir_race -path ./lost+found -prune -o -type f \
      \( -path './.cftools-part-*/*' -printf 'P%s %T@ %P\0' -o -path './.cftools-*' \
         -o -printf 'F%s %T@ %P\0' -fprintf /dev/fd/3 x \) >&5
      printf '%s\n' "$?" >&4; } 3>&1 | wc -c; } 4>&1)
  set -- $counted
  printf 'C%s %s\0' "$2" "$1"
done
printf '.\0'
"""


ROWS = (Server, Holding)  # the kinds of rows an inventory is made of


class Partial(NamedTuple):
    """A part of an unfinished copy. ``path`` is relative to the root; ``mtime`` epoch seconds."""

    path: str
    size: int
    mtime: int


class Listing(NamedTuple):
    """What one server holds. ``holdings`` is empty unless ``server.state`` is ok: a part of a listing is no listing.

    ``marked`` tells whether the mount marker stands in every root; None when none was asked for or it is unknown.
    """

    server: Server
    holdings: pl.DataFrame
    partials: tuple[Partial, ...] = ()
    marked: bool | None = None


class _Incomplete(Exception):
    """The reply is not whole; the text tells how."""


def script(settings: ServerSettings, marker: str) -> Script:
    """The remote command that lists every root of a server."""
    return Script("inventory", LISTING, (marker.encode(), *(root.encode() for root in settings.roots)))


def look(transport: Transport, settings: ServerSettings, marker: str, all_names: list[str]) -> Listing:
    """Lists one server; a server that cannot be listed comes back with another state than ok.

    ``all_names`` are the names of all servers, the type of the frame's server column.
    """
    empty = pl.DataFrame(schema=holdings_schema(all_names))
    try:
        reply = transport.call(script(settings, marker), repeatable=True)
    except RemoteFault as fault:
        state: ServerState = (
            "unreachable" if fault.kind == "unreachable" else "refused" if fault.kind == "refused" else "incomplete"
        )
        return Listing(_server(settings, state=state, error=fault.detail), empty)
    try:
        return parse(reply, settings, all_names)
    except _Incomplete as fault:
        return Listing(_server(settings, state="incomplete", error=str(fault)), empty)


def parse(reply: Reply, settings: ServerSettings, all_names: list[str]) -> Listing:
    """The listing in a reply. Raises _Incomplete when the reply does not prove that it is whole."""
    try:
        return _parse(reply, settings, all_names)
    except (ValueError, IndexError) as fault:  # a number that is none, a root too many
        raise _Incomplete(f"the listing cannot be understood: {fault}") from fault


def _parse(reply: Reply, settings: ServerSettings, all_names: list[str]) -> Listing:
    if not reply.out.endswith(b".\0") or reply.status != 0:
        raise _Incomplete(
            f"the listing was cut off ({reply.complaint()})" if reply.status else "the listing was cut off"
        )
    records = pl.DataFrame({"record": pl.Series([names.text_from_bytes(reply.out)]).str.split("\0").explode()})
    records = records.with_columns(kind=pl.col("record").str.slice(0, 1), text=pl.col("record").str.slice(1))
    others = records.with_row_index().filter(~pl.col("kind").is_in(["F", ""])).select("index", "kind", "text")
    disks: dict[str, tuple[int, int, int]] = {}
    measured = -1  # the root whose disk came last
    marks: list[str] = []
    partials: list[Partial] = []
    frames: list[pl.DataFrame] = []
    root, start, counted = -1, 0, True
    for place, kind, text in others.iter_rows():
        if kind in "R." and not counted:
            raise _Incomplete(f"root {settings.roots[root]} was not listed to its end")
        if kind == "R" and int(text) == len(frames):
            root, start, counted = len(frames), place + 1, False
        elif kind == "X":
            raise _Incomplete(text)
        elif kind == "M":
            marks.append(text)
        elif kind == "D":
            device, *numbers = text.split(" ")
            size, used, available = map(int, numbers)
            disks[device], measured = (size, used, available), root
        elif kind == "P":
            length, mtime, path = text.split(" ", 2)
            partials.append(Partial(path, int(length), int(float(mtime))))
        elif kind == "C" and not counted and measured == root:
            counted = True
            found = records.slice(start, place - start).filter(pl.col("kind") == "F")
            _check_count(text, found.height, settings.roots[root], reply)
            frames.append(_holdings(found, settings.name, root, all_names))
        elif kind != ".":  # what a login shell's start-up files print, for one
            raise _Incomplete(f"the listing cannot be understood: {(kind + text)[:80]!r}")
    if len(frames) != len(settings.roots):
        raise _Incomplete(f"{len(frames)} of {len(settings.roots)} roots were listed")
    holdings = pl.concat(frames)
    marked = None if not marks else all(mark == "1" for mark in marks)
    return Listing(
        _with_disk(settings, disks, holdings, sum(part.size for part in partials)), holdings, tuple(partials), marked
    )


def _check_count(text: str, arrived: int, root: str, reply: Reply) -> None:
    counted, _, status = text.partition(" ")
    if status != "0":
        raise _Incomplete(f"find had errors below {root}: {reply.complaint()}")
    if int(counted) != arrived:
        raise _Incomplete(f"{counted} files were counted below {root}, {arrived} arrived")


def _holdings(found: pl.DataFrame, server: str, root: int, all_names: list[str]) -> pl.DataFrame:
    parts = pl.col("text").str.splitn(" ", 3).struct
    return found.select(
        pl.lit(server).cast(pl.Enum(all_names)).alias("server"),
        pl.lit(root, pl.UInt16).alias("root"),
        parts.field("field_2").alias("name"),
        parts.field("field_0").cast(pl.Int64).alias("size"),
        parts.field("field_1").str.extract(r"^(-?\d+)").cast(pl.Int64).alias("mtime"),
    )


def _with_disk(
    settings: ServerSettings, disks: dict[str, tuple[int, int, int]], holdings: pl.DataFrame, arriving: int
) -> Server:
    total, used, available = (sum(disk[part] for disk in disks.values()) for part in range(3))
    if settings.capacity is not None:
        total, used = int(settings.capacity), int(holdings["size"].sum()) + arriving
        available = max(0, total - used)
    return msgspec.structs.replace(
        _server(settings, state="ok"),
        files=holdings.height,
        total=total,
        used=used,
        available=available,
        used_percent=used_percent(used, available),
    )


def used_percent(used: int, available: int) -> int:
    """What df prints: used / (used + available) in percent, rounded up."""
    return -(-100 * used // (used + available)) if used + available else 0


def _server(settings: ServerSettings, *, state: ServerState, error: str = "") -> Server:
    # Not by msgspec.convert: listings come from threads, and its first use in several at once crashes the process.
    role: Role = "source" if settings.role == "source" else "destination"
    return Server(settings.name, role, settings.address, state, error=error)


class Inventory(NamedTuple):
    """What all servers hold. ``holdings`` has the rows of the servers whose state is ok, and no others.

    ``at``: when it was taken, epoch seconds; ``live``: by this process, just now.
    """

    servers: dict[str, Server]
    holdings: pl.DataFrame
    partials: dict[str, tuple[Partial, ...]]
    marked: dict[str, bool | None]
    at: float
    live: bool


def take(fleet: Fleet, wanted: list[ServerSettings], marker: str, now: float) -> Inventory:
    """Lists these servers side by side. Every server has a row, also one that could not be listed."""
    all_names = list(fleet.servers)
    by_name = {settings.name: settings for settings in wanted}
    found = fleet.each(by_name, lambda transport: look(transport, by_name[transport.server], marker, all_names))
    listings = {name: listing for name, listing in found.items() if isinstance(listing, Listing)}
    return Inventory(
        {name: listing.server for name, listing in listings.items()},
        pl.concat([pl.DataFrame(schema=holdings_schema(all_names)), *(one.holdings for one in listings.values())]),
        {name: listing.partials for name, listing in listings.items()},
        {name: listing.marked for name, listing in listings.items()},
        now,
        live=True,
    )


def from_rows(stream: Stream, path: str, settings: list[ServerSettings]) -> Inventory:
    """The inventory in a stream of `server` and `holding` rows. Rows of servers that are not configured are left out.

    Raises InputUnusable when a server's holdings are not as many as its row says, or a path lies in none of its roots.
    """
    by_name = {one.name: one for one in settings}
    servers = {row.server: row for row in stream.rows if isinstance(row, Server) and row.server in by_name}
    listed = {name for name, row in servers.items() if row.state == "ok"}
    columns: dict[str, list[object]] = {name: [] for name in ("server", "root", "name", "size", "mtime")}
    seen: Counter[str] = Counter()
    for row in stream.rows:
        if not isinstance(row, Holding) or row.server not in listed:
            continue
        seen[row.server] += 1
        roots = by_name[row.server].roots
        root = next((place for place, root in enumerate(roots) if row.path == f"{root}/{row.name}"), None)
        if root is None:
            raise InputUnusable(
                path, f"{row.path} of {row.server} lies in none of its roots", "was the config changed?"
            )
        for name, value in zip(columns, (row.server, root, row.name, row.size, row.mtime), strict=True):
            columns[name].append(value)
    for name in listed:
        if seen[name] != servers[name].files:
            raise InputUnusable(path, f"{name} has {servers[name].files} files, {seen[name]} holding rows came")
    frame = pl.DataFrame(columns, schema=holdings_schema([one.name for one in settings]))
    return Inventory(servers, frame, {}, {}, stream.begin.at if stream.begin else 0.0, live=False)


def holding_rows(inventory: Inventory, settings: dict[str, ServerSettings]) -> Iterator[Holding]:
    """The `holding` rows of an inventory, server by server."""
    for server, root, name, size, mtime in inventory.holdings.iter_rows():
        yield Holding(server, name, f"{settings[server].roots[root]}/{name}", size, mtime)
