"""Deleting files that were asked for by name, whatever their size: one call a server and partition.

The question goes over stdin as ``<names>|.``, NUL after each name, encoded so that a shell variable can hold it.
Without its end, which a cut-off question lacks, the server does nothing. Only regular files are deleted, and none below
a link. As in `cftools.actions.unlink` the question expires on the server's own clock and what works on it is killed
then, and a ``+`` a group on stderr tells that the server is alive.

The reply: the names that were deleted, and ``!``, a letter for the kind (as find's ``%y``) and the name of each that
stands there all the same; NUL after each; ``end``. A name of which nothing is said was not there, if stderr proves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cftools.actions.unlink import GONE, Ground, Verdict, encode
from cftools.facts import presence
from cftools.model import names
from cftools.remote.gate import REFUSED
from cftools.remote.transport import RemoteFault, Reply, Script, Transport

# find looks and deletes name by name, so that little time lies between the two. Its own complaints go to stderr. Links
# are looked for up to the = behind the last name, whose exit status xargs tells as 123: a program that fails on the way
# there must not look like folders without links.
REMOVE = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
if [ -n "$2" ] && [ ! -e "$2" ]; then exit 4; fi
question=$(cat)
case $question in *'|.') question=${question%'|.'} ;; *) exit 5 ;; esac
names() { printf '%b' "$question"; }
names | tr '\0\n' '\n\0' | grep -aqE '^[^.]|^\.[^/]|^\.?$|/\.\.(/|$)'
case $? in 0) exit 9 ;; 1) ;; *) exit 5 ;; esac
{ names | sed -z 's,/[^/]*$,,' && printf '=\0'; } | uniq -z | xargs -0 sh -c 'for above; do
  [ "$above" != = ] || exit 1
  while [ "$above" != . ]; do [ ! -L "$above" ] || { printf "@%s\0" "$above"; exit 255; }; above=${above%/*}; done
  done' cftools-links 2>/dev/null
[ "$?" -eq 123 ] || { printf cut; exit 0; }
names | xargs -0 -r -n 2000 sh -c 'left=$(($0 + 1 - $(date +%s)))
  [ "$left" -gt 0 ] || { echo late >&2; exit 255; }
  timeout -s KILL "$left" find "$@" -maxdepth 0 -type f -delete -printf "%p\0" -o -printf "!%y%p\0"
  case $? in 0|1) echo + >&2; exit 0 ;; 124|137) echo late >&2 ;; esac; exit 255' "$3" && printf end || printf cut
"""

DONE = Verdict("done")
ALREADY = Verdict("already", "not there any more")
KINDS = {"d": "a folder", "l": "a link", "p": "a pipe", "s": "a socket", "b": "a device", "c": "a device"}


def remove(transport: Transport, ground: Ground, file_names: Sequence[str]) -> list[Verdict | None]:
    """Deletes the files of these names below ``ground.root``; a verdict a name, in their order.

    `already`: it was not there. `failed`: it is still there, or it is not known whether; the detail says why. None: the
    question expired before it was this one's turn, or while it was. Names must be safe (`names.unsafe`); one given
    twice gets one verdict twice. Raises RemoteFault when there is no whole answer; its kind tells whether anything may
    have been deleted.
    """
    verdicts: dict[str, Verdict] = {}
    while left := [name for name in dict.fromkeys(file_names) if name not in verdicts]:
        found, link, late = _ask(transport, ground, left)
        verdicts |= found
        if link:
            below = [name for name in left if name.startswith(link + "/")]
            if not below:
                raise RemoteFault(transport.server, "broken", "the answer tells of a link that nobody asked about")
            verdicts |= dict.fromkeys(below, Verdict("failed", f"{names.display(link)}, on its way, is a link"))
        elif late or not found:
            break
    return [verdicts.get(name) for name in file_names]


class _Told(NamedTuple):
    """What one call told: verdicts; a folder that is a link, before which it stopped; whether it ran out of time."""

    verdicts: dict[str, Verdict]
    link: str = ""
    late: bool = False


