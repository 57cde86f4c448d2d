"""parse-history's facts against a plain implementation, and `file` rows out and in again."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import oracle_files
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cftools import pipe
from cftools.facts import files, grades, history, lines
from cftools.model import names, rows
from cftools.model.errors import InputUnusable
from cftools.model.frames import files_schema

ADDRESSES = ["172.18.0.10", "172.18.0.9", "172.18.0.100", "10.0.0.3", "2001:db8::1"]
GRADES_HEADER = b"filename\tweightcount\tbitrate\tgrade\tsumHitCount\thistoryCount\tTargetCopyCount\n"
HISTORY_HEADER = b"historyheader:1524468282\n"

ODD_NAMES = [
    b'quo"ted.mpg',
    b'"a"',
    b" leading and trailing ",
    b"-dash-.mpg",
    b"\xed\x95\x9c\xea\xb8\x80.mpg",
    b"\xc7\xd1\xb1\xdb.mpg",
    b"\xff\xfe",
    b"nul\0nul",
    b"\xef\x9e\x80mark\xef\x9f\xbf",
    b"carriage\rreturn",
    b"back\\slash\\udc80",
    b"\\ud800 null",
    b"\x01\x1f\x7f\xc2\x85\xe2\x80\xa8",
    b"*[ab]?.mpg",
    b"..",
    b"/absolute",
    b" ",
    b"filename",
    b"historyheader:5",
    b"\xf0\x9f\x98\x80",
    b"\xf0\x9f\x98",
    b"\xed\xa0\x80",
]
ODD_NUMBERS = [b"", b"-1", b"+5", b" 5", b"5 ", b"1e3", b"1.0", b"9223372036854775808", b"00000000000000000001"]
ODD_NUMBERS += [b"99999999999999999999", b"abc", b"\xff", b"1\0", b"\xd9\xa3", b"1_0", b"-0", b'"5"']
GOOD_NUMBERS = [b"0", b"1", b"920910664", b"9223372036854775807", b"0000000000000000001"]
ODD_HOLDERS = [b"", b" ", b"  172.18.0.9   172.18.0.10 172.18.0.9 ", b"8.8.8.8", b"8.8.8.8 8.8.8.8 172.18.0.9", b"\xff"]
ODD_HOLDERS += [b"172.18.0.1 172.18.0.90", b"2001:db8::1 172.18.0.100 10.0.0.3 172.18.0.9 172.18.0.10", b'"172.18.0.9"']
ODD_LINES = [
    b"",
    b" \t",
    b"\v\f\r",
    b"\r",
    b"a,1,2,3",
    b",,,,",
    b",,,",
    b"short",
    b"a,1,2,3,",
    b"\t\t",
    b"\tx",
    b"x\t",
    b",",
]


@pytest.fixture(autouse=True, scope="module")
def _no_waiting() -> Iterator[None]:
    """What these tests write is read at once."""
    with mock.patch.object(lines, "QUIET_SECONDS", 0):
        yield


def name(chance: random.Random) -> bytes:
    """Mostly one of 400 plain names, so that many come again and are in both inputs."""
    if chance.random() < 0.2:
        return chance.choice(ODD_NAMES)
    return b"M%03d_K20180501000000.mpg" % chance.randrange(400)


def history_line(chance: random.Random) -> bytes:
    numbers = [chance.choice(ODD_NUMBERS if chance.random() < 0.05 else GOOD_NUMBERS) for _ in range(3)]
    if chance.random() < 0.2:
        holders = chance.choice(ODD_HOLDERS)
    else:
        holders = " ".join(chance.sample([*ADDRESSES, "8.8.8.8", "9.9.9.9"], chance.randrange(5))).encode()
    rest = chance.choice([b",2,0,0,1=1 2", b",2,0,0,1=1 2", b"", b",", b',"'])
    return b",".join([name(chance), *numbers, holders]) + rest


def grade_line(chance: random.Random) -> bytes:
    return name(chance) + chance.choice([b"\t3\t6399785\t1\t9\t5\t1", b"", b"\t", b"\t\t,"])


def odd_file(chance: random.Random, header: bytes, line: Callable[[random.Random], bytes], count: int) -> bytes:
    """``count`` lines below the header (now and then without one), now and then without the last newline."""
    found = [] if chance.random() < 0.2 else [header.removesuffix(b"\n")]
    for _ in range(count):
        what = chance.random()
        if what < 0.1:
            found.append(chance.choice(ODD_LINES))
        elif what < 0.1 + 2 / count:
            filler = chance.choice([b"x", b"\xff", b"\xc3\xa9", b"\xef\x9e\x80", b" "])
            length = chance.choice([lines.LONGEST_LINE - 1, lines.LONGEST_LINE, lines.LONGEST_LINE + 1, 200_000])
            found.append((filler * length)[: length - 8] + b",1,2,3,4")
        else:
            found.append(line(chance))
    endings = [b"\r\n" if chance.random() < 0.1 else b"\n" for _ in found]
    content = b"".join(one + ending for one, ending in zip(found, endings, strict=True))
    return content + (b"cut,1,2,3,172.18" if chance.random() < 0.3 else b"")


def read(folder: Path, history_bytes: bytes, grades_bytes: bytes, chunk_bytes: int = lines.CHUNK_BYTES) -> files.Files:
    (folder / "history").write_bytes(history_bytes)
    (folder / "grades").write_bytes(grades_bytes)
    return files.read_files(folder / "history", folder / "grades", ADDRESSES, chunk_bytes)


def in_bytes(found: files.Files) -> list[dict[str, Any]]:
    return [{**row, "name": names.bytes_from_text(row["name"])} for row in found.frame.to_dicts()]


def assert_same(found: files.Files, history_bytes: bytes, grades_bytes: bytes) -> None:
    expected = oracle_files.answer(history_bytes, grades_bytes, ADDRESSES)
    assert in_bytes(found) == expected.rows
    assert found.skipped == expected.skipped
    assert dict(found.frame.schema) == files_schema(ADDRESSES)
    assert tuple(one.fault for one in found.inputs) == expected.faults
    assert [one.size for one in found.inputs] == [len(history_bytes), len(grades_bytes)]
    if expected.generation:
        assert found.inputs[0].generation == expected.generation
    assert found.complete == (expected.faults == ("", ""))


@pytest.mark.parametrize("chunk_bytes", [4099, lines.CHUNK_BYTES])
@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_odd_lines_give_the_plain_answer(tmp_path: Path, seed: int, chunk_bytes: int) -> None:
    chance = random.Random(seed)
    inputs = odd_file(chance, HISTORY_HEADER, history_line, 4000), odd_file(chance, GRADES_HEADER, grade_line, 1500)
    assert_same(read(tmp_path, *inputs, chunk_bytes), *inputs)


@pytest.mark.parametrize("chunk_bytes", [1, 3, 64])
def test_chunks_of_a_few_bytes_give_the_same_answer(tmp_path: Path, chunk_bytes: int) -> None:
    for seed in range(3):
        chance = random.Random(seed)
        inputs = odd_file(chance, HISTORY_HEADER, history_line, 40), odd_file(chance, GRADES_HEADER, grade_line, 40)
        assert_same(read(tmp_path, *inputs, chunk_bytes), *inputs)


FIELD = some.one_of(
    some.sampled_from(
        ODD_NAMES + ODD_NUMBERS + GOOD_NUMBERS + ODD_HOLDERS + [address.encode() for address in ADDRESSES]
    ),
    some.binary(max_size=6),
)
HISTORY_LINES = some.lists(some.lists(FIELD, max_size=7).map(b",".join), max_size=12)
GRADE_LINES = some.lists(some.lists(FIELD, max_size=3).map(b"\t".join), max_size=12)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORY_LINES, GRADE_LINES, some.booleans(), some.sampled_from([b"\n", b"\r\n", b""]))
def test_any_bytes_give_the_plain_answer(
    tmp_path: Path, history_lines: list[bytes], grade_lines: list[bytes], header: bool, end: bytes
) -> None:
    inputs = (
        (HISTORY_HEADER if header else b"") + b"\n".join(history_lines) + end,
        (GRADES_HEADER if header else b"") + b"\n".join(grade_lines) + end,
    )
    assert_same(read(tmp_path, *inputs), *inputs)


def test_a_hash_that_many_names_share_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_keys", lambda name: name.str.len_bytes().cast(pl.UInt64))
    chance = random.Random(7)
    inputs = odd_file(chance, HISTORY_HEADER, history_line, 900), odd_file(chance, GRADES_HEADER, grade_line, 900)
    assert_same(read(tmp_path, *inputs), *inputs)


def test_different_names_that_meet_by_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_keys", lambda name: pl.Series(range(name.len()), dtype=pl.UInt64))
    inputs = HISTORY_HEADER + b"a,1,1,1,\nb,2,2,2,\nc,3,3,3,\n", GRADES_HEADER + b"c\nx\nb\na\n"
    assert_same(read(tmp_path, *inputs), *inputs)


def test_a_join_in_several_goes_gives_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "JOINED_AT_ONCE", 30)
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 7)
    chance = random.Random(3)
    inputs = odd_file(chance, HISTORY_HEADER, history_line, 900), odd_file(chance, GRADES_HEADER, grade_line, 900)
    assert_same(read(tmp_path, *inputs), *inputs)


def test_five_columns_without_holders_are_not_four_columns(tmp_path: Path) -> None:
    found = read(tmp_path, HISTORY_HEADER + b"a,1,2,3,\nb,1,2,3\n", GRADES_HEADER + b"a\nb\n")
    assert found.frame.select("name", "holders", "unknown_holders").rows() == [("a", [], 0)]
    assert found.skipped == {"history_short": 1, "grades_without_history": 1}


def test_the_rank_is_the_place_among_lines_that_are_not_blank(tmp_path: Path) -> None:
    known = HISTORY_HEADER + b"".join(b"%c,1,2,3,\n" % letter for letter in b"abc")
    found = read(tmp_path, known, GRADES_HEADER + b"\n\na\t9\n" + b"x" * 70_000 + b"\n\tnameless\n \t \nb\nc\nb\n")
    assert found.frame.select("name", "rank").rows() == [("a", 1), ("c", 5), ("b", 6)]


@pytest.mark.parametrize("chunk_bytes", [16, lines.CHUNK_BYTES])
@pytest.mark.parametrize(
    ("content", "generation", "fault"),
    [
        (b"", 0, lines.NO_HEADER),
        (b"historyheader:5", 0, f"{lines.NO_HEADER}; {lines.UNTERMINATED}"),
        (b"historyheader:\na,1,2,3,\n", 0, lines.NO_HEADER),
        (b"historyheader:9223372036854775808\n", 0, lines.NO_HEADER),
        (b"\nhistoryheader:5\n", 0, lines.NO_HEADER),
        (b"historyheader:5\na,1,2,3,172.18", 5, lines.UNTERMINATED),
        (b"historyheader:5\r\n", 5, ""),
        (b"historyheader:5\n", 5, ""),
    ],
)
def test_a_history_without_header_or_last_newline_is_incomplete(
    tmp_path: Path, content: bytes, generation: int, fault: str, chunk_bytes: int
) -> None:
    found = read(tmp_path, content, GRADES_HEADER, chunk_bytes)
    history_input = found.inputs[0]
    assert (history_input.path, history_input.size) == (str(tmp_path / "history"), len(content))
    assert (history_input.complete, history_input.fault) == (not fault, fault)
    if generation:
        assert history_input.generation == generation
    assert found.complete is not bool(fault)


def test_grades_without_header_are_incomplete_and_their_first_line_counts(tmp_path: Path) -> None:
    found = read(tmp_path, HISTORY_HEADER + b"a,1,2,3,\n", b"a\t1\n")
    assert found.frame["rank"].to_list() == [1]
    assert found.inputs[1].fault == lines.NO_HEADER
    assert not found.complete


@pytest.mark.parametrize("missing", ["history", "grades"])
def test_an_input_that_cannot_be_read_is_named(tmp_path: Path, missing: str) -> None:
    read(tmp_path, HISTORY_HEADER, GRADES_HEADER)
    for spoil in (Path.unlink, Path.mkdir):
        spoil(tmp_path / missing)
        with pytest.raises(InputUnusable, match=f"/{missing}: cannot be read: "):
            files.read_files(tmp_path / "history", tmp_path / "grades", ADDRESSES)


def test_brackets_in_a_path_are_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "history[1]").write_bytes(HISTORY_HEADER + b"right,1,2,3,\n")
    (tmp_path / "history1").write_bytes(HISTORY_HEADER + b"wrong,1,2,3,\n")
    (tmp_path / "grades").write_bytes(GRADES_HEADER + b"right\nwrong\n")
    found = files.read_files(tmp_path / "history[1]", tmp_path / "grades", ADDRESSES)
    assert found.frame["name"].to_list() == ["right"]


@pytest.mark.parametrize("change", ["grown", "shrunk", "rewritten"])
def test_a_file_that_changes_while_it_is_read_is_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "history"
    parse = history.parse

    def parse_and_change(chunk: bytes, holder: pl.Enum) -> Any:
        if change == "grown":
            with path.open("ab") as out:
                out.write(b"b,1,2,3,\n")
        elif change == "shrunk":
            os.truncate(path, len(HISTORY_HEADER))
        else:
            path.write_bytes(path.read_bytes())
            os.utime(path, ns=(0, 0))
        return parse(chunk, holder)

    monkeypatch.setattr(history, "parse", parse_and_change)
    found = read(tmp_path, HISTORY_HEADER + b"a,1,2,3,\n" * 5, GRADES_HEADER + b"a\n")
    assert found.inputs[0].fault == lines.CHANGED
    assert not found.complete


def test_a_file_replaced_by_another_while_it_is_read_is_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = grades.parse

    def parse_and_replace(chunk: bytes) -> grades.Part:
        (tmp_path / "new").write_bytes(GRADES_HEADER)
        (tmp_path / "new").replace(tmp_path / "grades")
        return parse(chunk)

    monkeypatch.setattr(grades, "parse", parse_and_replace)
    found = read(tmp_path, HISTORY_HEADER + b"a,1,2,3,\n", GRADES_HEADER + b"a\n")
    assert found.complete
    assert found.frame["name"].to_list() == ["a"]


def odd_files(folder: Path, count: int = 1500) -> files.Files:
    chance = random.Random(11)
    some_lines = [history_line(chance) for _ in range(count)] + [one + b",1,2,3,172.18.0.9" for one in ODD_NAMES]
    grade_lines = [grade_line(chance) for _ in range(count)] + ODD_NAMES
    return read(
        folder, HISTORY_HEADER + b"\n".join(some_lines) + b"\n", GRADES_HEADER + b"\n".join(grade_lines) + b"\n"
    )


def written(found: files.Files, others: bytes = b"") -> bytes:
    out = io.BytesIO()
    files.write_file_rows(found, out)
    begin = rows.Begin("parse-history", "0", 0.0, list(found.inputs))
    end = rows.End("parse-history", found.complete, {"file": found.frame.height}, found.skipped)
    return pipe.encode(begin) + out.getvalue() + others + pipe.encode(end)


def test_written_names_give_their_bytes_back(tmp_path: Path) -> None:
    found = odd_files(tmp_path)
    middle = written(found).splitlines()[1:-1]
    assert [os.fsencode(json.loads(line)["name"]) for line in middle] == [row["name"] for row in in_bytes(found)]
    assert set(ODD_NAMES) <= {row["name"] for row in in_bytes(found)}
    assert [list(json.loads(line)) for line in middle[:1]] == [["kind", *rows.File.__struct_fields__]]


def test_written_rows_are_those_of_the_structs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = odd_files(tmp_path)
    whole = written(found)
    assert pipe.read(io.BytesIO(whole), "-", [rows.File]).rows == list(files.file_structs(found.frame))
    monkeypatch.setattr(files, "ROWS_AT_ONCE", 3)
    assert written(found) == whole


@pytest.mark.parametrize("chunk_bytes", [50, 5000, files.STREAM_CHUNK_BYTES])
def test_written_rows_come_back_as_they_were(tmp_path: Path, chunk_bytes: int) -> None:
    found = odd_files(tmp_path, 300)
    again = files.read_file_rows(io.BytesIO(written(found)), "-", ADDRESSES, chunk_bytes)
    assert again.frame.equals(found.frame)
    assert dict(again.frame.schema) == files_schema(ADDRESSES)
    assert again[1:] == found[1:]


def test_rows_as_written_are_read_in_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = odd_files(tmp_path)
    one_by_one: list[bytes] = []
    decode = pipe.decode

    def noted(line: bytes, path: str, number: int) -> rows.Row:
        one_by_one.append(line)
        return decode(line, path, number)

    monkeypatch.setattr(pipe, "decode", noted)
    without_null = found._replace(frame=found.frame.filter(~pl.col("name").str.contains("null")))
    files.read_file_rows(io.BytesIO(written(without_null)), "-", ADDRESSES)
    assert len(one_by_one) == 2


def test_a_stream_that_was_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = written(odd_files(tmp_path, 30))
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    for end in [
        0,
        *ends[:-1],
        *(end - 1 for end in ends),
        *(end - 9 for end in ends),
        *(end + 30 for end in ends[:-1]),
    ]:
        for chunk_bytes in (200, files.STREAM_CHUNK_BYTES):
            with pytest.raises(InputUnusable):
                files.read_file_rows(io.BytesIO(whole[:end]), "-", ADDRESSES, chunk_bytes)


FILE = b'{"kind":"file","name":"%s","rank":%s,"size":2,"bitrate":0,"registered":0,"holders":[],"unknown_holders":0}\n'
END = b'{"kind":"end","command":"x","complete":true}\n'
BEGIN = b'{"kind":"begin","command":"x","cftools":"0","at":0}\n'
HOT = b'{"kind":"hot","name":"a","hits":1}\n'
STREAMS = [
    b"",
    b"\n \n",
    END,
    BEGIN + END,
    BEGIN + BEGIN + END,
    FILE % (b"a", b"1") + BEGIN + END,
    BEGIN + FILE % (b"a", b"1") + END + FILE % (b"b", b"2"),
    BEGIN + FILE % (b"a", b"1") + END + END,
    END + FILE % (b"a", b"1") + FILE % (b"b", b"2") + END,
    FILE % (b"a", b"1") + END + b"\n\n",
    FILE % (b"a", b"1") + END + b"\n" + FILE % (b"b", b"1"),
    FILE % (b"a", b"1") + b"\n" + FILE % (b"b", b"2") + HOT + FILE % (b"c", b"3") + END,
    FILE % (b"a", b"1") + FILE % (b"b", b"2") + b'{"kind":"end","command":"x","complete":false,"counts":{"file":2}}\n',
    FILE % (b"a", b"1") + FILE % (b"b", b"2") + b'{"kind":"end","command":"x","complete":true,"counts":{"file":3}}\n',
    FILE % (b"a", b"1") + HOT + b'{"kind":"end","command":"x","complete":true,"counts":{"file":1,"hot":0}}\n',
    b'{"kind":"file","name":"a","rank":1,"size":2}\n' + END,
    b'{ "size": 7, "rank": 4, "name": "a b", "kind": "file", "holders": ["172.18.0.10", "172.18.0.9"] }\r\n' + END,
    FILE % (b"a", b"1") * 2 + b'{"kind":"file","name":"b","rank":1}\n' + END,
    *(
        FILE % (b"z", b"9") * 0 + FILE % (b"a", rank) + END
        for rank in (b'"5"', b"1.0", b"true", b"null", b"-3", b"[1]")
    ),
    *(
        FILE % (text, b"1") + END
        for text in (
            b"\\ud800",
            b"\\udc41",
            b"\\udcff",
            b"\\ud83d\\ude00",
            b"\\u00e9",
            b"\\/",
            b"\xff",
            b"\x01",
            b"\\uf780",
        )
    ),
    *(
        FILE.replace(b"[]", holders) % (b"a", b"1") + END
        for holders in (b"[1]", b"[null]", b"null", b'"a"', b"{}", b'[["a"]]')
    ),
    *(FILE.replace(b'"%s"', value) % b"1" + END for value in (b"5", b"true", b"null", b'["a"]', b'{"a":1}')),
    FILE.replace(b'"size":2', b'"size":2,"size":3') % (b"a", b"1") + END,
    FILE.replace(b'"size":2', b'"size":2,"extra":3') % (b"a", b"1") + END,
    FILE.replace(b'"kind":"file"', b'"kind":"fold"') % (b"a", b"1") + END,
    (FILE % (b"a", b"1"))[:-1] + b" x\n" + END,
    b"[1]\n" + END,
    b"\xef\xbb\xbf" + FILE % (b"a", b"1") + END,
]


def outcome(reader: Callable[[], list[rows.File]]) -> list[rows.File] | str:
    try:
        return reader()
    except InputUnusable as fault:
        return str(fault)


@pytest.mark.parametrize("chunk_bytes", [1, 150, files.STREAM_CHUNK_BYTES])
@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_is_read_or_refused_as_row_by_row(stream: bytes, chunk_bytes: int) -> None:
    plain = outcome(
        lambda: [row for row in pipe.read(io.BytesIO(stream), "-", [rows.File]).rows if isinstance(row, rows.File)]
    )
    found = outcome(
        lambda: list(files.file_structs(files.read_file_rows(io.BytesIO(stream), "-", ADDRESSES, chunk_bytes).frame))
    )
    if isinstance(plain, list):
        places = [ADDRESSES.index(address) for row in plain for address in row.holders if address in ADDRESSES]
        assert len(places) == sum(len(row.holders) for row in plain), "streams of this test name known addresses only"
        order = ["172.18.0.9", "172.18.0.10"]
        plain = [
            rows.File(row.name, row.rank, row.size, row.bitrate, row.registered, sorted(row.holders, key=order.index))
            for row in plain
        ]
    assert found == plain


def test_holders_of_rows_that_are_no_destinations_are_counted() -> None:
    row = rows.File(
        "a", 1, 2, holders=["8.8.8.8", "172.18.0.10", "172.18.0.9", "9.9.9.9", "172.18.0.9"], unknown_holders=3
    )
    for shape in (pipe.encode(row), b" " + pipe.encode(row)):
        frame = files.read_file_rows(io.BytesIO(shape + END), "-", ADDRESSES).frame
        assert frame.select("holders", "unknown_holders").rows() == [(["172.18.0.9", "172.18.0.10"], 5)]


def test_rows_out_of_order_are_sorted_by_rank() -> None:
    stream = FILE % (b"b", b"2") + FILE % (b"c", b"3") + FILE % (b"a", b"1") + END
    assert files.read_file_rows(io.BytesIO(stream), "-", ADDRESSES).frame["name"].to_list() == ["a", "b", "c"]


def test_two_rows_of_one_name_are_refused() -> None:
    stream = FILE % (b"a", b"1") + FILE % (b"b", b"2") + FILE % (b"a", b"3") + END
    with pytest.raises(InputUnusable, match="two rows have the name a;"):
        files.read_file_rows(io.BytesIO(stream), "-", ADDRESSES)


@pytest.mark.parametrize("number", [b"9223372036854775808", b"-9223372036854775809", b"99999999999999999999999"])
def test_a_number_beyond_64_bits_is_refused_with_its_line(number: bytes) -> None:
    with pytest.raises(InputUnusable, match=r"^-:2: "):
        files.read_file_rows(io.BytesIO(FILE % (b"a", b"1") + FILE % (b"b", number) + END), "-", ADDRESSES)


def test_a_fault_in_the_middle_is_told_with_its_line() -> None:
    good = b"".join(FILE % (b"%d" % place, b"%d" % place) for place in range(1, 10))
    stream = BEGIN + good + b'{"kind":"file","name":5}\n' + END
    for chunk_bytes in (100, 300, files.STREAM_CHUNK_BYTES):
        with pytest.raises(InputUnusable, match=r"^-:11: not a row"):
            files.read_file_rows(io.BytesIO(stream), "-", ADDRESSES, chunk_bytes)


def test_an_incomplete_input_makes_the_stream_incomplete() -> None:
    begin = pipe.encode(rows.Begin("x", "0", 0.0, [rows.Input("h", 5, 6, False, "why")]))
    found = files.read_file_rows(io.BytesIO(begin + END), "-", ADDRESSES)
    assert found.inputs == (rows.Input("h", 5, 6, False, "why"),)
    assert not found.complete
    assert not files.read_file_rows(io.BytesIO(END.replace(b"true", b"false")), "-", ADDRESSES).complete
