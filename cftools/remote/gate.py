"""The gate: what a server's authorized_keys names as ``command=``, so that a key can run cftools' scripts and no more.

The manager sends ``cftools-gate <verb> <digest> <argument>...`` in harmless characters only. The gate, a POSIX shell
script, holds the text of every script it may run; what came decides which one, and with which arguments, after each
was held against the kind it must have. Nothing that came is ever run, or read as shell text.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from cftools import __version__
from cftools.remote.transport import Script

WORD = "cftools-gate"
REFUSED = 77  # exit status of a gate that did not run anything
PLAIN = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._/"  # and "-", which stands last in brackets
WRITING = frozenset(
    {
        *("unlink", "remove", "trash", "restore", "empty"),
        *("prepare", "publish", "discard", "pull", "receive", "sweep"),
    }
)
_PLAIN = frozenset(PLAIN.encode() + b"-")


class Rule(NamedTuple):
    """A script that a gate may run. ``kinds`` are those of its arguments, `HEAD` says which there are; one that ends in
    ``...`` stands for any number of arguments."""

    verb: str
    text: str
    kinds: str


class Gate(NamedTuple):
    """What one gate lets through.

    ``title`` says for which server it is, ``roots`` are the folders it keeps to. ``ways`` are the last arguments a pull
    may have. ``rsync``: a destination may fetch files from here. ``agent``: a pull uses the manager's SSH agent.
    """

    title: str
    roots: Sequence[str]
    rules: Sequence[Rule]
    ways: Sequence[Sequence[bytes]] = ()
    rsync: bool = False
    agent: bool = False


def command_line(script: Script) -> bytes:
    """The command line that makes a gate run this script."""
    return " ".join([WORD, script.verb, digest(script.text), *map(encode, script.arguments)]).encode()


def digest(text: str) -> str:
    """What tells one version of a script from another."""
    return hashlib.sha256(text.strip("\n").encode()).hexdigest()[:16]


def encode(argument: bytes) -> str:
    """The argument in harmless characters: ``%`` and three octal digits for any other byte, ``%`` for no bytes."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:03o}" for byte in argument) or "%"


def is_plain(path: str) -> bool:
    """Whether a folder shows as it is in the command line by which rsync fetches from it."""
    return _PLAIN.issuperset(path.encode())


def render(gate: Gate) -> str:
    """The gate as a shell script."""
    values = {
        "head": _head(gate),
        "plain": PLAIN,
        "roots": " ".join(map(shlex.quote, gate.roots)),
        "root": " | ".join(map(shlex.quote, gate.roots)),
        "below": " | ".join(f"{shlex.quote(root)}/*" for root in gate.roots),
        "ways": "".join(f"  {_is(way)} && return 0\n" for way in gate.ways),
        "verbs": "".join(f"    {_case(rule)}\n\n" for rule in gate.rules),
        "rsync": "yes" if gate.rsync else "no",
        "writes": "yes" if any(rule.verb in WRITING for rule in gate.rules) else "no",
        "refused": str(REFUSED),
    }
    # Split before anything is put in: a root may look like a place to fill in.
    return "".join(values[piece] if place % 2 else piece for place, piece in enumerate(_SCRIPT.split("@@")))


def _is(way: Sequence[bytes]) -> str:
    return " && ".join(f'[ "${place}" = {shlex.quote(value.decode())} ]' for place, value in enumerate(way, 1))


def _case(rule: Rule) -> str:
    text = rule.text.strip("\n")
    return f"{rule.verb}) digest={digest(text)} kinds={shlex.quote(rule.kinds)} text={shlex.quote(text)} ;;"


