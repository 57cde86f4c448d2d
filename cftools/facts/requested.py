"""The files an application asks to delete: lines, JSON rows or a JSON array in; blocks of names, and what is wrong
with them, out.

A *block* is some names as bytes in their order, a NUL after each. Where a name has a NUL itself, which no file name
has, it is a list instead. Blocks of any size are as good as one of all names. Names that are not UTF-8 stand as they
are in lines, and as ``\\udcXX`` escapes in JSON, see `cftools.model.names`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import msgspec

from cftools.model import names
from cftools.model.errors import InputUnusable, UsageFault

Block = bytes | list[bytes]

BLOCK_BYTES = 1 << 20
LONGEST_VALUE = 1 << 20  # bytes of one JSON row or string; more is not read to its end
BLANK = b" \t\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
AS_LINES = "say --input lines if it is plain names, one a line"

_CONTROLS = bytes(range(0x20)) + b"\x7f"
_LATE_CONTROL = re.compile(rb"\xc2[\x80-\x9f]")  # U+0080 to U+009F
_DOTS = re.compile(rb"[\0/]\.{1,2}[\0/]|\0" + re.escape(names.OWN_PREFIX))
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_STRING = re.compile(rb'\s*"(?:[^"\\]|\\.)*"\s*,', re.DOTALL)


class Unfit(NamedTuple):
    """A name that cannot be asked for. ``number`` counts the names from 1; in lines it is the line's."""

    number: int
    name: str
    why: str

    def __str__(self) -> str:
        shown = names.display(self.name)
        shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
        return f"file {self.number:,} ('{shown}'): {self.why}"


class _Row(msgspec.Struct, gc=False):
    resource: str


_rows = msgspec.json.Decoder(_Row)
_array = msgspec.json.Decoder(list[str])


def read(stream: BinaryIO, path: str, form: str = "") -> Iterator[Block]:
    """The blocks of a stream. ``form``: lines, ndjson or json; empty: as its first byte that is not blank says.

    ``path`` names the stream in messages. Raises UsageFault for another form, InputUnusable when the stream cannot be
    read, is not of that form, is cut off (which lines cannot tell), or is empty; an array may be.
    """
    if form and form not in FORMS:
        raise UsageFault(f"--input {form}: give one of {', '.join(FORMS)}")
    ahead = _Ahead(stream, path)
    if not ahead.first.strip(BLANK):
        what = "it names no file"
        raise InputUnusable(path, what, "see why what writes it wrote nothing; a request without files is `[]`")
    if not form and ahead.first.startswith(BYTE_ORDER_MARK):
        raise InputUnusable(path, "it begins with a byte order mark", "write it as UTF-8 without one")
    return FORMS[form or _form(ahead.first)](ahead, path, "" if form else AS_LINES)


def _form(first: bytes) -> str:
    return {b"[": "json", b"{": "ndjson"}.get(first.lstrip(BLANK)[:1], "lines")


class _Ahead:
    """A stream of which the first bytes, up to one that is not blank, are known before they are read."""

    def __init__(self, stream: BinaryIO, path: str) -> None:
        self._stream, self._path = stream, path
        self.first = b""
        while not self.first.strip(BLANK) and len(self.first) < BLOCK_BYTES and (block := self._more()):
            self.first += block

    def blocks(self) -> Iterator[bytes]:
        """All of the stream."""
        yield self.first
        while block := self._more():
            yield block

    def _more(self) -> bytes:
        try:
            return self._stream.read(BLOCK_BYTES)
        except OSError as fault:
            raise InputUnusable(self._path, f"cannot be read: {fault.strerror or fault}") from fault


def _whole_lines(stream: _Ahead, overlong: Callable[[], None]) -> Iterator[bytes]:
    """The stream in pieces that end in a newline, the last one by our doing. Of a line much longer than a JSON row may
    be the middle is dropped, after a call of ``overlong``: a stream without newlines does not fill the memory."""
    rest = b""
    for block in stream.blocks():
        cut = block.rfind(b"\n") + 1
        if cut:
            yield rest + block[:cut]
            rest = block[cut:]
        elif len(rest) <= LONGEST_VALUE:
            rest += block
        else:
            overlong()
    if rest:
        yield rest + b"\n"


def _of_lines(stream: _Ahead, _path: str, _hint: str) -> Iterator[Block]:
    for lines in _whole_lines(stream, lambda: None):  # the name is too long anyway
        if b"\0" in lines:
            yield lines.split(b"\n")[:-1]
        else:
            yield lines.replace(b"\n", b"\0")


def _of_rows(stream: _Ahead, path: str, hint: str) -> Iterator[Block]:
    number = 1

    def overlong() -> None:
        raise InputUnusable(path, f"a row of more than {LONGEST_VALUE >> 20} MiB", hint, line=number)

    for lines in _whole_lines(stream, overlong):
        try:
            rows = _rows.decode_lines(names.marks_from_json(lines))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
            raise _bad_row(lines, path, number, hint) from fault
        yield joined([row.resource for row in rows])
        number += lines.count(b"\n")


