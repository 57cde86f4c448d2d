"""Writes a day's event log of any size, fast: the same seed gives the same bytes."""

from __future__ import annotations

import argparse
import random
from datetime import UTC, datetime
from pathlib import Path

DAY = 86_400
NAME_PATTERN = "EventLog[%Y%m%d].log"  # dates in UTC
MIDNIGHT = 1_527_984_000  # 2018-06-03 in UTC
WATCHED = "125.159.40.3"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
POOL = 1 << 14  # different line endings, of which each second takes its own choice


def write_day(directory: Path, size: int, midnight: int = MIDNIGHT, odd: bool = True, seed: int = 1) -> Path:
    """Writes the log of the day from ``midnight`` (epoch seconds), about ``size`` bytes; returns its path.

    A quarter of the lines are not found files, 3 in 10 of the others are served by `WATCHED`, the rest by others. With
    ``odd`` one line in some 20,000 is ``,`` or short.
    """
    chance = random.Random(seed)
    tails = _tails(chance)
    average = sum(map(len, tails)) / len(tails) + len("0x40ffff,1,1527984000,")
    path = directory / f"{datetime.fromtimestamp(midnight, UTC):{NAME_PATTERN}}"
    owed = 0.0
    with path.open("wb", buffering=1 << 20) as out:
        for second in range(midnight, midnight + DAY):
            owed += size / average / DAY
            heads = (f"0x40ffff,4,{second},", f"0x40ffff,1,{second},")
            chosen = chance.choices(tails, k=int(owed))
            out.write("".join([heads[tail[0] == "S"] + tail for tail in chosen]).encode())
            owed -= int(owed)
            if odd and chance.random() * 20_000 < len(chosen):
                out.write(chance.choice((b",\n", b"0x40ffff,1\n")))
    return path


def _tails(chance: random.Random) -> list[str]:
    """What follows the time in a line; a few names come much more often than the rest."""
    others = [f"125.144.{91 + number // 16}.{64 + number % 16}" for number in range(46)] + [WATCHED + "0"]
    names = [f"M{''.join(chance.choices(LETTERS, k=9))}SGL1500001_K20180602222428.mpg" for _ in range(6000)]
    popular = names[:40]
    tails = []
    for _ in range(POOL):
        name = chance.choice(popular if chance.random() < 0.1 else names)
        unique = f"{chance.getrandbits(32):08x}-96bd-498e-9d7e-{chance.getrandbits(48):012x}"
        if chance.random() < 0.25:
            tails.append(f"File Not Found, UUID : {unique}, GLB IP : 125.144.96.6, {name}\n")
            continue
        server = WATCHED if chance.random() < 0.3 else chance.choice(others)
        tails.append(
            f"Server {server} Selected for Client StreamID : {unique}, ClientID : 0, "
            f"GLB IP : 125.159.40.5's file({name}) Request\n"
        )
    return tails


def bytes_of(text: str) -> int:
    """The number of bytes that ``2GB``, ``500MB`` or a plain number stands for."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def main() -> None:
    """Writes one day's log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", type=bytes_of, default=bytes_of("2GB"))
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    print(write_day(given.directory, given.size, seed=given.seed))


if __name__ == "__main__":
    main()
