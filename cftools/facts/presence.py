"""Whether named files stand on a server now, as regular files, and how large they are.

The names travel over stdin, NUL after each; the reply is one record a file that is there,
``<mode in hex> <size> <mtime> <inode> <ctime> <path>`` and a NUL, and ``. <clock>`` at the end. A file without a record
was not seen, which is no proof that it is gone: only `gone` proves that. The clock is the server's own, epoch seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cftools.model import names
from cftools.remote.transport import RemoteFault, Script, Transport

# A name that does not begin with ./ or that goes up is refused here too: an account may be bound to its root. A file is
# gone when its folder can be entered, not by way of a link, and has no such entry, not even a dangling link. Below a
# missing mount nothing is gone.
STAT = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
xargs -0 -r sh -c 'for name; do case $name/ in */../*) exit 255 ;; ./*) ;; *) exit 255 ;; esac; done
  exec stat --printf "%f %s %Y %i %.9Z %n\0" -- "$@"' cftools-stat 2>/dev/null
[ "$?" -ne 124 ] || exit 9
printf '. %s\0' "$(date +%s)"
"""

GONE = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
if [ -n "$2" ] && [ ! -e "$2" ]; then exit 5; fi
xargs -0 -r -n 500 sh -c 'for name; do case $name/ in */../*) exit 255 ;; ./*) ;; *) exit 255 ;; esac
  above=${name%/*}; while [ "$above" != . ] && [ ! -L "$above" ]; do above=${above%/*}; done
  if [ "$above" != . ]; then printf "?"; continue; fi
  if [ -e "$name" ] || [ -L "$name" ]; then printf 1; elif [ -x "${name%/*}" ]; then printf 0; else
  top=${name%/*}; while [ ! -e "$top" ] && [ "$top" != . ]; do top=${top%/*}; done
  if [ -x "$top" ]; then printf 0; else printf "?"; fi; fi; done' cftools-gone || exit 4
printf '. %s\n' "$(date +%s)"
"""


FILE, FOLDER = 0x8000, 0x4000  # the upper bits of a mode


class Seen(NamedTuple):
    """One file as stat sees it, links not followed. ``size`` bytes, ``mtime`` epoch seconds.

    ``identity``: inode and ctime to the nanosecond. Two names on two servers that have it in common are one file on
    storage that both see, whatever device numbers they give it.
    """

    regular: bool
    size: int
    mtime: int
    identity: str


def _stdin(file_names: Sequence[str]) -> bytes:
    return b"".join(b"./" + names.bytes_from_text(name) + b"\0" for name in file_names)


class Look(NamedTuple):
    """The files that were seen, by name, and the server's clock afterwards, epoch seconds."""

    files: Mapping[str, Seen]
    clock: int


class Absence(NamedTuple):
    """Whether each name is gone (True), there (False) or unknown (None), and the server's clock afterwards."""

    gone: Mapping[str, bool | None]
    clock: int


def see(transport: Transport, root: str, file_names: Sequence[str]) -> Mapping[str, Seen]:
    """The files of these names that are there below ``root``. Raises RemoteFault when the answer is not whole."""
    return look(transport, root, file_names).files


def look(transport: Transport, root: str, file_names: Sequence[str]) -> Look:
    """`see`, and the server's clock. A file below a link is not seen: it stands somewhere else, whatever its name."""
    wanted = set(file_names)
    folders = {folder for name in wanted for folder in names.folders(name)}
    question = _stdin([*file_names, *sorted(folders - wanted)])
    reply = transport.call(Script("stat", STAT, (root.encode(),)), question, repeatable=True)
    *records, closing, rest = (b"\0" + reply.out).split(b"\0")  # a cut-off name may look like anything, but has no NUL
    if reply.status != 0 or rest or not closing.startswith(b". "):
        raise RemoteFault(transport.server, "broken", f"stat below {root}: {reply.complaint()}")
    try:
        seen = [_seen(record) for record in records[1:]]
        clock = int(closing[2:])
    except ValueError as fault:  # a login shell's start-up files may print what they like
        raise RemoteFault(transport.server, "broken", f"stat below {root}: the answer cannot be understood") from fault
    real = {name for name, kind, _ in seen if kind == FOLDER}
    return Look({name: one for name, _, one in seen if name in wanted and real.issuperset(names.folders(name))}, clock)


def _seen(record: bytes) -> tuple[str, int, Seen]:
    mode, size, mtime, inode, ctime, path = record.split(b" ", 5)
    kind = int(mode, 16) & 0xF000
    one = Seen(kind == FILE, int(size), int(mtime), f"{int(inode)}/{ctime.decode()}")
    return names.text_from_bytes(path[2:]), kind, one


def gone(transport: Transport, root: str, marker: str, file_names: Sequence[str]) -> Absence:
    """Whether each name below ``root`` is certainly not there. ``marker``: the mount marker, or empty.

    Raises RemoteFault when the answer is not whole, or the marker does not stand there.
    """
    words = (root.encode(), marker.encode())
    reply = transport.call(Script("look", GONE, words), _stdin(file_names), repeatable=True)
    if reply.status == 5:
        raise RemoteFault(transport.server, "refused", f"{marker} does not stand in {root}: is the disk mounted?")
    marks, _, clock = reply.out.decode(errors="replace").partition(". ")
    if reply.status != 0 or len(marks) != len(file_names) or not (clock.endswith("\n") and clock[:-1].isdigit()):
        raise RemoteFault(transport.server, "broken", f"looking below {root}: {reply.complaint()}")
    meaning = {"0": True, "1": False}
    return Absence({name: meaning.get(mark) for name, mark in zip(file_names, marks, strict=True)}, int(clock))
