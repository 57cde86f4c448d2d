"""File names: any bytes in, the same bytes out, through text, JSON and foreign JSON."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cftools.model.names import (
    LONGEST_COMPONENT,
    LONGEST_NAME,
    bytes_from_text,
    display,
    json_from_marks,
    marks_from_json,
    text_from_bytes,
    unsafe,
)

# Pieces where the mapping could go wrong: the marks' own range, its neighbours, its beginnings, and JSON's escapes.
PIECES = [
    b"\xef\x9e\x80",  # U+F780, the first of the marks' range
    b"\xef\x9f\xbf",  # U+F7FF, the last
    b"\xef\x9d\xbf",  # U+F77F, just before
    b"\xef\xa0\x80",  # U+F800, just after
    b"\xef\x9e",
    b"\xef\x9f",
    b"\xef",
    b"\x9e\x80",
    b"\xed\xb2\x80",  # a surrogate in UTF-8, which is no UTF-8
    b"\xc0\xaf",
    b"\xf4\x90\x80\x80",
    b"\xff\xfe",
    b"\\udc80",
    b"\\uf780",
    b"\\",
    b'"',
    b"a",
    "드".encode(),
    "\U0001f3ac".encode(),
]
NAMES = st.one_of(st.binary(), st.lists(st.sampled_from(PIECES)).map(b"".join))


@given(NAMES)
@example(b"".join(PIECES))
def test_any_bytes_come_back_from_their_text(raw: bytes) -> None:
    text = text_from_bytes(raw)
    assert bytes_from_text(text) == raw
    text.encode()  # raises if a surrogate is left in it


@given(NAMES, NAMES)
def test_different_names_have_different_texts(one: bytes, other: bytes) -> None:
    assert (text_from_bytes(one) == text_from_bytes(other)) == (one == other)


@given(st.lists(NAMES.map(lambda raw: raw.replace(b"\n", b"")), min_size=1))
def test_a_buffer_of_names_becomes_the_texts_of_its_names(raws: list[bytes]) -> None:
    assert text_from_bytes(b"\n".join(raws)).split("\n") == [text_from_bytes(raw) for raw in raws]


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[chr(mark) for mark in range(0xF780, 0xF800)]))
)
def test_valid_text_without_marks_stands_for_itself(text: str) -> None:
    assert text_from_bytes(text.encode()) == text
    assert json_from_marks(text.encode()) == text.encode()


def test_an_invalid_byte_is_one_mark_and_a_real_mark_three() -> None:
    assert text_from_bytes(b"a\x80b\xff") == "a\uf780b\uf7ff"
    assert text_from_bytes("\uf780".encode()) == "\uf7ef\uf79e\uf780"


@given(NAMES)
@example(b"".join(PIECES))
def test_names_in_json_rows_are_read_by_python_and_come_back(raw: bytes) -> None:
    text = text_from_bytes(raw)
    row = json_from_marks(json.dumps({"name": text}, ensure_ascii=False).encode())
    assert os.fsencode(json.loads(row)["name"]) == raw
    assert json.loads(marks_from_json(row))["name"] == text


@given(NAMES)
@example(b"".join(PIECES))
def test_rows_that_other_programs_wrote_in_ascii_give_the_same_name(raw: bytes) -> None:
    # Python's own spelling of any name: valid characters as \uXXXX or pairs, invalid bytes as \udcXX.
    foreign = json.dumps({"name": raw.decode(errors="surrogateescape")}).encode()
    assert bytes_from_text(json.loads(marks_from_json(foreign))["name"]) == raw


FOREIGN = {
    "an escaped byte": (rb'"a\udc80b"', b"a\x80b"),
    "an escaped byte in capitals": (rb'"\uDCFF"', b"\xff"),
    "a raw character of the marks' range": ('"\uf780"'.encode(), "\uf780".encode()),
    "the same escaped": (rb'"\uf780\uF7fF"', "\uf780\uf7ff".encode()),
    "the characters beside that range": (rb'"\uf77f\uf800"', "\uf77f\uf800".encode()),
    "a surrogate pair": (rb'"\ud83c\udfac"', "\U0001f3ac".encode()),
    "a pair whose second half looks like a byte": (rb'"\ud800\udc80"', "\U00010080".encode()),
    "a pair and then a byte": (rb'"\ud800\udc80\udc80"', "\U00010080".encode() + b"\x80"),
    "an escaped backslash before what looks like a byte": (rb'"\\udc80"', rb"\udc80"),
    "two escaped backslashes": (rb'"\\\\udc80"', rb"\\udc80"),
    "an escaped backslash and then a byte": (rb'"\\\udc80"', b"\\\x80"),
    "an escaped backslash before what looks like a mark": (rb'"\\uf780"', rb"\uf780"),
    "an escaped quote": (rb'"\"\udc80"', b'"\x80'),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_json_is_read_as_it_means(case: str) -> None:
    encoded, raw = FOREIGN[case]
    assert bytes_from_text(json.loads(marks_from_json(encoded))) == raw


@pytest.mark.parametrize("escape", [rb'"\udc00"', rb'"\udc7f"', rb'"\ud83c"', rb'"\udd00"'])
def test_a_lone_surrogate_that_is_no_byte_is_left_alone(escape: bytes) -> None:
    assert marks_from_json(escape) == escape


UNSAFE = {
    "": "empty name",
    "a\0b": "NUL in the name",
    "/a": "absolute path",
    "/": "absolute path",
    "a//b": "path part ''",
    "a/": "path part ''",
    ".": "path part '.'",
    "a/./b": "path part '.'",
    "..": "path part '..'",
    "../a": "path part '..'",
    "a/../../b": "path part '..'",
    "a/..": "path part '..'",
    "a" * (LONGEST_COMPONENT + 1): "a part longer than 255 bytes",
    "b/" + "\uf780" * (LONGEST_COMPONENT + 1): "a part longer than 255 bytes",
    "드" * 86: "a part longer than 255 bytes",
    "a/" * (LONGEST_NAME // 2) + "b": "longer than 3072 bytes",
    ".cftools-root": "a name that cftools keeps for itself",
    ".cftools-part-1/a": "a name that cftools keeps for itself",
}


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_must_not_reach_a_server_is_refused_with_its_reason(name: str) -> None:
    assert unsafe(name) == UNSAFE[name]


SAFE = [
    "a",
    "a.mpg",
    "sub/dir/a.mpg",
    "...",
    "..a",
    "a..",
    "-rf",
    "*?[a]",
    "a\nb",
    "~",
    " ",
    "$(id)",
    "a\\b",
    "sub/.cftools-root",
    ".cftools",
    "a" * LONGEST_COMPONENT,
    "\uf780" * LONGEST_COMPONENT,
    "a/" * (LONGEST_NAME // 2 - 1) + "bc",
]


@pytest.mark.parametrize("name", SAFE)
def test_an_odd_name_is_no_unsafe_name(name: str) -> None:
    assert unsafe(name) == ""


@given(NAMES)
@example("a\u2028b\u0085c\u202ed\u200be".encode() + b"\n\r\t\x1b[2J\x7f")
def test_a_name_is_displayed_on_one_line_without_anything_a_terminal_obeys(raw: bytes) -> None:
    shown = display(text_from_bytes(raw))
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Co", "Zl", "Zp") for character in shown)


def test_what_is_displayed_tells_the_bytes() -> None:
    assert display("두 words é.mpg") == "두 words é.mpg"
    assert display(text_from_bytes(b"a\xffb\nc\x1b")) == "a\\xffb\\x0ac\\x1b"
    assert display("a\u2028b") == "a\\xe2\\x80\\xa8b"
