"""The destination's half of a copy: making room for it, and making it visible in one step.

While it is unfinished a copy lies in ``.cftools-part-<key>/<last part of the name>`` at the top of the root, on the
same file system. The key comes from name, size and mtime of the source file, so what arrived of another version is
never carried on with. Readers see the file only after the rename, whole and synced.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from cftools.model import names
from cftools.remote.transport import RemoteFault, Script, Transport

_ENTER = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
if [ -n "$2" ] && [ ! -e "$2" ]; then exit 4; fi
part=$3; base=$4; name=$5; size=$6
folder=./$name; folder=${folder%/*}; above=$folder
while [ "$above" != . ]; do
  if [ -L "$above" ]; then printf 'occupied a link stands on the way\n'; exit 0; fi
  above=${above%/*}
done
there=
if [ -e "./$name" ] || [ -L "./$name" ]; then there=$(stat -c '%F/%s' -- "./$name") || exit 7; fi
case $there in
  '') ;;
  "regular file/$size"|"regular empty file/$size") there=same ;;
  *) printf 'occupied by a %s\n' "$there"; exit 0 ;;
esac
"""

PREPARE = (
    _ENTER
    + r"""
if [ -n "$there" ]; then printf 'already\n'; exit 0; fi
mkdir -p -- "$part" || exit 7
[ -L "$part" ] && exit 7
arrived=0
if [ -e "$part/$base" ]; then arrived=$(stat -c %s -- "$part/$base") || exit 7; fi
if [ "$arrived" -gt "$size" ]; then rm -f -- "$part/$base"; arrived=0; fi
free=$(df -B1 --output=avail . | tail -n 1)
printf 'ready %s %s\n' "$arrived" "$free"
"""
)

# Asked a second time (the first answer was lost) it finds the file in its place and no part: that is the same success.
PUBLISH = (
    _ENTER
    + r"""
if [ ! -e "$part/$base" ]; then
  if [ -n "$there" ]; then printf 'done\n'; else printf 'lost\n'; fi
  exit 0
fi
if [ -n "$there" ]; then rm -f -- "$part/$base"; rmdir -- "$part" 2>/dev/null; printf 'already\n'; exit 0; fi
kind=$(stat -c '%F/%s' -- "$part/$base") || exit 7
case $kind in "regular file/$size"|"regular empty file/$size") ;; *) printf 'unlike %s\n' "$kind"; exit 0 ;; esac
mkdir -p -- "$folder" && mv -nT -- "$part/$base" "./$name" || exit 7
if [ -e "$part/$base" ]; then printf 'occupied meanwhile\n'; exit 0; fi
sync -- "$folder"; rmdir -- "$part" 2>/dev/null
printf 'done\n'
"""
)


DISCARD = r"""
cd -- "$1" || exit 3
rm -f -- "$3/$4"; rmdir -- "$3" 2>/dev/null
printf 'done\n'
"""


class Place(NamedTuple):
    """Where one copy arrives. ``part`` and ``base`` are bytes of the unfinished file's folder and name."""

    root: str
    marker: str
    part: bytes
    base: bytes
    name: str
    size: int


class Refused(Exception):
    """The destination does not take this file; the text tells why. Nothing was changed."""


class RootUnusable(Refused):
    """The destination takes no file at all: its root is not there, or not what it should be."""


class Prepared(NamedTuple):
    """``already``: the file stands there with the right size. ``arrived``: bytes of an earlier try."""

    already: bool
    arrived: int = 0


def place_for(root: str, marker: str, name: str, size: int, mtime: int) -> Place:
    """The place of a copy of the source file with this size and mtime."""
    raw = names.bytes_from_text(name)
    key = hashlib.sha256(b"%b\0%d\0%d" % (raw, size, mtime)).hexdigest()[:16].encode()
    return Place(root, marker, names.PARTIAL_PREFIX + key, raw.rpartition(b"/")[2], name, size)


def prepare(transport: Transport, place: Place) -> Prepared:
    """Looks whether the copy can arrive, and makes the folder of the unfinished file. Raises Refused, RemoteFault."""
    word, rest = _ask(transport, "prepare", PREPARE, place)
    if word == "already":
        return Prepared(already=True)
    arrived, _, free = rest.partition(" ")
    if word != "ready" or not arrived.isdigit() or not free.strip().isdigit():
        raise Refused(f"{word} {rest}")
    if place.size - int(arrived) > int(free):
        raise Refused(f"no room: {free.strip()} bytes are free, {place.size - int(arrived)} are to come")
    return Prepared(already=False, arrived=int(arrived))


def publish(transport: Transport, place: Place) -> bool:
    """Makes an arrived copy visible under its name; call it holding the deletion lock.

    Returns False when the same file stood there already. Raises Refused when what arrived is not the file, or another
    file stands in its place; RemoteFault.
    """
    word, rest = _ask(transport, "publish", PUBLISH, place)
    if word not in ("done", "already"):
        raise Refused(f"{word} {rest}".strip())
    return word == "done"


def discard(transport: Transport, place: Place) -> None:
    """Throws away what arrived of an unfinished copy. Raises Refused, RemoteFault."""
    _ask(transport, "discard", DISCARD, place)


def _ask(transport: Transport, verb: str, text: str, place: Place) -> tuple[str, str]:
    arguments = (place.root.encode(), place.marker.encode(), place.part, place.base)
    script = Script(verb, text, (*arguments, names.bytes_from_text(place.name), str(place.size).encode()))
    reply = transport.call(script, repeatable=True)
    if reply.status == 3:
        raise RootUnusable(f"{place.root} cannot be entered")
    if reply.status == 4:
        raise RootUnusable(f"{place.marker} does not stand in {place.root}: is the disk mounted?")
    if reply.status == 7:
        raise Refused(f"{verb}: {reply.complaint()}")
    if reply.status != 0 or not reply.out.endswith(b"\n"):
        raise RemoteFault(transport.server, "broken", f"{verb}: {reply.complaint()}")
    word, _, rest = reply.out.decode(errors="replace").strip().partition(" ")
    return word, rest