def _head(gate: Gate) -> str:
    """The comment at the top: what it is, how it is put to work, what it does not prevent."""
    verbs = {rule.verb for rule in gate.rules}
    lines = [
        f"{WORD} of cftools {__version__} for {gate.title}: keys that are bound to this script can make this server",
        "run what cftools sends, below these folders, and nothing else:",
        *(f"  {root}" for root in gate.roots),
        f"scripts: {' '.join(rule.verb for rule in gate.rules)}",
        "",
        "To put it to work, as root:",
        "  1. Keep this file as /usr/local/bin/cftools-gate, owned by root, mode 755, outside the folders above.",
        "  2. Let the account's authorized_keys hold nothing but such lines (OpenSSH 7.2 or later; better yet, keep",
        "     that file where the account cannot write). Its shell must be a real one, /bin/sh will do.",
        "     The manager's key:",
        f"       {_line('', agent=gate.agent and 'pull' in verbs)}",
    ]
    if gate.rsync:
        lines += [
            "     The keys with which destinations fetch files (distribute.via: pull):",
            f"       {_line(' rsync', owner='destination')}",
            "     or both in one, when destinations use the manager's SSH agent (distribute.forward_agent):",
            f"       {_line(' scripts rsync')}",
        ]
    lines += [
        "  3. Set `restricted: true` for this server in the manager's config, or under ssh for all of them.",
        "  4. Print it anew, with the same words, after cftools or the config changed; an old one refuses.",
        "",
        *_dangers(verbs, rsync=gate.rsync),
    ]
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _line(words: str, *, agent: bool = False, owner: str = "manager") -> str:
    options = "restrict,agent-forwarding" if agent else "restrict"
    return f'command="/usr/local/bin/cftools-gate{words}",{options} ssh-ed25519 AAAA... {owner}'


def _dangers(verbs: set[str], *, rsync: bool) -> list[str]:
    lines = ["What a stolen key can still do here: list names, sizes and times below the folders"]
    if "send" in verbs or rsync:
        lines.append("  and read the files there")
    if verbs & {"unlink", "remove", "trash", "empty"}:
        lines.append("  and delete files there")
    if "receive" in verbs:
        lines.append("  and put files of any content where none stood")
    if "pull" in verbs:
        lines.append("  and put files there, but only what a source holds under some name")
    lines[-1] += "."
    if rsync:
        lines += [
            "With the word rsync: the folder is held to those above, but rsync follows links that stand below it, and",
            "filter rules make it open any file this account may read, lines of which its complaints may tell. So let",
            "the account read nothing that is not for the destinations.",
        ]
    if verbs & WRITING:
        lines.append("Neither this file nor the account's home may lie below the folders: it refuses to work then.")
    return lines


