"""Names out of lines, JSON rows and JSON arrays, however the stream is divided; and which names cannot be asked for."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Iterable
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftools.facts import requested
from cftools.model import names
from cftools.model.errors import InputUnusable, UsageFault

FORMS = ("lines", "ndjson", "json")
ANY_NAME = st.binary(max_size=30) | st.sampled_from([b"a,b", b'",', b"\\", b'\\",', b"[", b"{", b"]", b"\xef\x9e\x80"])
SEEDS = st.integers(0, 2**32)


class Trickle:
    """A stream that gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._left, self._chance = data, random.Random(seed)

    def read(self, size: int = -1) -> bytes:
        del size
        count = self._chance.randint(1, 9)
        piece, self._left = self._left[:count], self._left[count:]
        return piece


def trickle(data: bytes, seed: int = 1) -> BinaryIO:
    return cast(BinaryIO, Trickle(data, seed))


def encoded(form: str, wanted: Iterable[bytes], *, ascii_only: bool = True) -> bytes:
    """The names as Python's own json writes them, which escapes bytes that are not UTF-8 as rows do."""
    if form == "lines":
        return b"".join(name + b"\n" for name in wanted)
    texts = [os.fsdecode(name) for name in wanted]
    if form == "json":
        return json.dumps(texts, ensure_ascii=ascii_only, indent=1).encode()
    rows = [json.dumps({"id": 7, "resource": text, "x": [{}]}, ensure_ascii=ascii_only) for text in texts]
    return "".join(row + "\n" for row in rows).encode()


def names_in(stream: BinaryIO, form: str = "") -> list[bytes]:
    return [name for block in requested.read(stream, "stdin", form) for name in requested.each(block)]


def fault_of(data: bytes, form: str = "") -> str:
    with pytest.raises(InputUnusable) as raised:
        names_in(io.BytesIO(data), form)
    return str(raised.value)


@pytest.mark.parametrize("form", FORMS)
@given(wanted=st.lists(ANY_NAME, min_size=1), seed=SEEDS)
def test_any_bytes_come_through_each_form_however_the_stream_is_divided(
    form: str, wanted: list[bytes], seed: int
) -> None:
    if form == "lines":
        wanted = [b"one", *(name.replace(b"\n", b"") for name in wanted)]
    data = encoded(form, wanted)
    assert names_in(trickle(data, seed), form) == wanted
    assert names_in(io.BytesIO(data), form) == wanted


@given(texts=st.lists(st.text(max_size=10), min_size=1), seed=SEEDS)
@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_json_may_hold_plain_utf8(form: str, texts: list[str], seed: int) -> None:
    wanted = [text.encode() for text in texts]
    assert names_in(trickle(encoded(form, wanted, ascii_only=False), seed)) == wanted


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"a/b.jpg\nc.jpg", [b"a/b.jpg", b"c.jpg"]),
        (b"\xff\xfe.jpg\n", [b"\xff\xfe.jpg"]),
        (b" \r\n\t[\n]\n", []),
        (b"[]", []),
        (b'\n{"resource": "a"}\r\n\r\n{"resource":"b"}', [b"a", b"b"]),
        (b'["a"\n,\t"b" ,"c"]', [b"a", b"b", b"c"]),
        (b'["a,b", ",c", "\\",d", "\\\\"]\n', [b"a,b", b",c", b'",d', b"\\"]),
        (b'["\\udcff\\ud83d\\ude00\\\\udcff"]', [b"\xff\xf0\x9f\x98\x80\\udcff"]),
    ],
)
def test_a_stream_is_taken_for_what_it_begins_with(data: bytes, found: list[bytes]) -> None:
    assert names_in(io.BytesIO(data)) == found
    assert names_in(trickle(data)) == found


@pytest.mark.parametrize("name", [b"[draft] 1.jpg", b"{a}.jpg", b'["a"]'])
def test_names_that_look_like_json_are_lines_when_that_is_said(name: bytes) -> None:
    assert names_in(io.BytesIO(name + b"\n"), "lines") == [name]


@pytest.mark.parametrize("data", [b"[draft] 1.jpg\nb.jpg\n", b"{a}.jpg\n", b'[a", "b.jpg\n', b"  [x]\n"])
def test_names_that_look_like_json_say_what_to_do(data: bytes) -> None:
    assert fault_of(data).endswith("; say --input lines if it is plain names, one a line")


@pytest.mark.parametrize("cut", range(1, 30))
@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_json_that_is_cut_off_is_refused(form: str, cut: int) -> None:
    data = encoded(form, [b"a", b'b",', b"\\c\\", b"\xff"]).rstrip()
    assert fault_of(data[:-cut], form).startswith("stdin:")
    if form == "json" and cut < 25:
        assert "the JSON array is cut off" in fault_of(data[:-cut], form)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "stdin: it names no file; see why what writes it wrote nothing; a request without files is `[]`"),
        (b" \n\r\n", "stdin: it names no file"),
        (b"\xef\xbb\xbfa.jpg\n", "stdin: it begins with a byte order mark"),
        (b'["a", 7]', "string 2, or what follows it, is something else"),
        (b'["a", ["b"]]', "string 2, or what follows it, is something else"),
        (b'["a", "b", null]', "string 3, or what follows it, is something else"),
        (b'["a", "\\ud800", "b"]', "string 2, or what follows it, is something else"),
        (b'["a", "\xff", "b"]', "string 2, or what follows it, is something else"),
        (b'["a"', "the JSON array is cut off after 0 strings"),
        (b'["a",', "the JSON array is cut off after 1 strings"),
        (b'["a",]', "string 2, or what follows it"),
        (b'["a"] ["b"]', "string 1, or what follows it"),
        (b'["a"],', "string 1, or what follows it"),
        (b'{"resource": "a"}\n\n{"resource": 7}\n', 'stdin:3: not a row like {"resource": "a/b.jpg"}: Expected'),
        (b'{"resource": "a"}\n{"name": "b"}\n', "stdin:2: not a row"),
        (b'{"resource": "a"}\n{"resource": "b', "stdin:2: not a row"),
        (b'{"resource": "a"},\n{"resource": "b"}\n', "stdin:1: not a row"),
        (b'{"resource":\n"a"\n,}', "stdin:1: not a row"),
    ],
)
def test_what_is_no_list_of_names_is_refused_with_its_place(data: bytes, said: str) -> None:
    assert said in fault_of(data)


