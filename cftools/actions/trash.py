"""The trash of a server: files that were asked to be deleted are moved into it, brought back, or deleted for good.

It lies in the root itself, as ``.cftools-trash/<YYYYMMDD>/<request>/<name>``, so that a move is a rename: whenever the
script is killed, each file is at its place or in the trash. Only its account can enter it (a web server cannot).

As in `cftools.actions.remove` a question that was cut off does nothing, it expires on the server's own clock, no link
is followed, and a ``+`` on stderr tells that the server is alive. Files that lie on another file system than the root
(mounted below it) are refused, for mv would copy them; a folder of the same file system that is mounted a second time
(a bind mount) is not told apart, and there mv does copy.

A name that the trash already holds for that day and request gets a number there (``name.~1~``), nothing is overwritten.
What is brought back is the newest file of that name; older ones stay until the trash is emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cftools.actions.remove import KINDS, check_ground, untold_verdicts
from cftools.actions.unlink import Ground, Verdict, encode
from cftools.model import names
from cftools.remote.transport import RemoteFault, Reply, Script, Transport

FOLDER = ".cftools-trash"

# In batches: a folder that is a link stops it before the batch is touched.
_BATCHES = r"""
names | xargs -0 -r -n 250 sh -c '
  real=
  for name; do
    above=${name%/*}; [ "$above" != "$real" ] || continue; real=$above
    while [ "$above" != . ]; do [ ! -L "$above" ] || { printf "@%s\0" "$above"; exit 255; }; above=${above%/*}; done
  done
  left=$(($0 + 1 - $(date +%s)))
  [ "$left" -gt 0 ] || { echo late >&2; exit 255; }
  timeout -s KILL "$left" sh -c "$work" cftools-trash "$@"
  case $? in 0) ;; 124|137) echo late >&2; exit 255 ;; *) exit 255 ;; esac; echo + >&2' "$3"
case $? in 0) printf end ;; *) printf cut ;; esac
"""
_QUESTION = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
if [ -n "$2" ] && [ ! -e "$2" ]; then exit 4; fi
question=$(cat)
case $question in *'|.') question=${question%'|.'} ;; *) exit 5 ;; esac
names() { printf '%b' "$question"; }
inside='for name; do case $name/ in */../*) exit 255 ;; ./*) ;; *) exit 255 ;; esac; done'
names | xargs -0 -r sh -c "$inside" cftools-inside || exit 9
[ ! -L .cftools-trash ] || exit 6
device=$(stat -c %d .) || exit 3
"""

# find says what each name is and on which device, put moves a folder's files by one mv. A folder that is put in a
# file's place between the two is moved as well. Folders are made when something goes into them.
TRASH = (
    _QUESTION
    + r"""
case $4 in *[!0-9]*) exit 9 ;; ????????) ;; *) exit 9 ;; esac
case $5 in ''|*[!0-9]*) exit 9 ;; esac
trash=.cftools-trash/$4/$5
if [ -L ".cftools-trash/$4" ] || [ -L "$trash" ]; then exit 6; fi
put='
  put() {
    into=$trash/$1; shift
    if mv -f --backup=numbered -t "$into" -- "$@"; then printf "%s\0" "$@"; return; fi
    for one; do
      if [ -e "$one" ] || [ -L "$one" ]; then printf "!f%s\0" "$one"
      elif [ -e "$trash/$one" ]; then printf "%s\0" "$one"; fi
    done
  }
  begun=
  for record; do
    [ -n "$begun" ] || set --
    begun=yes
    case $record in
      "$device ./"*) set -- "$@" "${record#* }" ;;
      "!"*) printf "%s\0" "$record" ;;
      *) printf "^%s\0" "${record#* }" ;;
    esac
  done
  [ $# -gt 0 ] || exit 0
  for name; do
    above=${name%/*}
    while [ "$above" != . ]; do [ ! -L "$trash/$above" ] || { printf "~\0"; exit 255; }; above=${above%/*}; done
  done
  mkdir -p -m 700 .cftools-trash
  above=
  for name; do
    [ "${name%/*}" = "$above" ] || { above=${name%/*}; printf "%s\0" "$trash/$above"; }
  done | xargs -0 -r mkdir -p --
  if there=$(stat -c %d -- "$trash" 2>/dev/null) && [ "$there" != "$device" ]; then
    for name; do printf "^%s\0" "$name"; done
    exit 0
  fi
  folder=
  for name; do
    if [ "${name%/*}" != "$folder" ]; then
      [ -z "$folder" ] || put "$folder" "$@"
      folder=${name%/*}
      set --
    fi
    set -- "$@" "$name"
  done
  put "$folder" "$@"
  exit 0'
work='find "$@" -maxdepth 0 -type f -printf "%D %p\0" -o -printf "!%y%p\0" | xargs -0 -r sh -c "$put" cftools-put
  case $? in 0) ;; *) exit 1 ;; esac'
export trash device put work
"""
    + _BATCHES
)

# mv -n overwrites nothing, not even what is put there at that moment; whether it moved a file is seen afterwards.
RESTORE = (
    _QUESTION
    + r"""
case $4 in ''|*[!0-9]*) exit 9 ;; esac
days=
if [ -e .cftools-trash ]; then
  if [ ! -r .cftools-trash ] || [ ! -x .cftools-trash ]; then exit 7; fi
  for day in .cftools-trash/[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]; do
    [ -e "$day" ] || [ -L "$day" ] || continue
    if [ -L "$day" ] || [ -L "$day/$4" ]; then exit 6; fi
    [ -x "$day" ] || exit 7
    [ ! -d "$day/$4" ] || days="$day/$4 $days"
  done
fi
work='
  bring() {
    from=$1; shift
    to=$from/; to=./${to#*/./}
    mkdir -p -- "$to"
    case $(stat -c %d -- "$from" "$to") in
      "$device
