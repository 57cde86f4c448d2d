"""File names: any bytes in, the same bytes out.

A file name on a server or in a log is a string of bytes. Inside cftools it is text (a ``str`` that is valid UTF-8, so
that frames, SQLite and JSON can hold it): valid UTF-8 stands for itself, and each byte that is not part of valid UTF-8
is written as the one private-use character U+F700 + byte, that is U+F780 to U+F7FF. The real characters of that range
count as invalid bytes too, which makes the mapping reversible for every name.

In JSON rows such a byte is written as the escape ``\\udcXX`` (a lone low surrogate, Python's surrogateescape,
PEP 383), so ``os.fsencode(json.loads(row)["name"])`` gives the bytes back.
"""

from __future__ import annotations

import re

MARK = 0xF700  # an invalid byte b is held as chr(MARK + b)
OWN_PREFIX = b".cftools-"  # files of cftools itself on a server (unfinished copies, the mount marker); never holdings
PARTIAL_PREFIX = b".cftools-part-"  # the folder of one unfinished copy, at the top of a root
LONGEST_COMPONENT = 255  # bytes, NAME_MAX of Linux file systems
LONGEST_NAME = 3072  # bytes below the root; leaves room for the root inside PATH_MAX (4096)

_MARKS = re.compile("[\uf780-\uf7ff]")
_MARK_BYTES = re.compile(rb"\xef(?:\x9e[\x80-\xbf]|\x9f[\x80-\xbf])")
_SURROGATES = re.compile("[\udc80-\udcff]")
_JSON_TOKENS = re.compile(
    rb"\\\\"  # an escaped backslash: what follows is plain text
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a surrogate pair: one real character
    rb"|\\u[dD][cC](?P<byte>[89a-fA-F][0-9a-fA-F])"  # a byte that is not UTF-8
    rb"|\\u[fF]7(?P<escaped>[89a-fA-F][0-9a-fA-F])"  # a real character of the marks' range
    rb"|(?P<raw>\xef(?:\x9e[\x80-\xbf]|\x9f[\x80-\xbf]))"
)
_JSON_NEEDS_MARKS = re.compile(rb"\\u(?:[dD][cC]|[fF]7)[89a-fA-F]|\xef[\x9e\x9f]")


def text_from_bytes(raw: bytes) -> str:
    """The text form of ``raw``: one name, or a whole buffer of names with ASCII separators."""
    if b"\xef" not in raw or not (b"\xef\x9e" in raw or b"\xef\x9f" in raw):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            pass
    # U+F780..U+F7FF themselves are taken apart into three invalid bytes: break each by hiding its lead byte.
    pieces: list[str] = []
    start = 0
    for match in _MARK_BYTES.finditer(raw):
        pieces.append(_with_marks(raw[start : match.start()]))
        pieces.append("".join(chr(MARK + byte) for byte in match.group()))
        start = match.end()
    pieces.append(_with_marks(raw[start:]))
    return "".join(pieces)


def _with_marks(raw: bytes) -> str:
    return _SURROGATES.sub(lambda found: chr(MARK + ord(found.group()) - 0xDC00), raw.decode(errors="surrogateescape"))


def bytes_from_text(text: str) -> bytes:
    """The bytes that ``text_from_bytes`` was given."""
    if not _MARKS.search(text):
        return text.encode()
    return _MARKS.sub(lambda found: chr(0xDC00 + ord(found.group()) - MARK), text).encode(errors="surrogateescape")


def json_from_marks(encoded: bytes) -> bytes:
    """Encoded JSON whose names are in text form, with each marked byte rewritten as ``\\udcXX``."""
    if b"\xef" not in encoded or not (b"\xef\x9e" in encoded or b"\xef\x9f" in encoded):
        return encoded
    return _MARK_BYTES.sub(lambda found: b"\\udc%02x" % (ord(found.group().decode()) - MARK), encoded)


def marks_from_json(encoded: bytes) -> bytes:
    """Encoded JSON with its names brought into text form, so that any JSON reader can take it."""
    if not _JSON_NEEDS_MARKS.search(encoded):
        return encoded
    return _JSON_TOKENS.sub(_mark_token, encoded)


def _mark_token(found: re.Match[bytes]) -> bytes:
    if found["byte"]:
        return chr(MARK + int(found["byte"], 16)).encode()
    if found["escaped"]:
        return text_from_bytes(chr(MARK + int(found["escaped"], 16)).encode()).encode()
    if found["raw"]:
        return text_from_bytes(found["raw"]).encode()
    return found.group()


def display(text: str) -> str:
    """The name for people: bytes that are not UTF-8 and control characters as ``\\xNN``, on one line."""
    shown = _MARKS.sub(lambda found: f"\\x{ord(found.group()) - MARK:02x}", text)
    return "".join(c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in c.encode()) for c in shown)


def folders(name: str) -> list[str]:
    """The folders on the way to a relative name, the uppermost first: ``a/b/c`` lies in ``a`` and ``a/b``."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def unsafe(name: str) -> str:
    """Why ``name`` cannot stand for a file below a root, or the empty string when it can.

    The last line of defence before a name goes to a server: relative, no ``..``, no empty part, no NUL,
    no part longer than a file system takes, and not one of cftools' own names.
    """
    if not name:
        return "empty name"
    if "\0" in name:
        return "NUL in the name"
    if name.startswith("/"):
        return "absolute path"
    raw = bytes_from_text(name)
    if len(raw) > LONGEST_NAME:
        return f"longer than {LONGEST_NAME} bytes"
    parts = raw.split(b"/")
    for part in parts:
        if part in (b"", b".", b".."):
            return f"path part {part.decode()!r}"
        if len(part) > LONGEST_COMPONENT:
            return f"a part longer than {LONGEST_COMPONENT} bytes"
    if parts[0].startswith(OWN_PREFIX):
        return "a name that cftools keeps for itself"
    return ""
