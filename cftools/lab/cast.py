"""The files of the demo node: which there are, who holds them, and the part each one plays in a cycle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, NamedTuple

SOURCES = ("src1", "src2")
DESTINATIONS = ("dst1", "dst2", "dst3", "dst4", "dst5")
DEAD = "dst4"
FULL = "dst5"
ADVERTISEMENTS = ("M64", "MN1")
MIN_HITS = 5

HOUR, DAY = 3600, 86400
Band = Literal["best", "middle", "low", "lowest"]
BANDS: tuple[Band, ...] = ("best", "middle", "low", "lowest")


class Part(NamedTuple):
    """One file before it has its number and size.

    ``told`` are the destinations the history names, None when they are the ``holders``, which hold it indeed;
    ``hits`` those of the last minutes, ``old_hits`` those of an hour ago; ``age`` of the copies in seconds.
    """

    role: str
    band: Band
    holders: tuple[str, ...] = ()
    told: tuple[str, ...] | None = None
    hits: int = 0
    old_hits: int = 0
    sources: tuple[str, ...] | None = None
    known: bool = True
    size: int = 0
    source_size: int = 0
    age: int = 9 * DAY
    name: str = ""
    prefix: str = ""


class CastFile(NamedTuple):
    """One file of the demo node. ``rank`` is 0 when the inputs do not have it; sizes in bytes, ``age`` in seconds."""

    name: str
    role: str
    rank: int
    size: int
    source_size: int
    sources: tuple[str, ...]
    holders: tuple[str, ...]
    told: tuple[str, ...]
    hits: int
    old_hits: int
    age: int
    registered_days: int


def cast(seed: int) -> tuple[CastFile, ...]:
    """The same files for the same seed, best rank first, those without a rank last."""
    random = Random(f"cftools {seed}")
    parts = [*_single_copies(), *_wanted(), *_hot(), *_duplicates(), *_on_full_destination(), *_odd()]
    random.shuffle(parts)
    parts.sort(key=lambda part: (not part.known, BANDS.index(part.band)))
    return tuple(_file(part, rank, random) for rank, part in enumerate(parts, 1))


def _file(part: Part, number: int, random: Random) -> CastFile:
    studio = part.prefix or random.choice(("MD3", "MF7", "MK2", "MV5", "MZ3"))
    day = f"20{random.randrange(18, 25)}{random.randrange(1, 13):02}{random.randrange(1, 29):02}"
    size = part.size or random.randrange(50_000, 300_000)
    sources: Sequence[str] = (
        random.choice((SOURCES, SOURCES[:1], SOURCES[1:])) if part.sources is None else part.sources
    )
    return CastFile(
        name=part.name or f"{studio}{number:04}SGL1500001_K{day}.mpg",
        role=part.role,
        rank=number if part.known else 0,
        size=size,
        source_size=part.source_size or size,
        sources=tuple(sources),
        holders=part.holders,
        told=part.holders if part.told is None else part.told,
        hits=part.hits,
        old_hits=part.old_hits,
        age=part.age,
        registered_days=random.randrange(20, 400),
    )


def _single_copies() -> Iterator[Part]:
    for destination, count in {"dst1": 6, "dst2": 6, "dst3": 6, DEAD: 5, FULL: 10}.items():
        for position in range(count):
            yield Part("has its one copy", BANDS[position % 2], (destination,))


def _wanted() -> Iterator[Part]:
    for position in range(12):
        yield Part("ranks well and is on no destination", BANDS[position % 2])
    yield Part("ranks well, its name has a space and letters that are not ASCII", "best", name="드라마 1회.mpg")


def _hot() -> Iterator[Part]:
    yield Part("hot and on no destination", "middle", hits=26, sources=SOURCES)
    yield Part("hot, with - in its name", "middle", hits=12, sources=SOURCES, name="MZ3-0007SGL1500001_K20240229.mpg")
    yield Part("hot, though it ranks low", "low", hits=8)
    yield Part("hot at exactly the limit", "middle", hits=MIN_HITS)
    yield Part("a hot advertisement, which is never placed", "best", hits=40, prefix="M64")
    yield Part("hot, but not in the inputs, hence never placed", "best", hits=9, known=False)


def _duplicates() -> Iterator[Part]:
    yield Part("two copies; the one on the lowest address goes", "best", ("dst1", "dst2"))
    yield Part("three copies; two go, from the lowest address up", "middle", ("dst1", "dst2", "dst3"))
    yield Part("two copies, one of them on the full destination, which keeps it", "middle", ("dst1", FULL))
    yield Part("hot and twice there; a duplicate goes though it is hot", "best", ("dst2", "dst3"), hits=11)
    yield Part("three copies, the highest on a dead server; the highest alive stays", "best", ("dst1", "dst3", DEAD))
    yield Part("two copies, one on a dead server; the one that is alive stays", "middle", ("dst2", DEAD))
    yield Part("two copies that the history does not know of", "middle", ("dst1", "dst3"), told=("dst3",))
    yield Part("two copies by the history, one of them already gone", "middle", ("dst3",), told=("dst1", "dst3"))
    yield Part("an advertisement twice there, never deleted", "best", ("dst1", "dst2"), prefix="MN1")
    yield Part("two copies the origin no longer has, never deleted", "middle", ("dst2", "dst3"), sources=())
    yield Part("two copies that are not in the inputs, never deleted", "best", ("dst1", "dst2"), known=False)


def _on_full_destination() -> Iterator[Part]:
    for hits, old_hits in ((0, 0), (MIN_HITS - 1, 0), (0, 9), (0, 0), (0, 0), (0, 0), (0, 0)):
        yield Part("ranks low on the full destination", "low", (FULL,), hits=hits, old_hits=old_hits)
    yield Part("ranks lowest there, but is hot", "lowest", (FULL,), hits=7)
    yield Part("ranks lowest there, but is an advertisement", "lowest", (FULL,), prefix="M64")
    yield Part("ranks lowest there, but the origin no longer has it", "lowest", (FULL,), sources=())
    yield Part("ranks lowest there, but arrived an hour ago", "lowest", (FULL,), age=HOUR)
    yield Part("is there, but not in the inputs", "lowest", (FULL,), known=False)


def _odd() -> Iterator[Part]:
    yield Part("larger than the space that is free anywhere", "best", sources=("src2",), size=4_000_000)
    yield Part("no source has it", "best", sources=())
    yield Part(
        "the source's file has another size than the history says", "best", sources=("src1",), source_size=70_001
    )
    yield Part("at the origin, but not in the inputs", "best", known=False)