$device") mv -n -t "$to" -- "$@" ;;
      *) for one; do printf "^./%s\0" "${one#*/./}"; done; return ;;
    esac
    for one; do
      place=./${one#*/./}
      if [ ! -e "$one" ]; then [ ! -e "$place" ] || printf "%s\0" "$place"
      elif [ -e "$place" ] || [ -L "$place" ]; then printf "=%s\0" "$place"
      else printf "!f%s\0" "$place"; fi
    done
  }
  begun=
  for name; do
    [ -n "$begun" ] || set --
    begun=yes found= unknown=
    for day in $days; do
      above=$day/${name%/*}
      while [ "$above" != "$day/." ]; do [ ! -L "$above" ] || { printf "~\0"; exit 255; }; above=${above%/*}; done
      if [ -f "$day/$name" ] && [ ! -L "$day/$name" ]; then found=$day/$name; break; fi
      above=$day/${name%/*}; while [ ! -e "$above" ] && [ "$above" != "$day" ]; do above=${above%/*}; done
      [ -x "$above" ] || unknown=yes
    done
    if [ -e "$name" ] || [ -L "$name" ]; then
      if [ -n "$found" ]; then printf "=%s\0" "$name"; else printf "+%s\0" "$name"; fi
    elif [ -n "$unknown" ]; then printf "?%s\0" "$name"
    elif [ -z "$found" ]; then printf -- "-%s\0" "$name"
    else set -- "$@" "$found"; fi
  done
  folder=
  for path; do
    if [ "${path%/*}" != "$folder" ]; then
      [ -z "$folder" ] || bring "$folder" "$@"
      folder=${path%/*}
      set --
    fi
    set -- "$@" "$path"
  done
  [ -z "$folder" ] || bring "$folder" "$@"
  exit 0'
export days device work
"""
    + _BATCHES
)

# rm may take long, so something else tells that the server is alive. All of its complaints are read: a closed pipe
# would end it.
EMPTY = r"""
LC_ALL=C; export LC_ALL
cd -- "$1" || exit 3
if [ -n "$2" ] && [ ! -e "$2" ]; then exit 4; fi
[ ! -L .cftools-trash ] || exit 6
if [ -e .cftools-trash ]; then
  if [ ! -r .cftools-trash ] || [ ! -x .cftools-trash ]; then exit 7; fi
  ( while :; do echo + >&2; sleep 1 >/dev/null 2>&1; done ) </dev/null >/dev/null & ticker=$!
  for day in .cftools-trash/[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]; do
    number=${day#*/}
    if [ -L "$day" ]; then printf '!%s a link stands there\0' "$number"; continue; fi
    if [ ! -d "$day" ] || [ "$number" -ge "$3" ]; then continue; fi
    said=$(rm -rf --one-file-system -- "$day" 2>&1 | sed -n 1p)
    if [ -e "$day" ]; then printf '!%s %s\0' "$number" "$said"; else printf '+%s\0' "$number"; fi
  done
  kill "$ticker" 2>/dev/null
