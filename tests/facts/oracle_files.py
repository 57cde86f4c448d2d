"""An independent parse-history: one line after the other, on bytes, as plainly as it can be written."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address
from typing import Any, NamedTuple

LONGEST = 65536
LARGEST = 9223372036854775807


class Answer(NamedTuple):
    """What the facts must say; ``rows`` hold names as bytes."""

    rows: list[dict[str, Any]]
    skipped: dict[str, int]
    generation: int
    faults: tuple[str, str]


def answer(history: bytes, grades: bytes, addresses: list[str]) -> Answer:
    """Joins the two inputs."""
    skipped: Counter[str] = Counter()
    held, generation, history_fault = read_history(history, addresses, skipped)
    ranks, grades_fault = read_grades(grades, skipped)
    rows = []
    for name, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if name in held:
            rows.append({"name": name, "rank": rank, **held[name]})
        else:
            skipped["grades_without_history"] += 1
    skipped["history_without_grade"] = sum(name not in ranks for name in held)
    return Answer(rows, {k: v for k, v in skipped.items() if v}, generation, (history_fault, grades_fault))


def split(content: bytes, kind: str, skipped: Counter[str]) -> tuple[list[bytes], list[str]]:
    """The terminated lines, still with their carriage return; faults."""
    lines = content.split(b"\n")
    faults = []
    if lines.pop() != b"":
        skipped[f"{kind}_unterminated"] += 1
        faults.append("the last line has no newline")
    return lines, faults


def without_return(line: bytes, kind: str, skipped: Counter[str]) -> bytes:
    """The line without one carriage return at its end."""
    if line.endswith(b"\r"):
        skipped[f"{kind}_crlf"] += 1
        return line[:-1]
    return line


def number(text: bytes) -> int | None:
    """1 to 19 ASCII digits up to 2^63 - 1, else None."""
    if not 1 <= len(text) <= 19 or any(byte not in b"0123456789" for byte in text):
        return None
    value = int(text)
    return value if value <= LARGEST else None


def read_history(
    content: bytes, addresses: list[str], skipped: Counter[str]
) -> tuple[dict[bytes, dict[str, Any]], int, str]:
    """What is known of each name, the generation, the fault."""
    lines, faults = split(content, "history", skipped)
    generation = None
    if lines and len(lines[0]) <= LONGEST:
        first = lines[0][:-1] if lines[0].endswith(b"\r") else lines[0]
        if first.startswith(b"historyheader:"):
            generation = number(first[len(b"historyheader:") :])
    if generation is None:
        faults.insert(0, "no header line")
    else:
        without_return(lines.pop(0), "history", skipped)
    held: dict[bytes, dict[str, Any]] = {}
    for whole in lines:
        if len(whole) > LONGEST:
            skipped["history_long"] += 1
            continue
        line = without_return(whole, "history", skipped)
        fields = line.split(b",")
        if not line.strip(b" \t\r\v\f"):
            skipped["history_blank"] += 1
            continue
        if len(fields) < 5:
            skipped["history_short"] += 1
            continue
        name, registered, bitrate, size, listed = fields[:5]
        if not name:
            skipped["history_no_name"] += 1
        elif number(size) is None:
            skipped["history_bad_size"] += 1
        elif number(registered) is None:
            skipped["history_bad_registered"] += 1
        elif number(bitrate) is None:
            skipped["history_bad_bitrate"] += 1
        else:
            if name in held:
                skipped["history_repeated"] += 1
            found = {address for address in listed.split(b" ") if address}
            known = [address for address in addresses if address.encode() in found]
            held[name] = {
                "size": number(size),
                "bitrate": number(bitrate),
                "registered": number(registered),
                "holders": sorted(known, key=lambda address: (ip_address(address).version, ip_address(address))),
                "unknown_holders": len(found) - len(known),
            }
    return held, generation or 0, "; ".join(faults)


def read_grades(content: bytes, skipped: Counter[str]) -> tuple[dict[bytes, int], str]:
    """The rank of each name, the fault."""
    lines, faults = split(content, "grades", skipped)
    first = lines[0] if lines else b""
    if len(first) <= LONGEST and first.removesuffix(b"\r").split(b"\t")[0] == b"filename":
        without_return(lines.pop(0), "grades", skipped)
    else:
        faults.insert(0, "no header line")
    ranks: dict[bytes, int] = {}
    place = 0
    for whole in lines:
        if len(whole) > LONGEST:
            place += 1
            skipped["grades_long"] += 1
            continue
        line = without_return(whole, "grades", skipped)
        if not line.strip(b" \t\r\v\f"):
            skipped["grades_blank"] += 1
            continue
        place += 1
        name = line.split(b"\t")[0]
        if not name:
            skipped["grades_no_name"] += 1
            continue
        if name in ranks:
            skipped["grades_repeated"] += 1
        ranks[name] = place
    return ranks, "; ".join(faults)
