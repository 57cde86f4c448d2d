"""The remote half of deleting: check each file and unlink it, in one call a server and batch.

The question goes over stdin as ``<folders>|<records>|.``, encoded so that a shell variable can hold it (see `encode`).
Only when the closing ``.`` has arrived does the server act: a question that was cut off could end in a shortened name,
which may be another file. A record says what stat must print for the file, ``<type>/<size>/./<name>``; the folders are
those on the way to the names, and must be real folders: a link there would lead out of the root.

The reply: the records that matched and went to rm, NUL after each, an empty record, the records of what still stands
there afterwards, an empty record, ``end``. While rm works a ``+`` a group on stderr tells that the server is alive.

A server that hangs may come to its question long after the manager has given it up, and after what was seen elsewhere
has changed. So the question expires: past its last second, on the server's own clock, nothing more is deleted, and an
rm that is still at it is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cftools.model import names
from cftools.model.rows import Delete, OutcomeState
from cftools.remote.transport import RemoteFault, Reply, Script, Transport

# What stat prints and what was expected are sorted together: a record that stands there twice matches. Between stat and
# rm lies a moment in which another program could put another file in the place; POSIX has no unlink that checks.
UNLINK = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
if [ -n "$2" ] && [ ! -e "$2" ]; then exit 4; fi
question=$(cat)
case $question in *'|.') question=${question%'|.'} ;; *) exit 5 ;; esac
folders=${question%%'|'*}; records=${question#*'|'}
[ "$(date +%s)" -le "$3" ] || exit 8
inside='for name; do case $name/ in */../*) exit 255 ;; ./*) ;; *) exit 255 ;; esac'
printf '%b' "$folders" | xargs -0 -r sh -c "$inside; done" cftools-inside || exit 9
kinds=$(printf '%b' "$folders" | xargs -0 -r stat --printf '%F\n' -- 2>/dev/null | sort -u)
case $kinds in ''|directory) ;; *)
  printf '%b' "$folders" | xargs -0 -r stat --printf '%F/%n\0' -- 2>/dev/null
  exit 6 ;;
esac
printf '%b' "$records" | cut -z -d/ -f3- | xargs -0 -r sh -c "real=; $inside"'
  above=${name%/*}; [ "$above" != "$real" ] || continue; real=$above
  while [ "$above" != . ]; do [ ! -L "$above" ] || exit 255; above=${above%/*}; done; done
' cftools-inside || exit 9
exec 5>&1
printf '%b' "$records" | cut -z -d/ -f3- | xargs -0 -r stat --printf '%F/%s/%n\0' -- 2>/dev/null |
  { cat; printf '%b' "$records"; } | sort -z | uniq -z -d | tee /dev/fd/5 | cut -z -d/ -f3- |
  xargs -0 -r -n 250 sh -c 'left=$(($0 + 1 - $(date +%s))); status=124
    [ "$left" -le 0 ] || { timeout -s KILL "$left" rm -f -- "$@"; status=$?; }
    case $status in 124|137) echo late >&2; exit 255 ;; esac; echo + >&2; exit "$status"' "$3"
printf '\0'
printf '%b' "$records" | cut -z -d/ -f3- | xargs -0 -r stat --printf '%F/%s/%n\0' --
printf '\0end'
"""

CUT_OFF = "the answer to a deletion was cut off"
GONE = "No such file or directory"
LATE = "not in time; the next run looks at it again"


class Verdict(NamedTuple):
    """What became of one file."""

    state: OutcomeState
    detail: str = ""


class _Linked(Exception):
    """Folders on the way that are no real folders; nothing was deleted."""

    def __init__(self, folders: frozenset[str]) -> None:
        self.folders = folders
        super().__init__(folders)


class Ground(NamedTuple):
    """Where a server deletes, and until when.

    ``marker``: the mount marker that must stand in the root, or empty. ``expires``: the last second, on the server's
    own clock, in which it may delete anything.
    """

    root: str
    marker: str
    expires: int


def unlink(transport: Transport, ground: Ground, rows: Sequence[Delete]) -> list[Verdict]:
    """Checks and deletes the files of these rows on one server; a verdict a row, in their order.

    Names must be safe (`names.unsafe`) and differ. Raises RemoteFault when there is no whole answer; its kind tells
    whether anything may have been deleted.
    """
    try:
        return _ask(transport, ground, rows)
    except _Linked as linked:
        under = [bool(linked.folders.intersection(names.folders(row.name))) for row in rows]
    rest = iter(_ask(transport, ground, [row for row, link in zip(rows, under, strict=True) if not link]))
    return [Verdict("refused", "a link stands on the way") if link else next(rest) for link in under]


