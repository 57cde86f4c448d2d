"""The opponent of the benchmark: parse-history as a plain loop over the standard library's csv module."""

from __future__ import annotations

import csv
import json
import sys
from ipaddress import ip_address
from pathlib import Path


def main(history: str, grades: str, addresses: str) -> None:
    """Writes the `file` rows of both inputs; ``addresses`` are the destinations', apart by commas."""
    csv.field_size_limit(1 << 30)
    order = {address: place for place, address in enumerate(sorted(addresses.split(","), key=ip_address))}
    ranks: dict[str, int] = {}
    with Path(grades).open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        lines = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(lines)
        for rank, line in enumerate(filter(None, lines), 1):
            ranks[line[0]] = rank
    held: dict[str, list[str]] = {}
    with Path(history).open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        lines = csv.reader(stream, quoting=csv.QUOTE_NONE)
        next(lines)
        for line in lines:
            if len(line) >= 5:
                held[line[0]] = line
    for name, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if name in held:
            listed = set(held[name][4].split())
            row = {
                "kind": "file",
                "name": name,
                "rank": rank,
                "size": int(held[name][3]),
                "bitrate": int(held[name][2]),
                "registered": int(held[name][1]),
                "holders": sorted(listed & order.keys(), key=order.__getitem__),
                "unknown_holders": len(listed - order.keys()),
            }
            sys.stdout.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
