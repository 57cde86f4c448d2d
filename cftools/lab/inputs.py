"""The inputs of the demo node: hit counts, grades and event logs, with the oddities real ones have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import UUID

from cftools.lab.cast import DESTINATIONS, SOURCES, CastFile

DAY = 86400
HOT_SECONDS = 290  # the latest hits lie this close together, so that they stay in the window while a demo runs
NOISE_EVERY = 40
STRANGER = "198.51.100.7"  # an address no server of the node has
CLIENT = "203.0.113.6"


def write(directory: Path, files: tuple[CastFile, ...], now: float, addresses: Mapping[str, str], seed: int) -> None:
    """Writes hitcount.history, grade.info and lb_log/ below ``directory``; ``addresses`` of the servers by name."""
    logs = directory / "lb_log"
    logs.mkdir(parents=True)
    known = tuple(file for file in files if file.rank)
    (directory / "hitcount.history").write_text("".join(_history(known, now, addresses)))
    (directory / "grade.info").write_text("".join(_grades(known)))
    days: dict[str, list[str]] = {}
    for second, line in sorted(_log(files, int(now), addresses, Random(f"log {seed}"))):
        days.setdefault(f"{datetime.fromtimestamp(second, UTC):%Y%m%d}", []).append(line)
    for day, lines in days.items():
        (logs / f"EventLog[{day}].log").write_text("".join(lines))


def _history(known: tuple[CastFile, ...], now: float, addresses: Mapping[str, str]) -> Iterator[str]:
    yield f"historyheader:{int(now) - 60}\n"
    by_name = sorted(known, key=lambda file: file.name)
    for position, file in enumerate(by_name):
        holders = [addresses[name] for name in file.told]
        if position % 9 == 0:
            holders.insert(0, STRANGER)
        registered = int(now) - file.registered_days * DAY
        if position == 3:  # repeated: the last line counts
            yield f"{file.name},{registered},0,1,,0,0,0,1=0\n"
        if position == 7:
            yield "\nCUT_SHORT.mpg,1508301143,6399785\n"
        yield f"{file.name},{registered},6399785,{file.size},{' '.join(holders)},1,0,0,1={file.hits} {file.old_hits}\n"


def _grades(known: tuple[CastFile, ...]) -> Iterator[str]:
    yield "filename\tweightcount\tbitrate\tgrade\tsumHitCount\thistoryCount\tTargetCopyCount\n"
    for file in known:
        if file.rank == 10:
            yield "\n"
        yield f"{file.name}\t{10_000 - file.rank}\t6399785\t{1 + file.rank // 20}\t{file.hits}\t1\t1\n"


def _log(
    files: tuple[CastFile, ...], now: int, addresses: Mapping[str, str], random: Random
) -> Iterator[tuple[int, str]]:
    watched, others = addresses[SOURCES[0]], [addresses[name] for name in DESTINATIONS]
    for file in files:
        for hit in range(file.hits):
            second = now - 5 - HOT_SECONDS * hit // file.hits
            yield second, _hit(second, watched, file.name, random)
        for hit in range(file.old_hits):
            second = now - 3600 - 20 * hit
            yield second, _hit(second, watched, file.name, random)
    # From midnight to the end, so that the logs of both days are there even when the second has only begun.
    for second in range(now - now % DAY - DAY, now + 1, NOISE_EVERY):
        name = random.choice(files).name
        if random.random() < 0.1:
            yield second, f"0x40ffff,4,{second},File Not Found, UUID : {_uuid(random)}, GLB IP : {CLIENT}, {name}\n"
        else:  # near the end by other servers only, lest chance makes a file hot
            server = random.choice(others if now - second < 3600 else [watched, *others])
            yield second, _hit(second, server, name, random)
    yield now - now % DAY - 3600, ",\n"


def _hit(second: int, server: str, name: str, random: Random) -> str:
    return (
        f"0x40ffff,1,{second},Server {server} Selected for Client StreamID : {_uuid(random)}, ClientID : 0, "
        f"GLB IP : {CLIENT}'s file({name}) Request\n"
    )


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)
