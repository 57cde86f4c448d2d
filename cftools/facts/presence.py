"""Whether named files stand on a server now, as regular files, and how large they are.

The names travel over stdin, NUL after each; the reply is one record a file that is there,
``<mode in hex> <size> <mtime> <inode> <ctime> <path>`` and a NUL, and ``.`` at the end. A file without a record was not
seen, which is no proof that it is gone: only `gone` proves that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cftools.model import names
from cftools.remote.transport import RemoteFault, Script, Transport

# A file is gone when its folder can be entered and has no such entry, not even a dangling link.
STAT = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
xargs -0 -r stat --printf '%f %s %Y %i %.9Z %n\0' -- 2>/dev/null
printf '.\0'
"""

GONE = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
xargs -0 -r -n 500 sh -c 'for name; do
  if [ -e "$name" ] || [ -L "$name" ]; then printf 1; elif [ -x "${name%/*}" ]; then printf 0; else
  top=${name%/*}; while [ ! -e "$top" ] && [ "$top" != . ]; do top=${top%/*}; done
  if [ -x "$top" ]; then printf 0; else printf "?"; fi; fi; done' cftools-gone || exit 4
printf '.'
"""


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


def see(transport: Transport, root: str, file_names: Sequence[str]) -> dict[str, Seen]:
    """Looks at each name below ``root``; the ones that are there. Raises RemoteFault when the answer is not whole."""
    reply = transport.call(Script("stat", STAT, (root.encode(),)), _stdin(file_names), repeatable=True)
    # A record may end in a dot too: the closing one stands alone.
    if reply.status != 0 or not (b"\0" + reply.out).endswith(b"\0.\0"):
        raise RemoteFault(transport.server, "broken", f"stat below {root}: {reply.complaint()}")
    try:
        return dict(_seen(record) for record in reply.out[:-2].split(b"\0")[:-1])
    except ValueError as fault:  # a login shell's start-up files may print what they like
        raise RemoteFault(transport.server, "broken", f"stat below {root}: the answer cannot be understood") from fault


def _seen(record: bytes) -> tuple[str, Seen]:
    mode, size, mtime, inode, ctime, path = record.split(b" ", 5)
    regular = int(mode, 16) & 0xF000 == 0x8000
    return names.text_from_bytes(path[2:]), Seen(regular, int(size), int(mtime), f"{int(inode)}/{ctime.decode()}")


def gone(transport: Transport, root: str, file_names: Sequence[str]) -> dict[str, bool | None]:
    """For each name below ``root``: True when it is certainly not there, False when something is, None when that cannot
    be told. Raises RemoteFault when the answer is not whole."""
    reply = transport.call(Script("look", GONE, (root.encode(),)), _stdin(file_names), repeatable=True)
    marks = reply.out.decode(errors="replace")
    if reply.status != 0 or len(marks) != len(file_names) + 1 or marks[-1] != ".":
        raise RemoteFault(transport.server, "broken", f"looking below {root}: {reply.complaint()}")
    meaning = {"0": True, "1": False}
    return {name: meaning.get(mark) for name, mark in zip(file_names, marks, strict=False)}
