"""Bringing the bytes of one copy to its place: pulled by the destination with rsync, or relayed through the manager.

Every long script says ``at <bytes>`` once a second, so silence means trouble, and closes with ``end <status>``. When
its stdin ends it stops: a manager that dies, or gives a copy up, leaves nothing running on a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from cftools.actions.arrival import Place
from cftools.config.schema import Distribute
from cftools.config.servers import ServerSettings
from cftools.model import names
from cftools.remote.transport import RemoteFault, Script, Session, Transport, quote

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

# The name goes to rsync over --files-from: as an argument rsync would take *, ? and [ in it for a pattern.
PULL = (
    r"""
cd -- "$1" || exit 3
part=$2; base=$3; folder=$4; shell=$5; timeout=$6; limit=$7
file=$part/$base
exec 3<&0
"""
    + _TICK
    + r"""
printf './%s\0' "$base" | rsync --files-from=- --from0 --no-relative --times --inplace --partial --append-verify \
  -s --timeout="$timeout" $limit -e "$shell" -- "$folder" "$part/" & worker=$!
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
    host = f"[{ends.source.address}]" if ":" in ends.source.address else ends.source.address
    folder = host.encode() + b":" + path.rpartition(b"/")[0] + b"/"
    limit = f"--bwlimit={max(1, int(policy.speed_limit / 8 / 1024))}" if policy.speed_limit else ""
    timeout = str(max(1, int(ends.source.response_timeout)))
    words = (_shell(ends.source, policy), timeout, limit)
    arguments = (place.root.encode(), place.part, place.base, folder, *(word.encode() for word in words))
    if path.rpartition(b"/")[2] != place.base:
        raise TransferFailed("the source file has another last part of its name than the copy")
    session = ends.to_destination.open(Script("pull", PULL, arguments, policy.forward_agent), ends.watch)
    try:
        _follow(session, ends.progress)
    finally:
        session.close()


def _shell(source: ServerSettings, policy: Distribute) -> str:
    """The ssh command with which the destination logs in to the source; never a prompt, strict host keys."""
    words = [
        "ssh",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=yes",
        f"-oConnectTimeout={max(1, int(source.connect_timeout))}",
    ]
    words += ["-oServerAliveInterval=15", "-oServerAliveCountMax=3"]
    if source.port:
        words.append(f"-p{source.port}")
    if source.user:
        words.append(f"-l{source.user}")
    if policy.pull_identity:
        words += ["-oIdentitiesOnly=yes", f"-i{policy.pull_identity}"]
    if policy.pull_known_hosts:
        words.append(f"-oUserKnownHostsFile={policy.pull_known_hosts}")
    return b" ".join(quote(word.encode()) for word in words).decode()


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
        writer.write(piece)
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
