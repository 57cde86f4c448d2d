"""Bringing the bytes of one copy to its place: pulled by the destination with rsync, or relayed through the manager.

Every long script says ``at <bytes>`` once a second, so silence means trouble, and closes with ``end <status>``. When
its stdin ends it stops: a manager that dies, or gives a copy up, leaves nothing running on a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from cftools.actions.arrival import Place
from cftools.config.schema import Distribute
from cftools.config.servers import ServerSettings
from cftools.model import names
from cftools.remote.transport import RemoteFault, Script, Session, Transport

# The ticker's sleep must not hold stdout open after the script ended.
_TICK = r"""
LC_ALL=C; export LC_ALL
(
  while :; do stat -c 'at %s' -- "$file" 2>/dev/null || printf 'at 0\n'; sleep 1 >/dev/null 2>&1; done
) </dev/null & ticker=$!
"""
_END = r"""
kill "$ticker" 2>/dev/null
printf 'end %s\n' "$status"
"""
_WATCHED = r"""
( cat <&3 >/dev/null; kill "$worker" ) >/dev/null 2>&1 & guard=$!
wait "$worker"; status=$?
kill "$guard" 2>/dev/null
"""

# The name goes to rsync over --files-from: as an argument rsync would take *, ? and [ in it for a pattern. The folder
# is a root of the source; without -s it shows in the source's command line, where a gate can check it. Words of ssh's
# command line that may hold blanks or quotes go around rsync, which takes -e apart by rules of its own.
PULL = (
    r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
part=$2; base=$3; name=$4; timeout=$5; limit=$6; patience=$7
shift 7
host=$1; folder=$2; user=$3; port=$4; identity=$5; known_hosts=$6
export patience user port identity known_hosts
login='exec ssh -oBatchMode=yes -oStrictHostKeyChecking=yes -oConnectTimeout="$patience" \
  -oServerAliveInterval=15 -oServerAliveCountMax=3 ${user:+-l"$user"} ${port:+-p"$port"} \
  ${identity:+-oIdentitiesOnly=yes -i"$identity"} ${known_hosts:+-oUserKnownHostsFile="$known_hosts"} "$@"'
file=$part/$base
case $host in *:*) host="[$host]" ;; esac
case $folder in *[!0-9A-Za-z._/-]*) secluded=-s ;; *) secluded=--no-s ;; esac
exec 3<&0
"""
    + _TICK
    + r"""
printf './%s\0' "$name" | rsync --files-from=- --from0 --no-relative --times --inplace --partial --append-verify \
  "$secluded" --timeout="$timeout" ${limit:+"--bwlimit=$limit"} -e "sh -c '$login' ssh" -- "$host:$folder/" "$part/" &
worker=$!
"""
    + _WATCHED
    + r"""
if [ "$status" -eq 0 ]; then sync -- "$file" || status=$?; fi
"""
    + _END
)

RECEIVE = (
    r"""
cd -- "$1" || exit 3
part=$2; base=$3; mtime=$4; arrived=$5
file=$part/$base
[ "$arrived" = 0 ] && rm -f -- "$file"
"""
    + _TICK
    + r"""
cat >>"$file"; status=$?
if [ "$status" -eq 0 ]; then touch -d "@$mtime" -- "$file" && sync -- "$file" || status=$?; fi
"""
    + _END
)

SEND = r"""
exec tail -c "+$2" -- "$1"
"""

DIGEST = (
    r"""
file=$1
exec 3<&0
"""
    + _TICK
    + r"""
{ exec 4>&1; { head -c "$2" -- "$file" || printf 'unreadable\n' >&4; } | sha256sum; } & worker=$!
"""
    + _WATCHED
    + _END
)

FILE_STATUS = (b"23", b"24")  # rsync: a file could not be transferred; a file vanished

Progress = Callable[[int], None]


class TransferFailed(Exception):
    """The bytes did not arrive; the text tells why. What did arrive stays for the next try."""


class FileUnusable(TransferFailed):
    """The source cannot give this file; others it may."""


class Ends(NamedTuple):
    """The two servers of a copy, and how its progress (bytes that arrived) is told."""

    source: ServerSettings
    from_source: Transport
    to_destination: Transport
    watch: Callable[[], None]
    progress: Progress


