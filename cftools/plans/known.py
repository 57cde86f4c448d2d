"""Which files are known, ignored, unsafe, on the origin: the questions that all planners ask.

Millions of names are compared by a 64-bit hash, which is three times as fast as comparing text; every hit is then
verified by the text itself, so that two names with one hash cannot be taken for one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import polars as pl

from cftools.model import names, rows
from cftools.model.addresses import address_key
from cftools.plans.values import Node, PlanServer

IS_KNOWN = ((pl.col("rank") > 0) & (pl.col("size") > 0)).fill_null(False)


class Sieve:
    """Candidates on their way through one exclusion after another; each exclusion counts what it takes out.

    ``frame`` holds those that are left, ``refused`` the counts by reason, ``by_server`` the same for each server when
    the frame has a column ``server``.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self.refused: Counter[str] = Counter()
        self.by_server: dict[str, Counter[str]] = {}

    def refuse(self, reason: str, where: pl.Expr | pl.Series) -> None:
        """Takes out the rows ``where`` is true."""
        mask = (self.frame.select(where=where) if isinstance(where, pl.Expr) else where.to_frame("where"))["where"]
        mask = mask.fill_null(False)
        if not mask.any():
            return
        out = self.frame.filter(mask)
        self.count(reason, out)
        self.frame = self.frame.filter(~mask)

    def count(self, reason: str, out: pl.DataFrame) -> None:
        """Counts the rows of ``out`` without touching ``frame``."""
        if not out.height:
            return
        self.refused[reason] += out.height
        if "server" in out.columns:
            for server, count in out.group_by("server").len().iter_rows():
                self.by_server.setdefault(server, Counter())[reason] += count


def key(*columns: str) -> pl.Expr:
    """A 64-bit hash of the name and of ``columns``."""
    value = pl.col("name").hash()
    for seed, column in enumerate(columns, 1):
        value = value ^ pl.col(column).to_physical().hash(seed)
    return value.alias("key")


def match(left: pl.DataFrame, right: pl.DataFrame, *also: str) -> pl.DataFrame:
    """The rows of ``left`` beside those of ``right`` with the same name and the same columns ``also``, in any order.

    Columns that both have are ``right``'s with the suffix ``_right``.
    """
    joined = left.with_columns(key(*also)).join(right.with_columns(key(*also)), on="key", how="inner")
    same = [pl.col(column) == pl.col(f"{column}_right") for column in ("name", *also)]
    return joined.filter(*same).drop("key")


def found(left: pl.DataFrame, right: pl.DataFrame, *also: str) -> pl.Series:
    """A Boolean for each row of ``left``: whether ``right`` has a row with the same name and columns ``also``."""
    numbered = left.select("name", *also).with_row_index("row")
    mask = pl.Series("found", [False]).new_from_index(0, left.height)
    return mask.scatter(match(numbered, right.select("name", *also), *also)["row"], True)


def names_frame(some: Iterable[str]) -> pl.DataFrame:
    """A frame of these names."""
    return pl.DataFrame({"name": list(some)}, schema={"name": pl.String})


def hot_frame(hot: Mapping[str, int]) -> pl.DataFrame:
    """A frame of hot names and their hits."""
    schema: dict[str, type[pl.DataType]] = {"name": pl.String, "hits": pl.Int64}
    return pl.DataFrame({"name": list(hot), "hits": list(hot.values())}, schema=schema)


def ignored(prefixes: Sequence[str]) -> pl.Expr:
    """Whether a name begins with one of ``prefixes``."""
    return pl.any_horizontal(pl.lit(False), *(pl.col("name").str.starts_with(prefix) for prefix in prefixes))


def unsafe(candidates: pl.DataFrame) -> pl.Series:
    """A Boolean for each row: whether `cftools.model.names.unsafe` refuses its name."""
    name = pl.col("name").str
    fits = name.len_bytes().is_between(1, names.LONGEST_COMPONENT)
    flat = ~(name.starts_with(".") | name.contains("/", literal=True) | name.contains("\0", literal=True))
    # Only names with one of these marks can be unsafe; the few are then judged one by one.
    odd = candidates.select("name").with_row_index("row").filter(~(fits & flat))
    odd = odd.filter(~fits | name.contains(r"^[./]|//|/\.|/$|\x00"))
    bad = [row for row, text in odd.iter_rows() if names.unsafe(text)]
    mask = pl.Series("unsafe", [False]).new_from_index(0, candidates.height)
    return mask.scatter(bad, True)


def of_servers(holdings: pl.DataFrame, servers: Iterable[PlanServer]) -> pl.DataFrame:
    """The holdings on these servers."""
    kind = holdings.schema["server"]
    listed = set(kind.categories) if isinstance(kind, pl.Enum) else set()
    wanted = pl.Series([server.name for server in servers if server.name in listed], dtype=kind)
    return holdings.filter(pl.col("server").to_physical().is_in(wanted.to_physical().implode()))


def on_origin(node: Node, candidates: pl.DataFrame) -> pl.Series:
    """A Boolean for each row of name and expected size: whether a listed source has it with that size."""
    listed = of_servers(node.holdings, (source for source in node.sources if source.listed))
    return found(candidates, listed, "size")


def not_on_origin(node: Node) -> str:
    """The reason for a file that no listed source has: only when every source was listed, the origin lacks it."""
    return "origin-lacks" if all(source.listed for source in node.sources) else "origin-unknown"


def holder_servers(node: Node) -> pl.DataFrame:
    """The configured destinations as holders: columns holder (as in ``files``) and server (as in ``holdings``)."""
    kind = node.files.schema["holders"]
    holder = kind.inner if isinstance(kind, pl.List) else None
    addresses = list(holder.categories) if isinstance(holder, pl.Enum) else []
    by_address = {address_key(server.address): server for server in node.destinations}
    known = [(address, by_address.get(address_key(address))) for address in addresses]
    pairs = [(address, server) for address, server in known if server is not None]
    return pl.DataFrame(
        {
            "holder": pl.Series([address for address, _ in pairs], dtype=holder),
            "server": pl.Series([server.name for _, server in pairs], dtype=node.holdings.schema["server"]),
        }
    )


def still_there(holdings: pl.DataFrame, listed: Collection[str], deletes: Sequence[rows.Delete]) -> list[rows.Delete]:
    """The rows that may delete something: all but those whose server was listed and has no such file.

    A stale history asks for the same deletions again; guards that counted those would refuse harmless plans.
    ``listed``: names of servers whose listing in ``holdings`` is complete.
    """
    judged = [row for row in deletes if row.server in listed]
    wanted = pl.DataFrame(
        {
            "name": pl.Series([row.name for row in judged], dtype=pl.String),
            "server": pl.Series([row.server for row in judged], dtype=holdings.schema["server"]),
        }
    )
    seen = iter(found(wanted, holdings, "server"))
    return [row for row in deletes if row.server not in listed or next(seen)]


def why_empty(what: str, refused: Mapping[str, int]) -> str:
    """One line that tells why a plan has no rows."""
    if not refused:
        return f"no {what}: there is no candidate"
    return f"no {what}: " + reasons_text(refused)


def reasons_text(refused: Mapping[str, int]) -> str:
    """Counts by reason, the largest first: ``hot 12, young 3``."""
    ordered = sorted(refused.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)
