"""Removing what is left of unfinished copies that nobody carries on with."""

from __future__ import annotations

from cftools.remote.transport import Script, Transport

# By ctime, the last change as the server itself saw it: a finished part already has the mtime of its source.
SWEEP = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
find . -mindepth 2 -maxdepth 2 -path './.cftools-part-*/*' -type f -cmin "+$2" -print -delete
find . -mindepth 1 -maxdepth 1 -type d -name '.cftools-part-*' -cmin "+$2" -empty -delete
printf 'end\n'
"""


def sweep(transport: Transport, root: str, age: float) -> int:
    """Removes parts below ``root`` that did not change for ``age`` seconds; returns how many. Raises RemoteFault."""
    minutes = str(max(1, int(age // 60))).encode()
    reply = transport.call(Script("sweep", SWEEP, (root.encode(), minutes)), repeatable=True)
    return max(0, reply.out.count(b"\n") - 1)