def _bad_row(lines: bytes, path: str, number: int, hint: str) -> InputUnusable:
    fault: Exception | str = "a row goes over several lines"
    for place, line in enumerate(lines.split(b"\n"), number):
        try:
            if line.strip(BLANK):
                _rows.decode(names.marks_from_json(line))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as found:
            fault, number = found, place
            break
    what = f'not a row like {{"resource": "a/b.jpg"}}: {fault}'
    return InputUnusable(path, what, hint, line=number)


def _of_array(stream: _Ahead, path: str, hint: str) -> Iterator[Block]:
    held, opened, count = b"", False, 0
    for block in stream.blocks():
        held += block
        if not opened:
            held = held.lstrip(BLANK)
            if held and not held.startswith(b"["):
                raise InputUnusable(path, "not a JSON array: it does not begin with [", hint)
            opened, held = bool(held), held[1:]
        cut, found = _cut(held)
        if found:
            yield joined(found)
            count, held = count + len(found), held[cut:]
        elif len(held) > LONGEST_VALUE:
            raise _bad_array(held, path, count, hint)
    try:
        last = _array.decode(names.marks_from_json(b"[" + held)) if opened else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        last = None
    if last is None or (count and not last):  # the second: nothing after a comma
        raise _bad_array(held, path, count, hint)
    yield joined(last)


def _cut(held: bytes) -> tuple[int, list[str]]:
    """The strings of a piece of an array up to some comma between two of them, and the place behind that comma."""
    comma = held.rfind(b'",') + 1
    if not comma:
        return 0, []
    try:
        # A comma inside a string is no danger: the string would not end.
        return comma + 1, _array.decode(names.marks_from_json(b"[" + held[:comma] + b"]"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    end = 0
    while string := _STRING.match(held, end):
        end = string.end()
    try:
        return end, _array.decode(names.marks_from_json(b"[" + held[:end].rstrip(BLANK)[:-1] + b"]"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0, []


def _bad_array(held: bytes, path: str, count: int, hint: str) -> InputUnusable:
    """What is wrong with the rest of an array of which ``count`` strings were read."""
    end = 0
    while string := _STRING.match(held, end):
        try:
            _array.decode(names.marks_from_json(b"[" + string.group().rstrip(BLANK)[:-1] + b"]"))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            break
        end, count = string.end(), count + 1
    if not held[end:].strip(BLANK) or re.fullmatch(rb'\s*"(?:[^"\\]|\\.)*(?:\\|"\s*)?', held[end:], re.DOTALL):
        return InputUnusable(path, f"the JSON array is cut off after {count:,} strings", hint)
    what = f"not a JSON array of strings: string {count + 1:,}, or what follows it, is something else"
    return InputUnusable(path, what, hint)


FORMS: dict[str, Callable[[_Ahead, str, str], Iterator[Block]]] = {
    "lines": _of_lines,
    "ndjson": _of_rows,
    "json": _of_array,
}


def strings(encoded: bytes) -> list[str]:
    """The strings of one JSON array, in text form. Raises ValueError when it is anything else."""
    try:
        return _array.decode(names.marks_from_json(encoded))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise ValueError(f"not a JSON array of strings: {fault}") from fault


def joined(some: Sequence[str]) -> Block:
    """The block of names in text form."""
    if not some:
        return b""
    whole = "\0".join(some) + "\0"
    if whole.count("\0") != len(some):
        return [names.bytes_from_text(name) for name in some]
    raw = whole.encode()
    # The marks are looked for in the bytes, where that is ten times as fast.
    return names.bytes_from_text(whole) if b"\xef\x9e" in raw or b"\xef\x9f" in raw else raw


def each(block: Block) -> list[bytes]:
    """The names of a block."""
    return block.split(b"\0")[:-1] if isinstance(block, bytes) else block


def unfit(block: Block, first: int = 1) -> Iterator[Unfit]:
    """The names that cannot be asked for; ``first``: the number of the block's first name."""
    if isinstance(block, bytes) and _is_fit(block):
        return
    for number, raw in enumerate(each(block), first):
        name = names.text_from_bytes(raw)
        if why := _why_unfit(name):
            yield Unfit(number, name, why)


def _is_fit(block: bytes) -> bool:
    """Whether nothing in the whole block looks wrong; it takes a few dozen nanoseconds a name."""
    whole = b"\0" + block
    if len(block.translate(None, _CONTROLS)) + block.count(b"\0") != len(block):
        return False
    if any(piece in whole for piece in (b"\0\0", b"\0/", b"//", b"/\0")):
        return False
    if (b"/." in whole or b"\0." in whole) and _DOTS.search(whole):
        return False
    if b"\xc2" in block and _LATE_CONTROL.search(block):
        return False
    longest = max(map(len, block.split(b"\0")))
    if longest > names.LONGEST_COMPONENT:
        parts = max(map(len, block.replace(b"/", b"\0").split(b"\0")))
        return longest <= names.LONGEST_NAME and parts <= names.LONGEST_COMPONENT
    return True


def _why_unfit(name: str) -> str:
    why = names.unsafe(name)
    if not why and (control := _CONTROL.search(name)):
        why = f"control character U+{ord(control.group()):04X}"
        if name.endswith("\r"):
            why += "; lines end in a newline alone"
    return why
