"""The rows that commands exchange as JSON lines; each struct is one ``kind``.

Sizes are bytes, rates bit/s, times epoch seconds, durations milliseconds where the field says so. Names are in the
text form of `cftools.model.names`.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Reason = Literal["duplicate", "disk", "requested"]
OutcomeState = Literal["done", "already", "skipped", "refused", "failed"]
ServerState = Literal["ok", "unreachable", "refused", "incomplete"]
Role = Literal["source", "destination"]
RequestState = Literal["open", "done", "failed", "restored"]
HostKeyState = Literal["known", "added", "replaced", "new", "changed", "revoked", "unreachable"]


class Input(msgspec.Struct, frozen=True):
    """One input of a stream. ``size``: bytes.

    ``generation``: the time its writer gave it, for grades their mtime; epoch seconds, 0 when there is none.
    """

    path: str
    generation: int = 0
    size: int = 0
    complete: bool = True
    fault: str = ""


class Begin(msgspec.Struct, frozen=True, tag_field="kind", tag="begin"):
    """Opens every stream."""

    command: str
    cftools: str
    at: float
    inputs: list[Input] = []


class End(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    """Closes every stream. A stream without it was cut off.

    ``counts`` holds the number of rows of each kind, and totals under other names; ``skipped`` input lines by cause;
    ``refused`` candidates by reason; ``complete`` is false when an input was incomplete.
    """

    command: str
    complete: bool
    counts: dict[str, int] = {}
    skipped: dict[str, int] = {}
    refused: dict[str, int] = {}


class File(msgspec.Struct, frozen=True, tag_field="kind", tag="file"):
    """One line of the history joined with its grade. ``holders``: addresses of configured destinations, sorted."""

    name: str
    rank: int
    size: int
    bitrate: int = 0
    registered: int = 0
    holders: list[str] = []
    unknown_holders: int = 0


class Hot(msgspec.Struct, frozen=True, tag_field="kind", tag="hot"):
    """A file with at least the asked number of hits inside the window; ``first`` and ``last`` hit in it."""

    name: str
    hits: int
    first: int = 0
    last: int = 0


class Holding(msgspec.Struct, frozen=True, tag_field="kind", tag="holding"):
    """One file on one server, seen alive. ``path`` is absolute, ``name`` relative to the root it was found under."""

    server: str
    name: str
    path: str
    size: int
    mtime: int


class Server(msgspec.Struct, frozen=True, tag_field="kind", tag="server"):
    """One server as the inventory found it. Bytes; ``used_percent`` as df counts it: used / (used + available), up.

    When ``state`` is not ``ok`` the numbers are what is known and prove nothing; ``files`` is then -1.
    """

    server: str
    role: Role
    address: str
    state: ServerState
    files: int = -1
    total: int = 0
    used: int = 0
    available: int = 0
    used_percent: int = 0
    error: str = ""


class Heartbeat(msgspec.Struct, frozen=True, tag_field="kind", tag="heartbeat"):
    """The answer of one server to the short check."""

    server: str
    role: Role
    ok: bool
    milliseconds: int
    error: str = ""


class HostKey(msgspec.Struct, frozen=True, tag_field="kind", tag="host_key"):
    """The host key that a server, or a jump host on the way to one, shows; ``fingerprint`` is SHA256:... as ssh has it.

    ``state``: `known` known_hosts has it; `added`, `replaced` it was noted just now; `new` nothing is known about the
    host; `changed` another key is known for it; `revoked` known_hosts refuses it; `unreachable` it showed none.
    """

    server: str
    address: str
    port: int
    type: str
    fingerprint: str
    state: HostKeyState
    error: str = ""


class Copy(msgspec.Struct, frozen=True, tag_field="kind", tag="copy"):
    """One copy to make: ``source_path`` on ``source`` to ``name`` below the root of ``destination``."""

    id: str
    name: str
    size: int
    source: str
    source_path: str
    destination: str
    rank: int
    hits: int
    reason: str


class Delete(msgspec.Struct, frozen=True, tag_field="kind", tag="delete"):
    """One copy to delete from ``server``; ``keeper`` is the server whose copy stays (for ``duplicate``)."""

    server: str
    name: str
    size: int
    reason: Reason
    keeper: str = ""
    rank: int = 0


class Outcome(msgspec.Struct, frozen=True, tag_field="kind", tag="outcome"):
    """What became of one copy or delete row, or of a file that `restore` was to bring back. ``id`` is its task or
    journal number."""

    verb: Literal["copy", "delete", "restore"]
    id: str
    server: str
    name: str
    size: int
    state: OutcomeState
    detail: str = ""
    milliseconds: int = 0


class Request(msgspec.Struct, frozen=True, tag_field="kind", tag="request"):
    """A bulk-delete request that is stored for certain. ``duplicate``: it was stored before, and nothing changed."""

    request: str
    target: str
    resources: int
    duplicate: bool = False


class RefusedRequest(msgspec.Struct, frozen=True, tag_field="kind", tag="refused_request"):
    """A bulk-delete request that came in by `collect` or `receive` and was not taken. ``origin``: by what way it came;
    ``request`` and ``target`` are empty when it did not say; ``reason``: why not, and what becomes of it."""

    request: str
    target: str
    origin: str
    reason: str


class Partition(msgspec.Struct, frozen=True, tag_field="kind", tag="partition"):
    """What became of the files of one request that one call to one server was about.

    ``done`` deleted, ``already`` not there, ``failed`` still there (an outcome row names each), ``waiting`` not known
    and to be asked again. ``server``: its name, or the URL of object storage.
    """

    request: str
    target: str
    server: str
    resources: int
    done: int = 0
    already: int = 0
    failed: int = 0
    waiting: int = 0
    detail: str = ""
    milliseconds: int = 0


class RequestStatus(msgspec.Struct, frozen=True, tag_field="kind", tag="request_status"):
    """How far a request is. Counts are of files on servers: a request of 10 files on 2 servers has 20 of them.

    ``retrying`` failed and will be tried again, ``waiting`` all others that are neither done, already gone nor dead.
    Times are epoch seconds, 0 for: not yet, or not known.
    """

    request: str
    target: str
    state: RequestState
    resources: int
    done: int = 0
    already: int = 0
    waiting: int = 0
    retrying: int = 0
    dead: int = 0
    accepted: float = 0
    finished: float = 0
    expected_end: float = 0


class PlaceStatus(msgspec.Struct, frozen=True, tag_field="kind", tag="place_status"):
    """What one server of a target has before it. ``paused_until``: epoch seconds, 0 when it is not paused;
    ``oldest``: when the oldest request that waits for it was accepted."""

    target: str
    server: str
    waiting: int = 0
    retrying: int = 0
    dead: int = 0
    oldest: float = 0
    paused_until: float = 0
    error: str = ""


class DeadLetter(msgspec.Struct, frozen=True, tag_field="kind", tag="dead_letter"):
    """A file that was given up on: it may still be on the server. ``at``: epoch seconds."""

    request: str
    target: str
    server: str
    resource: str
    attempts: int
    error: str
    at: float = 0


Row = (
    Begin
    | End
    | File
    | Hot
    | Holding
    | Server
    | Heartbeat
    | HostKey
    | Copy
    | Delete
    | Outcome
    | Request
    | RefusedRequest
    | Partition
    | RequestStatus
    | PlaceStatus
    | DeadLetter
)
KINDS: dict[str, type[Row]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Row)}