def pull(ends: Ends, source_path: str, place: Place, policy: Distribute) -> None:
    """Lets the destination fetch the file with rsync over SSH, carrying on with what arrived before.

    Raises TransferFailed, RemoteFault, and whatever ``ends.watch`` raises.
    """
    path = path_bytes(source_path)
    if path.rpartition(b"/")[2] != place.base:
        raise TransferFailed("the source file has another last part of its name than the copy")
    root = next((root for root in ends.source.roots if path.startswith(root.encode() + b"/")), None)
    if root is None:
        raise FileUnusable(f"{source_path} lies in no root of {ends.source.name}")
    limit = str(max(1, int(policy.speed_limit / 8 / 1024))) if policy.speed_limit else ""
    words = (max(1, int(ends.source.response_timeout)), limit, max(1, int(ends.source.connect_timeout)))
    arguments = (
        *(place.root.encode(), place.part, place.base, path.removeprefix(root.encode() + b"/")),
        *(str(word).encode() for word in words),
        *way_to(ends.source, root, policy),
    )
    session = ends.to_destination.open(Script("pull", PULL, arguments, policy.forward_agent), ends.watch)
    try:
        _follow(session, ends.progress)
    finally:
        session.close()


def way_to(source: ServerSettings, root: str, policy: Distribute) -> tuple[bytes, ...]:
    """The last arguments of a pull: host and root of the source, then user, port, identity and known_hosts with which
    the destination logs in to it, each empty when that is left to the destination's own ssh."""
    words = (source.address, root, source.user, source.port or "", policy.pull_identity, policy.pull_known_hosts)
    return tuple(str(word).encode() for word in words)


def relay(ends: Ends, source_path: str, place: Place, mtime: int, arrived: int, limit: float | None) -> None:
    """Streams the file through the manager, at most ``limit`` bits a second, carrying on after ``arrived`` bytes when
    these are the same on both sides. Raises TransferFailed, RemoteFault, and whatever ``ends.watch`` raises."""
    target = place.root.encode() + b"/" + place.part + b"/" + place.base
    if arrived and digest(ends.from_source, path_bytes(source_path), arrived, ends.watch) != digest(
        ends.to_destination, target, arrived, ends.watch
    ):
        arrived = 0
    send = Script("send", SEND, (path_bytes(source_path), str(arrived + 1).encode()))
    words = (str(mtime).encode(), str(arrived).encode())
    receive = Script("receive", RECEIVE, (place.root.encode(), place.part, place.base, *words))
    reader = ends.from_source.open(send, ends.watch)
    try:
        writer = ends.to_destination.open(receive, ends.watch)
        try:
            _stream(reader, writer, arrived, limit, ends)
            sent = reader.wait()
            if sent.status != 0:
                raise FileUnusable(f"the source stopped sending: {sent.complaint()}")
            writer.close_input()
            _follow(writer, ends.progress)
        finally:
            writer.close()
    finally:
        reader.close()


def _stream(reader: Session, writer: Session, arrived: int, limit: float | None, ends: Ends) -> None:
    started = time.monotonic()
    moved = 0
    size = 1 << 18 if limit is None else max(1 << 12, min(1 << 18, int(limit / 8 / 10)))  # about ten pieces a second
    while piece := reader.read(size):
        try:
            writer.write(piece)
        except RemoteFault as fault:
            if fault.kind == "broken":
                _follow(writer, ends.progress)  # a script that gave up, on a full disk for one, has said why
            raise
        moved += len(piece)
        ends.progress(arrived + moved)
        ends.watch()  # the sessions call it only while they wait
        if limit is not None:
            ahead = moved * 8 / limit - (time.monotonic() - started)
            if ahead > 0:
                time.sleep(min(ahead, 1.0))


def path_bytes(path: str) -> bytes:
    """The bytes of an absolute path on a server."""
    return names.bytes_from_text(path)


def digest(transport: Transport, path: bytes, size: int, watch: Callable[[], None]) -> str:
    """SHA-256 of the first ``size`` bytes of a file on a server, in hex. Raises TransferFailed, RemoteFault."""
    session = transport.open(Script("digest", DIGEST, (path, str(size).encode())), watch)
    try:
        lines = _follow(session, lambda _: None)
    finally:
        session.close()
    if len(lines) != 1 or len(lines[0].split(" ")[0]) != 64:
        raise TransferFailed(f"{transport.server}: no checksum of the file")
    return lines[0].split(" ")[0]


def _follow(session: Session, progress: Progress) -> list[str]:
    """Reads a ticking script to its end; the lines that are no ticks. Raises TransferFailed when it failed."""
    said: list[str] = []
    rest = b""
    while data := session.read():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"at" and value.isdigit():
                progress(int(value))
            elif word == b"end":
                if value != b"0":
                    with suppress(RemoteFault):  # it may have ended by now
                        session.close_input()
                    reply = session.wait()
                    failed = FileUnusable if value in FILE_STATUS else TransferFailed
                    raise failed(reply.complaint() if reply.err else f"exit status {value.decode()}")
                return said
            else:
                said.append(line.decode(errors="replace"))
    reply = session.wait()
    raise TransferFailed(f"ended before its end: {reply.complaint()}")


def gave_up(fault: RemoteFault | TransferFailed) -> str:
    """What to note about a transfer that did not succeed."""
    return f"{fault.server}: {fault.detail}" if isinstance(fault, RemoteFault) else str(fault)