def test_a_form_that_is_none_is_refused() -> None:
    with pytest.raises(UsageFault, match="--input xml: give one of lines, ndjson, json"):
        requested.read(io.BytesIO(b"a\n"), "stdin", "xml")


def test_a_stream_that_cannot_be_read_is_unusable() -> None:
    class Broken:
        def read(self, _: int) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(InputUnusable, match="stdin: cannot be read: Input/output error"):
        names_in(cast(BinaryIO, Broken()))


class Endless:
    """A stream that goes on for long with no end of its first value."""

    def __init__(self, start: bytes, middle: bytes, blocks: int) -> None:
        self._start, self._middle, self._blocks = start, middle, blocks
        self.given = 0

    def read(self, size: int) -> bytes:
        self._blocks -= 1
        self.given += size
        start, self._start = self._start, b""
        return (start or self._middle * (size // len(self._middle))) if self._blocks >= 0 else b""


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    stream = Endless(b"a\nb", b"b", 20)
    short, long = names_in(cast(BinaryIO, stream))
    assert stream.given > 20 << 20
    assert short == b"a"
    assert names.LONGEST_NAME < len(long) < 4 << 20


@pytest.mark.parametrize("start", [b'{"resource": "', b'["a", "'])
def test_a_json_value_without_end_is_refused_early(start: bytes) -> None:
    stream = Endless(start, b"b", 1000)
    with pytest.raises(InputUnusable):
        names_in(cast(BinaryIO, stream))
    assert stream.given < 10 << 20


UNFIT = {
    b"": "empty name",
    b"/a": "absolute path",
    b"a//b": "path part ''",
    b"a/": "path part ''",
    b".": "path part '.'",
    b"a/./b": "path part '.'",
    b"..": "path part '..'",
    b"a/..": "path part '..'",
    b"../a": "path part '..'",
    b"a/../../b": "path part '..'",
    b"a\0b": "NUL in the name",
    b"a\r": "control character U+000D; lines end in a newline alone",
    b"a\tb": "control character U+0009",
    b"a\nb": "control character U+000A",
    b"\x1b[2J": "control character U+001B",
    b"a\x7f": "control character U+007F",
    "a\x80".encode(): "control character U+0080",
    "a\x9f/b".encode(): "control character U+009F",
    b"a/" + b"x" * 256: "a part longer than 255 bytes",
    b"/".join([b"x" * 255] * 13): "longer than 3072 bytes",
    b".cftools-trash/20260101/a": "a name that cftools keeps for itself",
    b".cftools-root": "a name that cftools keeps for itself",
}
FIT = [
    b"a",
    b"...",
    b".hidden/..x/x../.y",
    b"a b",
    b" a ",
    b"-rf",
    b"\xff\x80\x9f",  # no UTF-8: these bytes are no control characters
    b"\xc3\x80",
    "사진/여름.jpg\xa0\u2028".encode(),
    b"a/.cftools-trash",
    b"x" * 255,
    b"/".join([b"x" * 255] * 12),
]


@pytest.mark.parametrize("name", UNFIT)
def test_a_name_that_cannot_be_asked_for_is_found_among_others_with_its_number_and_reason(name: bytes) -> None:
    for some in ([name], [b"a", name], [name, b"a"], [b"a", name, b"b/c"]):
        block = list(some) if b"\0" in name else b"".join(one + b"\0" for one in some)
        found = list(requested.unfit(block, first=10))
        assert [(one.number, one.name) for one in found] == [(10 + some.index(name), names.text_from_bytes(name))]
        assert found[0].why == UNFIT[name]
        assert str(found[0]).startswith(f"file {10 + some.index(name)} ('")
        assert str(found[0]).isprintable()


def test_names_that_can_be_asked_for_are_no_fault_alone_and_together() -> None:
    for some in (*([name] for name in FIT), FIT):
        assert list(requested.unfit(b"".join(one + b"\0" for one in some))) == []


@given(st.lists(st.lists(st.sampled_from([b"a", b".", b"/", b"\xc2", b"\x85", b"\x1f", b".cftools-"])).map(b"".join)))
def test_the_look_at_a_whole_block_agrees_with_that_at_each_name(some: list[bytes]) -> None:
    block = b"".join(name + b"\0" for name in some)
    one_by_one = [number for number, name in enumerate(some, 1) if list(requested.unfit([name]))]
    assert [one.number for one in requested.unfit(block)] == one_by_one


@given(st.lists(st.text(max_size=5)))
def test_joined_names_are_a_block_of_their_bytes(some: list[str]) -> None:
    texts = [names.text_from_bytes(text.encode()) for text in some]
    assert requested.each(requested.joined(texts)) == [text.encode() for text in some]
