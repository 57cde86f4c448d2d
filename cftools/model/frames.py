"""The columnar frames in which millions of facts travel, and their columns.

``FILES`` one row a file of the joined inputs (the `File` row), best rank first:
    name String, rank Int64, size Int64, bitrate Int64, registered Int64,
    holders List(Enum(destination addresses in numeric order)), unknown_holders Int64
``HOLDINGS`` one row a file seen alive on a server (the `Holding` row without its path):
    server Enum(server names), root UInt16 (position in that server's roots), name String, size Int64, mtime Int64
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from cftools.model.addresses import address_key


def holder_type(addresses: Sequence[str]) -> pl.Enum:
    """The type of one holder: an Enum of the destination addresses, whose order is the numeric one."""
    return pl.Enum(sorted(set(addresses), key=address_key))


def files_schema(addresses: Sequence[str]) -> dict[str, pl.DataType | type[pl.DataType]]:
    """The columns of a files frame for destinations with these addresses."""
    return {
        "name": pl.String,
        "rank": pl.Int64,
        "size": pl.Int64,
        "bitrate": pl.Int64,
        "registered": pl.Int64,
        "holders": pl.List(holder_type(addresses)),
        "unknown_holders": pl.Int64,
    }


def holdings_schema(servers: Sequence[str]) -> dict[str, pl.DataType | type[pl.DataType]]:
    """The columns of a holdings frame for servers with these names."""
    return {
        "server": pl.Enum(list(servers)),
        "root": pl.UInt16,
        "name": pl.String,
        "size": pl.Int64,
        "mtime": pl.Int64,
    }
