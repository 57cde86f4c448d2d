"""The plain way to count hits: every line of whole logs, one after the other. What `event_log` is held to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

LONGEST = 64 * 1024


class Counted:
    """Times of the hits by name, and skipped lines by cause."""

    def __init__(self) -> None:
        self.hits: dict[bytes, list[int]] = {}
        self.skipped: Counter[str] = Counter()

    def rows(self, min_hits: int, ignored: tuple[bytes, ...] = ()) -> list[tuple[bytes, int, int, int]]:
        """Name, hits, first, last of the hot files, in the order of the rows."""
        hot = [
            (name, len(times), min(times), max(times))
            for name, times in self.hits.items()
            if len(times) >= min_hits and not any(name[: len(prefix)] == prefix for prefix in ignored)
        ]
        return sorted(hot, key=lambda row: (-row[1], row[0]))


def count(logs: Iterable[bytes], served_by: set[str], start: float, end: float, longest: int = LONGEST) -> Counted:
    """Counts the hits from ``start`` to ``end`` in these logs."""
    counted = Counted()
    for log in logs:
        lines = [_taken_apart(line, longest) for line in log.split(b"\n")[:-1]]
        moment = next((time for time, _, _ in lines if time is not None), None)
        for time, cause, fields in lines:
            moment = moment if time is None else time
            if moment is None or not start <= moment <= end:
                continue
            if cause:
                counted.skipped[cause] += 1
            elif _served_by(fields) in served_by:
                name = _name(fields[3])
                if name:
                    counted.hits.setdefault(name, []).append(moment)
                else:
                    counted.skipped["no_name"] += 1
    return counted


def _taken_apart(line: bytes, longest: int) -> tuple[int | None, str, list[bytes]]:
    """Time (None: has none), why it is skipped (or an empty text), fields; the fourth is all the rest."""
    if len(line) > longest:
        return None, "long", []
    if line.endswith(b"\r"):
        line = line[:-1]
    if not line.strip():
        return None, "blank", []
    fields = line.split(b",", 3)
    if len(fields) < 4:
        return None, "short", []
    if not (1 <= len(fields[2]) <= 19 and all(48 <= byte <= 57 for byte in fields[2])):
        return None, "no_time", []
    return int(fields[2]), "", fields


def _served_by(fields: list[bytes]) -> str | None:
    if fields[0] != b"0x40ffff":
        return None
    words = fields[3].split(b",")[0].split(b" ")
    if len(words) < 4 or words[0] != b"Server" or words[2] != b"Selected":
        return None
    return words[1].decode(errors="replace")


def _name(text: bytes) -> bytes:
    begin = text.find(b"file(")
    end = text.find(b")", begin)
    return text[begin + 5 : end] if begin >= 0 and end >= 0 else b""