fi
printf end
"""

_DONE = Verdict("done")
NOT_THERE = Verdict("failed", "not in the trash")
_KNOWN = {  # the first character of a record, and what it says of the file
    "^": Verdict("failed", "it lies on another file system than the trash"),
    "=": Verdict("refused", "another file stands in its place"),
    "+": Verdict("already", "it stands there, and is not in the trash"),
    "-": NOT_THERE,
    "?": Verdict("failed", "a folder of the trash cannot be looked into"),
}


def move(transport: Transport, ground: Ground, folder: str, file_names: Sequence[str]) -> list[Verdict | None]:
    """Moves the files of these names into ``folder`` of the trash, ``YYYYMMDD/<request>``; a verdict a name.

    `already`: it was not there. `failed`: it is still there, or it is not known whether; the detail says why. None: the
    question expired before it was this one's turn, or while it was. Names must be safe (`names.unsafe`). Raises
    RemoteFault when there is no whole answer; its kind tells whether anything may have been moved.
    """
    day, _, request = folder.partition("/")
    script = Script("trash", TRASH, (*_words(ground), day.encode(), request.encode()))

    def untold(some: Sequence[str], reply: Reply) -> Mapping[str, Verdict]:
        return untold_verdicts(transport, ground, some, reply)

    return _verdicts(transport, ground, script, untold, file_names)


def restore(transport: Transport, ground: Ground, request: int, file_names: Sequence[str]) -> list[Verdict | None]:
    """Brings the files of these names back that a request moved into the trash; a verdict a name, in their order.

    `done` it is back, `already` it stands there and the trash has none, `refused` another file stands in its place,
    `failed` all else; None as in `move`. Raises RemoteFault when there is no whole answer.
    """
    script = Script("restore", RESTORE, (*_words(ground), str(request).encode()))

    def untold(some: Sequence[str], reply: Reply) -> Mapping[str, Verdict]:
        del reply
        return dict.fromkeys(some, Verdict("failed", "it vanished while it was brought back"))

    return _verdicts(transport, ground, script, untold, file_names)


class Emptied(NamedTuple):
    """Days of the trash that are gone, and those that are not with the reason; days as YYYYMMDD."""

    removed: Sequence[int]
    left: Mapping[int, str]


def empty(transport: Transport, root: str, marker: str, before: int) -> Emptied:
    """Deletes for good what was moved into the trash on days before ``before``, a date as the number YYYYMMDD.

    Raises RemoteFault when there is no whole answer; asking again goes on where it ended.
    """
    words = (root.encode(), marker.encode(), str(before).encode())
    reply = transport.call(Script("empty", EMPTY, words))
    _check(transport.server, Ground(root, marker, 0), reply)
    records = names.text_from_bytes(reply.out).split("\0")
    if reply.status != 0 or records[-1] != "end":
        raise RemoteFault(transport.server, "broken", f"emptying the trash was cut off: {reply.complaint()}")
    told = [(record[0], *record[1:].partition(" ")) for record in records[:-1]]
    removed = [int(day) for mark, day, _, _ in told if mark == "+"]
    left = {int(day): why or "rm: could not delete it" for mark, day, _, why in told if mark == "!"}
    return Emptied(removed, left)


def _words(ground: Ground) -> tuple[bytes, bytes, bytes]:
    return ground.root.encode(), ground.marker.encode(), str(ground.expires).encode()


def _check(server: str, ground: Ground, reply: Reply) -> None:
    check_ground(server, ground, reply)
    if reply.status == 6:
        raise RemoteFault(server, "refused", f"{FOLDER} in {ground.root}, or a folder in it, is a link")
    if reply.status == 7:
        raise RemoteFault(server, "refused", f"{FOLDER} in {ground.root} cannot be looked into")


class _Told(NamedTuple):
    """What one call told: verdicts; a folder that is a link, before which it stopped; whether it ran out of time."""

    verdicts: Mapping[str, Verdict]
    link: str = ""
    late: bool = False


def _verdicts(
    transport: Transport,
    ground: Ground,
    script: Script,
    untold: Callable[[Sequence[str], Reply], Mapping[str, Verdict]],
    file_names: Sequence[str],
) -> list[Verdict | None]:
    """Asks until each name has its verdict: before a folder that is a link the script stops, and is asked without."""
    verdicts: dict[str, Verdict] = {}
    # Those of one folder stand together: one mv moves them.
    left = sorted(set(file_names), key=lambda name: (name.rpartition("/")[0], name))
    while left:
        question = encode(b"".join(b"./%b\0" % names.bytes_from_text(name) for name in left)) + b"|."
        reply = transport.call(script, question)
        told = _told(transport.server, ground, reply)
        verdicts |= told.verdicts
        left = [name for name in left if name not in verdicts]
        if told.late:
            break
        if not told.link:
            verdicts |= untold(left, reply) if left else {}
            break
        below = [name for name in left if name.startswith(told.link + "/")]
        if not below:
            raise RemoteFault(transport.server, "broken", "the answer tells of a link that nobody asked about")
        verdicts |= dict.fromkeys(below, Verdict("failed", f"{names.display(told.link)}, on its way, is a link"))
        left = [name for name in left if name not in verdicts]
    return [verdicts.get(name) for name in file_names]


def _told(server: str, ground: Ground, reply: Reply) -> _Told:
    _check(server, ground, reply)
    *records, closing = names.text_from_bytes(reply.out).split("\0")
    if reply.status != 0 or closing not in ("end", "cut"):
        raise RemoteFault(server, "broken", f"the answer was cut off: {reply.complaint()}")
    words = reply.err.decode(errors="replace").splitlines()
    refusals = [line for line in words if line.startswith(("mv:", "mkdir:"))]
    verdicts: dict[str, Verdict] = {}
    link = ""
    for record in records:
        if record.startswith("./"):
            verdicts[record[2:]] = _DONE
        elif record.startswith("!"):
            kind, name = record[1], record[4:]
            what = f"not a regular file but {KINDS[kind]}" if kind in KINDS else _refusal(name, refusals)
            verdicts[name] = Verdict("failed", what)
        elif record.startswith("@"):
            link = record[3:]
        elif record.startswith("~"):
            raise RemoteFault(server, "broken", f"a folder in {FOLDER} of {ground.root} is a link")
        elif record[:1] in _KNOWN:
            verdicts[record[3:]] = _KNOWN[record[0]]
    late = closing == "cut" and "late" in words
    if closing == "cut" and not link and not late:
        raise RemoteFault(server, "broken", f"it stopped in the middle: {reply.complaint()}")
    return _Told(verdicts, link, late)


def _refusal(name: str, refusals: Sequence[str]) -> str:
    """mv's own words about this file; its quotes differ for odd names, so then any of its words will do."""
    own = [line for line in refusals if f"'./{names.display(name)}'" in line]
    return (own or [*refusals, "mv: could not move it"])[0]