def _ask(transport: Transport, ground: Ground, rows: Sequence[Delete]) -> list[Verdict]:
    folders = sorted({folder for row in rows for folder in names.folders(row.name)})
    question = b"%b|%b|." % (
        encode(b"".join(b"./%b\0" % names.bytes_from_text(folder) for folder in folders)),
        encode(b"".join(_record(row) + b"\0" for row in rows)),
    )
    root, marker = ground.root, ground.marker
    words = (root.encode(), marker.encode(), str(ground.expires).encode())
    reply = transport.call(Script("unlink", UNLINK, words), question)
    if reply.status == 3:
        raise RemoteFault(transport.server, "refused", f"{root} cannot be entered")
    if reply.status == 4:
        raise RemoteFault(transport.server, "refused", f"{marker} does not stand in {root}: is the disk mounted?")
    if reply.status == 6:
        kinds = (record.split(b"/./", 1) for record in reply.out.split(b"\0")[:-1])
        linked = frozenset(names.text_from_bytes(path) for kind, path in kinds if kind != b"directory")
        if not linked:  # mended while we looked: the next run tries again
            raise RemoteFault(transport.server, "refused", "a folder changed while it was looked at")
        raise _Linked(linked)
    if reply.status == 8:
        raise RemoteFault(transport.server, "refused", LATE)
    if reply.status == 9:
        raise RemoteFault(transport.server, "refused", "a name leads out of the root")
    return parse(reply, transport.server, rows)


def parse(reply: Reply, server: str, rows: Sequence[Delete]) -> list[Verdict]:
    """The verdicts in a reply for ``rows``. Raises RemoteFault (broken) when it is not whole."""
    records = reply.out.split(b"\0")
    if reply.status != 0 or records[-1] != b"end" or records.count(b"") != 2:
        raise RemoteFault(server, "broken", f"{CUT_OFF}: {reply.complaint()}")
    border = records.index(b"")
    matched = set(records[:border])
    left = {path: (kind, size) for kind, size, path in (record.split(b"/", 2) for record in records[border + 1 : -2])}
    complaints = reply.err.decode(errors="replace").splitlines()
    looked = [line for line in complaints if line.startswith("stat:")]
    # A name without a record is gone only if stat said so for each such name.
    proven = len(looked) == len(rows) - len(left) and all(line.endswith(GONE) for line in looked)
    refusals = [line for line in complaints if line.startswith("rm:")]
    late = "late" in complaints
    verdicts = []
    for row in rows:
        path, record = b"./" + names.bytes_from_text(row.name), _record(row)
        if path in left:
            if record in matched:
                verdicts.append(_not_removed(row.name, refusals, late=late))
            else:
                verdicts.append(Verdict("refused", _difference(*left[path], row.size)))
        elif not proven:
            verdicts.append(Verdict("failed", "its folder cannot be looked into, so it may still be there"))
        else:
            verdicts.append(Verdict("done") if record in matched else Verdict("already", "not there any more"))
    return verdicts


def _not_removed(name: str, refusals: Sequence[str], *, late: bool) -> Verdict:
    """rm's own words about this file; its quotes differ for odd names, so then any of its words will do."""
    own = [line for line in refusals if f"'./{names.display(name)}'" in line]
    if late and not own:
        return Verdict("refused", LATE)
    return Verdict("failed", (own or [*refusals, "rm: could not delete it"])[0])


def _difference(kind: bytes, size: bytes, expected: int) -> str:
    if kind not in (b"regular file", b"regular empty file"):
        return f"not a regular file but a {kind.decode()}"
    if int(size) != expected:
        return f"its size is {int(size)}, {expected} was expected"
    return "it was put there while it was looked at"


def _record(row: Delete) -> bytes:
    kind = b"regular file" if row.size else b"regular empty file"
    return b"%b/%d/./%b" % (kind, row.size, names.bytes_from_text(row.name))


def encode(data: bytes) -> bytes:
    """Bytes for a shell variable that ``printf %b`` turns back: no NUL, no bar, backslashes doubled."""
    return data.replace(b"\\", b"\\\\").replace(b"\0", b"\\0000").replace(b"|", b"\\0174")
