"""Streams of rows: every kind out and in again, and no part of a stream taken for the whole."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftools import pipe
from cftools.model import names, rows
from cftools.model.errors import InputUnusable

NAMES = st.binary(max_size=20).map(names.text_from_bytes)
CUT = "the stream has no end row, so it was cut off"
AGAIN = "run the command that writes it again and see why it stopped"

EXAMPLES: list[rows.Row] = [
    rows.Begin("dedup", "1.0", 1527953525.5, [rows.Input("/data/h", 1524468282, 99, False, "no header")]),
    rows.End("dedup", False, {"delete": 1, "bytes": 2**62}, {"short": 3}, {"hot": 4}),
    rows.File("a\uf7ff.mpg", 1, 2**40, 6399785, 1508301143, ["10.0.0.9", "10.0.0.10"], 2),
    rows.Hot('q"uo\\te\n', 26, 1527952926, 1527953520),
    rows.Holding("src1", "sub/a.mpg", "/data2/sub/a.mpg", 0, -1),
    rows.Server("dst1", "destination", "10.0.0.9", "unreachable", error="connection refused"),
    rows.Heartbeat("dst1", "destination", False, 5000, "no answer in time"),
    rows.HostKey("dst1", "10.0.0.9", 22, "ssh-ed25519", "SHA256:x+/", "changed", "not the key of known_hosts:3"),
    rows.Copy("c1", "드라마.mpg", 5, "src1", "/data2/드라마.mpg", "dst1", 3, 26, "hot"),
    rows.Delete("dst1", "\uf780", 5, "duplicate", "dst3", 7),
    rows.Outcome("delete", "17", "dst1", "a.mpg", 5, "refused", "its size is 6", 12),
    rows.Request("album 7", "images", 2_000_000, True),
    rows.RefusedRequest("", "", "outbox shop", "no key"),
    rows.Partition("album 7", "images", "s3://b/p", 10, 5, 3, 1, 1, "1 not in time", 12),
    rows.RequestStatus("album 7", "images", "failed", 10, 5, 3, 1, 1, 10, 1527953525.5, 1527953526, 0.5),
    rows.PlaceStatus("images", "img1", 1, 2, 3, 1527953525.5, 1527953526, "img1: unreachable: no route"),
    rows.DeadLetter("album 7", "images", "img1", "a\uf7ff\n.jpg", 3, "Permission denied", 1527953525.5),
]


def stream(*middle: rows.Row, counts: dict[str, int] | None = None) -> bytes:
    """A whole stream with these rows."""
    return pipe.encode_all([rows.Begin("test", "1", 0), *middle, rows.End("test", True, counts or {})])


def read(data: bytes, *kinds: type[rows.Row]) -> pipe.Stream:
    return pipe.read(io.BytesIO(data), "stdin", kinds or tuple(rows.KINDS.values()))


def complaint(data: bytes) -> str:
    """The one line with which a stream is refused."""
    with pytest.raises(InputUnusable) as caught:
        read(data)
    assert caught.value.exit_code == 65
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


HOT = [rows.Hot(f"f{number}.mpg", number) for number in range(1, 4)]


def test_the_examples_are_of_every_kind() -> None:
    assert [type(row) for row in EXAMPLES] == list(rows.KINDS.values())


@pytest.mark.parametrize("row", EXAMPLES, ids=lambda row: str(row.__struct_config__.tag))
def test_a_row_of_each_kind_is_one_line_and_comes_back(row: rows.Row) -> None:
    line = pipe.encode(row)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line)["kind"] == row.__struct_config__.tag
    assert pipe.decode(line, "f", 1) == row
    assert pipe.encode_all([row, row]) == line * 2


@given(NAMES, st.integers(-(2**63), 2**63 - 1))
def test_any_name_goes_through_a_row(name: str, hits: int) -> None:
    row = rows.Hot(name, hits)
    assert pipe.decode(pipe.encode(row), "f", 1) == row


def test_fields_a_newer_cftools_adds_are_passed_over() -> None:
    assert pipe.decode(b'{"kind":"hot","name":"a","hits":1,"newer":[1]}\n', "f", 1) == rows.Hot("a", 1)


def test_a_whole_stream_is_read_with_only_the_wanted_kinds() -> None:
    other = rows.Holding("s", "a", "/a", 1, 1)
    found = read(stream(HOT[0], other, HOT[1], counts={"hot": 2, "holding": 1, "files": 99}), rows.Hot)
    assert found.begin == rows.Begin("test", "1", 0)
    assert found.rows == HOT[:2]
    assert found.end.counts["files"] == 99


def test_a_hand_written_stream_needs_no_begin_row() -> None:
    found = read(pipe.encode_all([HOT[0], rows.End("x", True)]))
    assert (found.begin, found.rows) == (None, [HOT[0]])


def test_blank_lines_and_crlf_are_no_rows() -> None:
    lines = stream(*HOT, counts={"hot": 3}).splitlines()
    assert read(b"\n  \r\n\t\n" + b"\r\n\n".join(lines) + b"\r\n\n \n").rows == HOT


@pytest.mark.parametrize("kept", range(5))
def test_a_stream_cut_off_after_any_line_is_refused(kept: int) -> None:
    lines = stream(*HOT).splitlines(keepends=True)
    assert complaint(b"".join(lines[:kept])) == f"stdin: {CUT}; {AGAIN}"
    assert read(b"".join(lines)).rows == HOT


def test_a_stream_cut_off_at_any_byte_is_refused() -> None:
    whole = stream(*HOT)
    starts = {0, *(position + 1 for position, byte in enumerate(whole) if byte == 0x0A)}
    for length in range(len(whole)):
        if length not in starts:
            line = whole[:length].count(b"\n") + 1
            assert complaint(whole[:length]) == f"stdin:{line}: {CUT}; {AGAIN}"


def test_rows_after_the_end_row_are_refused() -> None:
    end = "rows after the end row; give one stream at a time"
    assert complaint(stream(HOT[0]) + pipe.encode(HOT[1])) == f"stdin:4: {end}"
    assert complaint(stream() + stream()) == f"stdin:3: {end}"
    assert complaint(stream() + b"\n{") == f"stdin:4: {end}"


def test_a_second_begin_row_is_refused() -> None:
    begin = pipe.encode(rows.Begin("test", "1", 0))
    for data, line in ((begin + stream(), 2), (pipe.encode(HOT[0]) + stream(), 2), (begin + stream(HOT[0]), 2)):
        assert complaint(data) == f"stdin:{line}: a second begin row; give one stream at a time"


@pytest.mark.parametrize("kind", ["hott", "", "드"])
def test_an_unknown_kind_is_named(kind: str) -> None:
    data = stream(HOT[0]).replace(b'"hot"', json.dumps(kind, ensure_ascii=False).encode())
    assert complaint(data) == f"stdin:2: unknown kind of row {kind!r}"


NOT_ROWS: dict[str, bytes] = {
    "no JSON": b"name,hits",
    "no object": b"[1]",
    "no kind": b'{"name":"a","hits":1}',
    "a field is missing": b'{"kind":"hot","name":"a"}',
    "a field of another type": b'{"kind":"hot","name":"a","hits":"many"}',
    "a state that does not exist": pipe.encode(EXAMPLES[10]).strip().replace(b"refused", b"fine"),
    "a request that is nowhere": pipe.encode(EXAMPLES[14]).strip().replace(b'"failed"', b'"fine"'),
    "nested without end": b'{"kind":"hot","x":' + b"[" * 100_000,
    "a number that fits nowhere": b'{"kind":"hot","name":"a","hits":1e999}',
    "half a surrogate pair": rb'{"kind":"hot","name":"\ud83c","hits":1}',
    "two rows on a line": pipe.encode(HOT[0]).strip() * 2,
    "bytes that are no UTF-8": b'{"kind":"hot","name":"\xff","hits":1}',
    "a null byte": b"\0",
}


@pytest.mark.parametrize("case", NOT_ROWS)
def test_what_is_no_row_is_refused_with_its_line(case: str) -> None:
    lines = stream().splitlines(keepends=True)
    said = complaint(lines[0] + NOT_ROWS[case] + b"\n" + lines[1])
    assert said.startswith("stdin:2: not a row: ")
    assert said.endswith("; rows are JSON objects, one a line")


@pytest.mark.parametrize(("counted", "there"), [(3, 2), (0, 1), (2, 3)])
def test_another_number_of_rows_than_the_end_row_counts_is_refused(counted: int, there: int) -> None:
    said = complaint(stream(*HOT[:there], counts={"hot": counted}))
    assert said == f"stdin: the end row counts {counted} hot rows, the stream has {there}; {AGAIN}"


def test_rows_of_unwanted_kinds_are_counted_all_the_same() -> None:
    data = stream(rows.Holding("s", "a", "/a", 1, 1), counts={"holding": 2})
    with pytest.raises(InputUnusable, match="counts 2 holding rows, the stream has 1"):
        read(data, rows.Hot)


@given(st.lists(st.sampled_from(EXAMPLES[2:]), max_size=20))
def test_a_stream_that_lost_any_row_is_refused(middle: list[Any]) -> None:
    counts: dict[str, int] = {}
    for row in middle:
        kind = str(row.__struct_config__.tag)
        counts[kind] = counts.get(kind, 0) + 1
    lines = stream(*middle, counts=counts).splitlines(keepends=True)
    assert read(b"".join(lines)).rows == middle
    for lost in range(1, len(lines) - 1):
        assert "the stream has" in complaint(b"".join(lines[:lost] + lines[lost + 1 :]))
