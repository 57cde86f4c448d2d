"""Event logs full of oddities, from a seed."""

from __future__ import annotations

from datetime import datetime, tzinfo
from random import Random

MIDNIGHT = 1_527_984_000  # 2018-06-03 in UTC
WATCHED = "125.159.40.3"
ADDRESSES = [WATCHED] * 6 + ["125.159.40.30", "25.159.40.3", "125.159.40.4", "125x159.40.3", "", "2001:db8::3"]
NAMES = [
    b"MZ3I5008SGL1500001_K20180602222428.mpg",
    b"M64AD-1.mpg",
    b"MN1.mpg",
    b"with-dash.mpg",
    b"with space .mpg",
    b"with,comma,1527951607,.mpg",
    b"with(paren.mpg",
    b"with file(inside.mpg",
    b"with\rreturn.mpg",
    b"\xff\xfe not utf-8 \xed\xa0\x80.mpg",
    "한글.mpg".encode(),
    "\uf7ff mark.mpg".encode(),
    b"x,Server 125.159.40.3 Selected y.mpg",
    b"quote\"'.mpg",
    b"\x00",
]
PLAIN = "%b,1,%d,Server %b Selected for Client StreamID : 609d8714, ClientID : 0, GLB IP : 1.2.3.4's file(%b) Request"


def line(moment: int, name: bytes = NAMES[0], address: str = WATCHED, event: bytes = b"0x40ffff") -> bytes:
    """A line in the usual shape, with its newline."""
    return PLAIN.encode() % (event, moment, address.encode(), name) + b"\n"


def day_log(size: int, midnight: int = MIDNIGHT) -> bytes:
    """About ``size`` bytes of hits, evenly over one day."""
    count = size // len(line(midnight))
    return b"".join(
        line(midnight + number * 86_400 // count, b"file%d.mpg" % (number % 700)) for number in range(count)
    )


def odd_line(moment: int, chance: Random, longest: int) -> bytes:
    """One of the oddities that logs may hold."""
    address = chance.choice(ADDRESSES).encode()
    name = chance.choice(NAMES)
    shapes: list[bytes] = [
        b",",
        b"",
        b" \t",
        b"\r",
        b",,",
        b",,,",
        b"0x40ffff,1,%d" % moment,
        b"0x40ffff,1,,Server %b Selected file(%b)" % (address, name),
        b"0x40ffff,1,15279x1607,Server %b Selected file(%b)" % (address, name),
        b"0x40ffff,1,-%d,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,1, %d,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,1,%020d,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,1,%012d,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,long field 2,%d,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,1,%d,Server %b Selected file(%b" % (moment, address, name),
        b"0x40ffff,1,%d,Server %b Selected file()" % (moment, address),
        b"0x40ffff,1,%d,Server %b Selected (a) file(%b) file(second.mpg)" % (moment, address, name),
        b"0x40ffff,1,%d,Server %b Selected profile) file(%b)" % (moment, address, name),
        b"0x40ffff,1,%d,Server %b Selected" % (moment, address),
        b"0x40ffff,1,%d,Server %b Selected,file(%b)" % (moment, address, name),
        b"0x40ffff,1,%d, Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,1,%d,GLB,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,1,%d,server %b selected file(%b)" % (moment, address, name),
        b"x,1,%d,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40fffff,1,%d,Server %b Selected file(%b)" % (moment, address, name),
        b"0x40ffff,1,%d," % moment,
        b"0x40ffff,1,%d,Server %b Selected %b file(%b)" % (moment, address, b"y" * longest, name),
        b"z" * (longest + chance.choice((0, 1))),
        b"0x40ffff,1,%d,Server %b Selected file(%b)" % (moment, address, name.ljust(longest // 2, b"w")),
    ]
    return chance.choice(shapes) + chance.choice((b"\n", b"\n", b"\r\n"))


def logs(
    chance: Random, first: int, seconds: int, slack: int, zone: tzinfo, longest: int, odd_share: float
) -> dict[str, bytes]:
    """A log a date (as %Y%m%d) of ``zone`` from ``first`` on; lines up to ``slack`` seconds late."""
    written: dict[str, list[bytes]] = {}
    names = NAMES + [b"file%d.mpg" % number for number in range(chance.choice((3, 300)))]
    moment = float(first)
    pace = seconds / chance.choice((30, 300, 1200))
    while moment < first + seconds:
        moment += chance.expovariate(1 / pace)
        told = int(moment) - chance.randint(0, slack)
        if chance.random() < odd_share:
            text = odd_line(told, chance, longest)
        elif chance.random() < 0.25:
            text = b"0x40ffff,4,%d,File Not Found, UUID : 00b5, GLB IP : 125.144.93.6, a.mpg\n" % told
        else:
            text = line(told, chance.choice(names), chance.choice(ADDRESSES))
            text = text if chance.random() < 0.9 else text[:-1] + b"\r\n"
        written.setdefault(f"{datetime.fromtimestamp(int(moment), zone):%Y%m%d}", []).append(text)
    days = {day: b"".join(lines) for day, lines in written.items()}
    for day, log in days.items():
        end = chance.random()
        if end < 0.15:
            days[day] = log[: -chance.randint(1, min(len(log), 60))]  # the last line is still being written
        elif end < 0.2:
            days[day] = b""
        elif end < 0.25:
            days[day] = log + b"u" * (3 * longest)
    return days


def merged(one: bytes, other: bytes) -> bytes:
    """Both logs as one, by time; a line without a time stays behind the line before it."""
    timed: list[tuple[int, bytes]] = []
    for log in (one, other):
        moment = 0
        for text in log.split(b"\n")[:-1]:
            fields = text.split(b",", 3)
            if len(fields) == 4 and fields[2].isdigit() and len(fields[2]) <= 19:
                moment = int(fields[2])
            timed.append((moment, text))
    return b"".join(text + b"\n" for _, text in sorted(timed, key=lambda pair: pair[0]))