# The places between @@ are filled in by `render`. Everything is quoted or checked before it is used unquoted.
_SCRIPT = r"""#!/bin/sh
@@head@@

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
unset ENV BASH_ENV CDPATH
IFS=' '
set -f
plain=@@plain@@

refuse() {
  printf 'cftools-gate: refused: %s\n' "$1" >&2
  logger -t cftools-gate -p auth.notice -- "refused to ${SSH_CONNECTION%% *}: $1" 2>/dev/null
  exit @@refused@@
}

# An argument as it was before it was encoded, in $word. The dot keeps newlines at its end.
decode() {
  word=
  case $1 in
    %) return 0 ;;
    *%) return 1 ;;
  esac
  IFS=%
  set -- $1
  IFS=' '
  octal=$1
  shift
  for piece do
    case $piece in
      000*) return 1 ;;
      [0-3][0-7][0-7]*) octal="$octal\\0$piece" ;;
      *) return 1 ;;
    esac
  done
  word=$(printf '%b.' "$octal")
  word=${word%.}
}

is_root() {
  case $1 in
    @@root@@) return 0 ;;
  esac
  return 1
}

# A file below a root, with no link on the way to it.
is_file() {
  case $1 in
    @@below@@) ;;
    *) return 1 ;;
  esac
  case $1/ in
    */../* | */./* | *//*) return 1 ;;
  esac
  above=$1
  until is_root "$above"; do
    [ ! -L "$above" ] || return 1
    above=${above%/*}
  done
}

is_base() {
  case $1 in
    '' | . | .. | */*) return 1 ;;
  esac
}

is_name() {
  case /$1/ in
    */../* | */./* | *//* | /.cftools-*) return 1 ;;
  esac
}

is_number() {
  case $1 in
    '' | *[!0-9]* | ???????????????????*) return 1 ;;
  esac
}

is_part() {
  case $1 in
    .cftools-part-????????????????) ;;
    *) return 1 ;;
  esac
  case ${1#.cftools-part-} in
    *[!0-9a-f]*) return 1 ;;
  esac
}

# Where a pull may fetch from, and how it logs in there: exactly what the manager's config said.
is_way() {
  [ $# -eq 6 ] || return 1
@@ways@@  return 1
}

is_of_kind() {
  case $1 in
    root) is_root "$2" ;;
    file) is_file "$2" ;;
    marker) [ -z "$2" ] || is_base "$2" ;;
    part) is_part "$2" ;;
    base) is_base "$2" ;;
    name) is_name "$2" ;;
    number) is_number "$2" ;;
    limit) [ -z "$2" ] || is_number "$2" ;;
    time) is_number "${2#-}" ;;
    way) ;; # all of these together, by is_way
    *) return 1 ;;
  esac
}

run_script() {
  [ $# -ge 2 ] || refuse 'a verb or its digest is missing'
  verb=$1 given=$2
  shift 2
  case $verb in
@@verbs@@    *) refuse "$verb is nothing this gate runs" ;;
  esac
  [ "$given" = "$digest" ] ||
    refuse "$verb: the manager runs another version of cftools than this gate was printed by; see cftools gate"
  left=$#
  while [ "$left" -gt 0 ]; do
    decode "$1" || refuse "$verb: an argument is not encoded as it should be"
    shift
    left=$((left - 1))
    kind=${kinds%% *}
    case $kind in
      *...) ;;
      *)
        kinds=${kinds#"$kind"}
        kinds=${kinds# }
        ;;
    esac
    is_of_kind "${kind%...}" "$word" ||
      refuse "$verb: argument $(($# - left + 1)): not a ${kind:-further argument} that this gate allows"
    set -- "$@" "$word"
  done
  case $kinds in
    *' '*) refuse "$verb: an argument is missing" ;;
    '' | *...) ;;
    *) refuse "$verb: an argument is missing" ;;
  esac
  if [ "$verb" = pull ]; then
    is_way "$8" "$9" "${10}" "${11}" "${12}" "${13}" ||
      refuse 'pull: not from a source, or not in the way, that this gate was printed for; see cftools gate'
  fi
  exec sh -c "$text" "cftools-$verb" "$@"
}

# What the rsync of a destination asks of a source. -s would hide the folder; the names come over its own protocol,
# where rsync itself keeps them below the folder.
send_by_rsync() {
  case "$1 ${2-} ${3-} ${4-}" in
    'rsync --server --sender -te.'*) ;;
    'rsync --server --sender -'*s*e.*) refuse 'rsync -s hides the folder, which then cannot be checked' ;;
    *) refuse 'rsync may only send files from here, as cftools asks for it' ;;
  esac
  flags=$4 options= names=
  shift 4
  while [ $# -gt 2 ]; do
    case $1 in
      --append | --inplace | --partial | --from0 | --no-relative) ;;
      --files-from=-) names=yes ;;
      --timeout=* | --bwlimit=*) is_number "${1#*=}" || refuse 'rsync: no number' ;;
      *) refuse "rsync $1: not what cftools asks for" ;;
    esac
    options="$options $1"
    shift
  done
  case $flags$names in
    *[!0-9A-Za-z.-]* | *-*-*) refuse "rsync $flags: not what cftools asks for" ;;
    *yes) ;;
    *) refuse 'rsync: without --files-from it sends nothing from here' ;;
  esac
  [ "${1-}" = . ] && is_root "${2%/}" && [ "$2" = "${2%/}/" ] || refuse 'rsync: no folder that this gate allows'
  exec rsync --server --sender "$flags" $options . "$2"
}

scripts= rsync=
[ $# -gt 0 ] || set -- scripts
for word do
  case $word in
    scripts) scripts=yes ;;
    rsync) rsync=@@rsync@@ ;;
    *) refuse "the line in authorized_keys says $word, which means nothing" ;;
  esac
done

# What binds this key must not lie where its scripts write, by whatever links that is.
if [ @@writes@@ = yes ]; then
  for root in @@roots@@; do
    real=$(cd -P -- "$root" 2>/dev/null && pwd -P) || real=$root
    for place in "${0%/*}" "${HOME:-$root}"; do
      there=$(cd -P -- "$place" 2>/dev/null && pwd -P) || there=$place
      case $there/ in
        "$real"/*) refuse "$place lies below $root, where what binds this key could be overwritten" ;;
      esac
    done
  done
fi

asked=${SSH_ORIGINAL_COMMAND-}
hint="only cftools' own scripts run here; the manager's config must say restricted: true for this server"
[ -n "$asked" ] || refuse "no login here; $hint"
[ "${#asked}" -le 65536 ] || refuse 'the command is too long'
case $asked in
  *[!$plain%=\ -]*) refuse "$hint" ;;
esac
set -- $asked
case ${1-} in
  cftools-gate)
    [ "$scripts" = yes ] || refuse 'this key may not run scripts'
    shift
    run_script "$@"
    ;;
  rsync)
    [ "$rsync" = yes ] || refuse 'this key may not use rsync here'
    send_by_rsync "$@"
    ;;
  *) refuse "$hint" ;;
esac
"""
