"""Units: what is understood, what is refused and how, and that what is shown can be read again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftools.config.units import (
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
    parse_time,
    show_duration,
    show_rate,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("0s", 0.0),
        ("5s", 5.0),
        ("1.5m", 90.0),
        ("10m", 600.0),
        ("6h", 21600.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1d2h3m4s5ms", 93784.005),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        (" 10 m ", 600.0),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100B", 100),
        ("0B", 0),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("64MiB", 64 << 20),
        ("2TB", 2 * 10**12),
        ("1.5GB", 1_500_000_000),
        ("0.1TiB", 109951162778),
        ("3 PB", 3 * 10**15),
    ],
)
def test_sizes_are_whole_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert isinstance(parse_size(text), int)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("800kbit", 800_000), ("10Mbit", 10_000_000), ("1.5Gbit", 1_500_000_000), ("9600bit", 9600), ("10Mbit/s", 10**7)],
)
def test_rates_are_bits_a_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(("value", "percent"), [(20, 20), ("20%", 20), ("20", 20), (0, 0), ("100%", 100)])
def test_percents_are_whole(value: object, percent: int) -> None:
    assert parse_percent(value) == percent


@pytest.mark.parametrize(
    ("parse", "value", "what"),
    [
        (parse_duration, 60, "'60' has no unit: 60s, 60m or 60h?"),
        (parse_duration, "60", "'60' has no unit"),
        (parse_duration, "0", "'0' has no unit"),
        (parse_duration, "1.5", "'1.5' has no unit"),
        (parse_duration, "-5", "'-5' is below 0"),
        (parse_duration, "-5s", "'-5s' is no duration"),
        (parse_duration, "10:30", "'10:30' is no duration; write a number with ms, s, m, h, d or w"),
        (parse_duration, "1m1h", "larger ones first"),
        (parse_duration, "1m1m", "each unit once"),
        (parse_duration, "5M", "'5M' is no duration"),
        (parse_duration, "5min", "'5min' is no duration"),
        (parse_duration, "", "'' is no duration"),
        (parse_duration, "99999d", "too long; the longest duration is 36500d"),
        (parse_duration, True, "'true' is no duration"),
        (parse_duration, None, "'null' is no duration"),
        (parse_duration, float("nan"), "'nan' is no duration"),
        (parse_duration, "٣s", "is no duration"),
        (parse_size, 100, "'100' has no unit: 100MB, 100GB or 100TB?"),
        (parse_size, "2tb", "did you mean 2TB?"),
        (parse_size, "2T", "'2T' is no size; write a number with B, kB, MB"),
        (parse_size, "2TB/s", "'2TB/s' is no size"),
        (parse_size, "1e3B", "'1e3B' is no size"),
        (parse_size, "99999999PB", "too large for a size"),
        (parse_size, "9" * 500, "too long a number"),
        (parse_rate, "10MB", "'10MB' is no rate; write a number with bit, kbit, Mbit"),
        (parse_rate, "10mbit", "did you mean 10Mbit?"),
        (parse_rate, 10, "'10' has no unit: 10kbit, 10Mbit or 10Gbit?"),
        (parse_percent, 0.2, "0.2: is it 20% or 0.2%?"),
        (parse_percent, "0.125", "0.125: is it 12.5% or 0.125%?"),
        (parse_percent, ".5%", "is it 50% or .5%?"),
        (parse_percent, True, "'true' is no percentage"),
        (parse_percent, 101, "'101' is no percentage; write a whole number from 0 to 100"),
        (parse_percent, -1, "'-1' is no percentage"),
        (parse_percent, "022", "'022' is no percentage"),
        (parse_percent, "20.0", "'20.0' is no percentage"),
        (parse_percent, None, "'null' is no percentage"),
        (parse_time, "tomorrow", "'tomorrow' is no time; write ISO 8601"),
        (parse_time, "-1", "not between the years 1970 and 9999"),
        (parse_time, "1e300", "not between"),
        (parse_time, float("inf"), "'inf' is no time"),
        (parse_time, "20180603", "may be a date or epoch seconds; write a date as 2018-06-03"),
        (parse_time, "0001-01-01T00:00:00+14:00", "is not"),
        (parse_time, True, "'true' is no time"),
    ],
)
def test_what_is_refused_says_what_is_allowed(parse: Callable[[object], float], value: object, what: str) -> None:
    with pytest.raises(ValueError) as fault:
        parse(value)
    assert what in str(fault.value)
    assert "\n" not in str(fault.value)


def test_moments_are_epoch_seconds_or_iso_8601() -> None:
    assert parse_time("1527953525") == 1527953525.0
    assert parse_time(1527953525.5) == 1527953525.5
    assert parse_time("2018-06-02T15:32:05Z") == 1527953525.0
    assert parse_time("2018-06-03T00:32:05+09:00") == 1527953525.0
    assert parse_time("2018-06-03") == datetime(2018, 6, 3).timestamp()


def test_a_moment_without_a_zone_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "KST-9")
    time.tzset()
    try:
        assert parse_time("2018-06-03 00:32:05") == 1527953525.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.0001, "0s"),
        (0.5, "500ms"),
        (0.9999, "1s"),
        (1.25, "1.2s"),
        (59.96, "1m"),
        (90, "1m30s"),
        (3600, "1h"),
        (93784.4, "1d2h3m4s"),
        (-5, "-5s"),
        (float("inf"), "unknown"),
    ],
)
def test_durations_are_shown_with_units(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (920910664, "920.9MB"),
        (999_999, "1MB"),
        (2e12, "2TB"),
        (50e12, "50TB"),
        (5e18, "5000PB"),
        (-2048, "-2.048kB"),
        (float("nan"), "unknown"),
    ],
)
def test_sizes_are_shown_with_units(size: float, shown: str) -> None:
    assert show_size(size) == shown


def test_rates_are_shown_with_units() -> None:
    assert [show_rate(rate) for rate in (9600, 1e7, 1.5e9)] == ["9.6kbit", "10Mbit", "1.5Gbit"]


@given(st.integers(0, 36500 * 86400))
def test_a_shown_duration_of_whole_seconds_reads_back_the_same(seconds: int) -> None:
    assert parse_duration(show_duration(seconds)) == seconds


@given(st.integers(0, 2**62))
def test_a_shown_size_or_rate_reads_back_nearly_the_same(amount: int) -> None:
    assert parse_size(show_size(amount)) == pytest.approx(amount, rel=0.0005)
    assert parse_rate(show_rate(amount)) == pytest.approx(amount, rel=0.0005)


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.text("0123456789.mshdw%kMGTB: -")))
def test_parsers_raise_nothing_but_value_error(value: object) -> None:
    for parse in (parse_duration, parse_size, parse_rate, parse_percent, parse_time):
        what = ""
        try:
            assert parse(value) >= 0
        except ValueError as fault:
            what = str(fault)
        assert what.isprintable()


@given(st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9000, 1, 1)))
def test_a_moment_in_utc_reads_back_the_same(moment: datetime) -> None:
    zoned = moment.replace(tzinfo=UTC)
    assert parse_time(zoned.isoformat()) == zoned.timestamp()