def _ask(transport: Transport, ground: Ground, wanted: Sequence[str]) -> _Told:
    asked = names.bytes_from_text("".join(f"./{name}\0" for name in wanted))
    question = encode(asked) + b"|."
    words = (ground.root.encode(), ground.marker.encode(), str(ground.expires).encode())
    reply = transport.call(Script("remove", REMOVE, words), question)
    check_ground(transport.server, ground, reply)
    if reply.status == 0 and reply.out == asked + b"end":
        return _Told(dict.fromkeys(wanted, DONE))
    records = reply.out.split(b"\0")
    if reply.status != 0 or records[-1] not in (b"end", b"cut"):
        raise RemoteFault(transport.server, "broken", f"the answer to a deletion was cut off: {reply.complaint()}")
    verdicts, link = _told(records[:-1], reply)
    if records[-1] == b"cut":
        late = b"\nlate\n" in b"\n" + reply.err
        if not link and not late:
            raise RemoteFault(transport.server, "broken", f"it stopped in the middle: {reply.complaint()}")
        return _Told(verdicts, link, late)
    untold = [name for name in wanted if name not in verdicts]
    return _Told(verdicts | untold_verdicts(transport, ground, untold, reply))


def _told(records: Iterable[bytes], reply: Reply) -> tuple[dict[str, Verdict], str]:
    verdicts: dict[str, Verdict] = {}
    link = ""
    refusals = [line for line in reply.err.decode(errors="replace").splitlines() if line.startswith("find:")]
    for text in names.text_from_bytes(b"\0".join(records)).split("\0"):
        if text.startswith("./"):
            verdicts[text[2:]] = DONE
        elif text.startswith("@./"):
            link = text[3:]
        elif text.startswith("!"):
            kind, name = text[1], text[4:]
            odd = Verdict("failed", f"not a regular file but {KINDS[kind]}") if kind in KINDS else None
            verdicts[name] = odd or _refusal(name, refusals)
    return verdicts, link


def _refusal(name: str, refusals: Sequence[str]) -> Verdict:
    """find's own words about this file; its quotes differ for odd names, so then any of its words will do."""
    own = [line for line in refusals if f"'./{names.display(name)}'" in line]
    if own and own[0].endswith(GONE):  # somebody deleted it after find had looked
        return ALREADY
    others = [line for line in refusals if not line.endswith(GONE)]
    return Verdict("failed", (own or [*others, "find: could not delete it"])[0])


def untold_verdicts(transport: Transport, ground: Ground, untold: Sequence[str], reply: Reply) -> dict[str, Verdict]:
    """Names of which nothing was said are gone if find said of as many that there is no such file; else one looks."""
    if not untold:
        return {}
    complaints = [line for line in reply.err.decode(errors="replace").splitlines() if line.startswith("find:")]
    if sum(line.endswith(GONE) for line in complaints) >= len(untold) == len(complaints):
        return dict.fromkeys(untold, ALREADY)
    try:
        found = presence.gone(transport, ground.root, ground.marker, untold).gone
    except RemoteFault as fault:  # whatever its kind says of this question, the one before it was carried out
        raise RemoteFault(fault.server, "broken", fault.detail) from fault
    unknown = Verdict("failed", "its folder cannot be looked into, so it may still be there")
    there = Verdict("failed", "it was put there while it was looked at")
    return {name: {True: ALREADY, False: there, None: unknown}[found[name]] for name in untold}


def check_ground(server: str, ground: Ground, reply: Reply) -> None:
    """Raises RemoteFault for the exit statuses by which a script says that it did nothing."""
    if reply.status == 3:
        raise RemoteFault(server, "refused", f"{ground.root} cannot be entered")
    if reply.status == 4:
        raise RemoteFault(server, "refused", f"{ground.marker} does not stand in {ground.root}: is the disk mounted?")
    if reply.status == 9:
        raise RemoteFault(server, "refused", "a name leads out of the root")
    if reply.status == REFUSED:
        raise RemoteFault(server, "refused", reply.complaint())
