"""Hits counted in event logs, held to the plain line-by-line way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from zoneinfo import ZoneInfo

import oracle_event_log as oracle
import pytest
from event_log_lines import MIDNIGHT, NAMES, WATCHED, day_log, line, logs, merged

from cftools.facts import event_log, window
from cftools.facts.event_log import HotFiles, HotSettings, read_hot_files
from cftools.model import names
from cftools.model.errors import InputUnusable, UsageFault

PATTERN = "EventLog[%Y%m%d].log"
NOON = MIDNIGHT + 43_200
SETTINGS = HotSettings((WATCHED,), 1, 600, 5, ())


@pytest.fixture
def small_reads(monkeypatch: pytest.MonkeyPatch) -> int:
    """Limits and chunks so small that small logs meet every border; returns the longest line."""
    longest = 400
    for name, value in (
        ("LONGEST_LINE", longest),
        ("PROBE_BYTES", 64),
        ("BISECT_UNTIL", 150),
        ("FIRST_CHUNK", longest + 50),
        ("LARGEST_CHUNK", 2000),
    ):
        monkeypatch.setattr(window, name, value)
    return longest


@pytest.fixture
def manager_in_seoul(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The manager's own local time is Korean."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Seoul")
        time.tzset()
        yield
    time.tzset()


def write(directory: Path, day: str, *lines: bytes) -> Path:
    path = directory / f"EventLog[{day}].log"
    path.write_bytes(b"".join(lines))
    return path


def read(directory: Path, at: float = NOON, timezone: str = "UTC", settings: HotSettings = SETTINGS) -> HotFiles:
    return read_hot_files(directory, PATTERN, timezone, at, settings)


def hits(found: HotFiles) -> dict[str, int]:
    return {row.name: row.hits for row in found.rows}


def check(found: HotFiles, expected: oracle.Counted, settings: HotSettings) -> None:
    """Holds what was found to what the oracle counted."""
    ignored = tuple(prefix.encode() for prefix in settings.ignore_prefixes)
    rows = [(names.bytes_from_text(row.name), row.hits, row.first, row.last) for row in found.rows]
    assert rows == expected.rows(settings.min_hits, ignored)
    assert found.counts["hits"] == sum(map(len, expected.hits.values()))
    assert found.counts["files"] == len(expected.hits)
    assert found.counts["ignored"] == len(expected.rows(settings.min_hits)) - len(rows)
    assert found.skipped == dict(expected.skipped)


@pytest.mark.parametrize("seed", range(150))
def test_random_logs_are_counted_as_the_plain_way_does(tmp_path: Path, small_reads: int, seed: int) -> None:
    chance = Random(seed)
    zone_name, zone = chance.choice(
        [("UTC", UTC), ("Asia/Seoul", ZoneInfo("Asia/Seoul")), ("America/New_York", ZoneInfo("America/New_York"))]
        + [("", timezone(timedelta(hours=hours))) for hours in (-12, 0, 9, 14)]
    )
    slack = chance.choice((0, 1, 5, 60))
    seconds = chance.choice((600, 7200, 200_000))
    first = (
        MIDNIGHT
        + chance.choice((0, 86_400 - 300))
        - int((zone.utcoffset(datetime(2018, 6, 3)) or timedelta()).total_seconds())
    )
    days = logs(chance, first, seconds, slack, zone, small_reads, chance.choice((0, 0.01, 0.3, 1)))
    for day, log in days.items():
        write(tmp_path, day, log)
    served_by = chance.choice([(WATCHED,), (WATCHED, "2001:db8::3"), ("125.159.40.30", WATCHED, "25.159.40.3"), ()])
    for _ in range(12):
        at = first + chance.randint(0, seconds) + chance.choice((0, 0, 0.5))
        settings = HotSettings(
            served_by, chance.choice((1, 2, 5)), chance.choice((0, 60, 1800, 90_000)), slack, ("M64",)
        )
        expected = oracle.count(days.values(), set(served_by), at - settings.window, at, small_reads)
        try:
            found = read(tmp_path, at, zone_name, settings)
        except InputUnusable:  # no log of these days was written
            assert not expected.hits
        else:
            check(found, expected, settings)


@pytest.mark.parametrize("seed", range(4))
def test_large_logs_are_counted_as_the_plain_way_does(tmp_path: Path, seed: int) -> None:
    chance = Random(seed)
    days = logs(chance, MIDNIGHT, 86_400, 5, UTC, window.LONGEST_LINE, 0.02 * (seed % 2))
    text = merged(day_log(3_000_000), next(iter(days.values())))
    write(tmp_path, "20180603", text)
    for at, length in ((NOON, 600), (NOON, 20_000), (MIDNIGHT + 86_399, 86_399), (MIDNIGHT + 10, 20)):
        settings = HotSettings((WATCHED, "125.159.40.30"), 3, length, 5, ("M64", "MN1"))
        check(
            read(tmp_path, at, "UTC", settings),
            oracle.count([text], set(settings.served_by), at - length, at),
            settings,
        )


def test_both_ends_of_the_window_count(tmp_path: Path) -> None:
    write(tmp_path, "20180603", *(line(NOON + second) for second in (-601, -600, -599, -1, 0, 1)))
    found = read(tmp_path)
    assert [(row.hits, row.first, row.last) for row in found.rows] == [(4, NOON - 600, NOON)]


def test_a_window_over_midnight_reads_both_days(tmp_path: Path) -> None:
    write(tmp_path, "20180602", line(MIDNIGHT - 10), line(MIDNIGHT - 1))
    write(tmp_path, "20180603", line(MIDNIGHT), line(MIDNIGHT + 1))
    found = read(tmp_path, MIDNIGHT + 60)
    assert hits(found) == {NAMES[0].decode(): 4}
    assert (found.rows[0].first, found.rows[0].last) == (MIDNIGHT - 10, MIDNIGHT + 1)
    assert [Path(one.path).name for one in found.inputs] == ["EventLog[20180602].log", "EventLog[20180603].log"]
    assert [one.size for one in found.inputs] == [2 * len(line(NOON))] * 2


def test_a_line_late_over_midnight_is_found_in_the_next_log(tmp_path: Path) -> None:
    write(tmp_path, "20180602", line(MIDNIGHT - 20))
    write(tmp_path, "20180603", line(MIDNIGHT - 2), line(MIDNIGHT))
    found = read(tmp_path, MIDNIGHT - 1)
    assert hits(found) == {NAMES[0].decode(): 2}
    assert found.missing == ()


def test_a_line_logged_ahead_of_midnight_is_found_in_the_log_before(tmp_path: Path) -> None:
    write(tmp_path, "20180602", line(MIDNIGHT + 2))
    write(tmp_path, "20180603", line(MIDNIGHT))
    assert hits(read(tmp_path, MIDNIGHT + 601)) == {NAMES[0].decode(): 1}
    assert read(tmp_path, MIDNIGHT + 602).counts["hits"] == 1


def test_dates_of_the_names_are_those_of_the_zone(tmp_path: Path) -> None:
    write(tmp_path, "20180604", line(MIDNIGHT + 15 * 3600))  # midnight in Seoul
    assert hits(read(tmp_path, MIDNIGHT + 15 * 3600 + 30, "Asia/Seoul")) == {NAMES[0].decode(): 1}
    with pytest.raises(InputUnusable, match=r"EventLog\[20180603\]\.log: no event log; check inputs\.event_log_dir"):
        read(tmp_path, MIDNIGHT + 15 * 3600 + 30, "UTC")


def test_a_missing_log_of_the_windows_days_is_told_and_no_other(tmp_path: Path) -> None:
    write(tmp_path, "20180603", line(MIDNIGHT + 1))
    found = read(tmp_path, MIDNIGHT + 60)
    assert found.missing == (str(tmp_path / "EventLog[20180602].log"),)
    assert found.complete
    assert read(tmp_path, NOON).missing == ()
    assert read(tmp_path, MIDNIGHT + 86_398).missing == ()  # the slack alone reaches the next day


@pytest.mark.usefixtures("manager_in_seoul")
def test_without_a_zone_the_managers_own_date_is_told_as_missing(tmp_path: Path) -> None:
    write(tmp_path, "20180602", line(MIDNIGHT + 16 * 3600))  # no log host is this far west, yet nothing is left out
    write(tmp_path, "20180603", line(MIDNIGHT + 16 * 3600))
    found = read(tmp_path, MIDNIGHT + 16 * 3600, "")
    assert found.missing == (str(tmp_path / "EventLog[20180604].log"),)
    assert found.counts["hits"] == 1
    assert hits(read(tmp_path, MIDNIGHT + 16 * 3600 - 1, "")) == {}


def test_no_log_at_all_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path, "20180601", line(NOON))
    with pytest.raises(InputUnusable, match=r"EventLog\[20180603\]\.log: no event log"):
        read(tmp_path)
    with pytest.raises(InputUnusable, match="absent: cannot be read: No such file or directory"):
        read(tmp_path / "absent")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_regular_file_cannot_be_used(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "EventLog[20180603].log")
    with pytest.raises(InputUnusable, match="not a regular file"):
        read(tmp_path)


def test_a_log_that_cannot_be_opened_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "EventLog[20180603].log").symlink_to("EventLog[20180603].log")
    with pytest.raises(InputUnusable, match="Too many levels of symbolic links"):
        read(tmp_path)


def test_a_moment_outside_the_calendar_is_a_usage_fault(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="not in the calendar"):
        read(tmp_path, 1e15)
    with pytest.raises(UsageFault, match="not in the calendar"):
        read(tmp_path, NOON, "UTC", SETTINGS._replace(window=1e14))


def test_names_are_never_patterns(tmp_path: Path) -> None:
    (tmp_path / "EventLog2.log").write_bytes(line(NOON))  # what the brackets would match
    with pytest.raises(InputUnusable, match="no event log"):
        read(tmp_path)


def test_addresses_are_equal_not_contained(tmp_path: Path) -> None:
    others = ["125.159.40.30", "25.159.40.3", "1125.159.40.3", "125x159.40.3", "125.159.40.3 ", " 125.159.40.3"]
    write(tmp_path, "20180603", *(line(NOON, address=address) for address in [*others, WATCHED]))
    assert hits(read(tmp_path)) == {NAMES[0].decode(): 1}


def test_ignored_prefixes_never_become_hot(tmp_path: Path) -> None:
    ads = [b"M64AD.mpg", b"M64AD.mpg", b"\xffAD.mpg", b"\xffAD.mpg", b"M64ONCE.mpg", b"xM64.mpg", b"xM64.mpg"]
    write(tmp_path, "20180603", *(line(NOON, name) for name in ads))
    prefixes = ("M64", names.text_from_bytes(b"\xffA"))
    found = read(tmp_path, settings=SETTINGS._replace(min_hits=2, ignore_prefixes=prefixes))
    assert hits(found) == {"xM64.mpg": 2}
    assert {key: found.counts[key] for key in ("hits", "files", "ignored")} == {"hits": 7, "files": 4, "ignored": 2}


def test_a_name_keeps_its_bytes(tmp_path: Path) -> None:
    write(tmp_path, "20180603", *(line(NOON, name) for name in NAMES))
    found = read(tmp_path)
    assert [names.bytes_from_text(row.name) for row in found.rows] == sorted(NAMES)


def test_rows_come_most_hits_first_then_by_name(tmp_path: Path) -> None:
    every = [b"b", b"b", "\ue000".encode(), b"\xf0\x90\x80\x80", b"a", b"c", b"c", b"d"]
    write(tmp_path, "20180603", *(line(NOON, name) for name in every))
    assert [names.bytes_from_text(row.name) for row in read(tmp_path).rows] == [
        b"b", b"c", b"a", b"d", b"\xee\x80\x80", b"\xf0\x90\x80\x80",
    ]  # fmt: skip
    assert list(hits(read(tmp_path, settings=SETTINGS._replace(min_hits=2)))) == ["b", "c"]


def test_the_last_line_counts_once_it_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "20180603", line(NOON), line(NOON)[:-1])
    assert hits(read(tmp_path)) == {NAMES[0].decode(): 1}
    with path.open("ab") as log:
        log.write(b"\n")
    assert hits(read(tmp_path)) == {NAMES[0].decode(): 2}


def test_an_over_long_line_is_counted_and_reading_goes_on(tmp_path: Path) -> None:
    endless = b"0x40ffff,1,%d,Server %b Selected " % (NOON, WATCHED.encode())
    lines = [line(NOON), endless + b"x" * 5_000_000 + b"\n", line(NOON), endless.ljust(65_537) + b"\n", line(NOON)]
    write(tmp_path, "20180603", *lines, endless.ljust(65_519) + b"file(longest.mpg)\n")
    found = read(tmp_path)
    assert hits(found) == {NAMES[0].decode(): 3, "longest.mpg": 1}
    assert found.skipped == {"long": 2}


def test_skipped_lines_outside_the_window_are_not_counted(tmp_path: Path) -> None:
    lines = [b",\n", line(NOON - 700), b",\n", line(NOON - 600), b",\n", b"\n", line(NOON), b"0x40ffff,1,x,y\n"]
    write(tmp_path, "20180603", *lines, line(NOON + 1), b",\n")
    assert read(tmp_path).skipped == {"short": 1, "blank": 1, "no_time": 1}


def test_an_over_long_line_has_no_time_to_begin_at(tmp_path: Path, small_reads: int) -> None:
    endless = line(NOON - 900)[:-1].ljust(small_reads + 1, b"x") + b"\n"
    write(tmp_path, "20180603", *[line(NOON - 1000)] * 5, *[endless, b",\n"] * 20, *[line(NOON)] * 5)
    assert read(tmp_path).skipped == {}


@pytest.mark.parametrize("content", [b"", b"\n", b",\n,\n", b"x" * 200_000, b"x" * 200_000 + b"\n"])
def test_a_log_without_any_usable_line_has_no_hits(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "20180603", content)
    found = read(tmp_path)
    assert (found.rows, found.skipped, found.complete) == ([], {}, True)


def test_what_is_appended_while_reading_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "20180603", line(NOON))
    find_start = window.find_start

    def grow_and_find(log: window.Log, earliest: float) -> int:
        with path.open("ab") as more:
            more.write(line(NOON))
        return find_start(log, earliest)

    monkeypatch.setattr(window, "find_start", grow_and_find)
    found = read(tmp_path)
    assert found.counts["hits"] == 1
    assert found.inputs[0].size == len(line(NOON))


def test_a_log_that_shrinks_while_reading_makes_the_answer_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "20180603", line(NOON), line(NOON))

    def cut_off(_log: window.Log, _earliest: float) -> int:
        os.truncate(path, len(line(NOON)) + 5)
        return 0

    monkeypatch.setattr(window, "find_start", cut_off)
    found = read(tmp_path)
    assert found.counts["hits"] == 1
    assert not found.complete
    assert (found.inputs[0].complete, found.inputs[0].fault) == (False, event_log.SHRANK)


def test_a_short_window_reads_a_small_part_of_the_day(tmp_path: Path) -> None:
    size = write(tmp_path, "20180603", day_log(5_000_000)).stat().st_size
    for at in range(MIDNIGHT + 60, MIDNIGHT + 86_400, 3607):
        found = read(tmp_path, at, "UTC", SETTINGS._replace(window=60))
        assert found.counts["hits"] > 0
        assert found.counts["bytes_read"] < size * 0.05


def test_logs_of_other_days_cost_a_few_reads_only(tmp_path: Path) -> None:
    for day, name in enumerate(("20180602", "20180603", "20180604"), -1):
        write(tmp_path, name, day_log(5_000_000, MIDNIGHT + day * 86_400))
    found = read(tmp_path, NOON, "")
    assert len(found.inputs) == 3
    assert found.counts["bytes_read"] < 600_000


def test_the_fact_is_light() -> None:
    program = (
        "import sys, cftools.facts.event_log; print([n for n in ('polars', 'paramiko', 'rich') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
