"""Durations, sizes, rates, percents and moments as people write them, and back.

Every ``parse_...`` takes what stands in the config file or on the command line and raises ValueError, whose text says
what is allowed. A number without its unit is refused, because 60 may be seconds to one reader and minutes to another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    "w": Decimal(7 * 86400),
}
BYTES = {
    "B": Decimal(1),
    **{f"{prefix}B": Decimal(1000) ** power for power, prefix in enumerate("kMGTP", 1)},
    "KB": Decimal(1000),
    **{f"{prefix}iB": Decimal(1024) ** power for power, prefix in enumerate("KMGTP", 1)},
}
BITS_A_SECOND = {
    "bit": Decimal(1),
    **{f"{prefix}bit": Decimal(1000) ** power for power, prefix in enumerate("kMGT", 1)},
}

DURATION_PATTERN = r"(\d{1,15}(\.\d{1,9})? ?(w|d|h|ms|m|s) ?)+"
SIZE_PATTERN = r"\d{1,19}(\.\d{1,9})? ?([kKMGTP]?B|[KMGTP]iB)"
RATE_PATTERN = r"\d{1,19}(\.\d{1,9})? ?[kMGT]?bit(/s)?"
PERCENT_PATTERN = r"(100|[1-9]?\d)%?"

LONGEST_DURATION = 36500 * 86400.0  # seconds; keeps every moment reckoned with it inside the calendar
LARGEST_AMOUNT = 2**63 - 1

_DURATION_HELP = "write a number with ms, s, m, h, d or w, as 500ms, 10m or 1h30m"
_SIZE_HELP = "write a number with B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB or PiB, as 2TB or 64MiB"
_RATE_HELP = "write a number with bit, kbit, Mbit, Gbit or Tbit (bits a second), as 10Mbit"
_PERCENT_HELP = "write a whole number from 0 to 100, as 20 or 20%"
_TIME_HELP = "write ISO 8601, as 2018-06-03T12:30:00 or 2018-06-03T03:30:00Z, or epoch seconds"

_PART = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,9})?) ?(?P<unit>ms|[wdhms]) ?", re.ASCII)
_DURATION = re.compile(DURATION_PATTERN, re.ASCII)
_AMOUNT = re.compile(r"(?P<number>\d{1,19}(?:\.\d{1,9})?) ?(?P<unit>[A-Za-z]+)(?:/s)?", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_PERCENT = re.compile(PERCENT_PATTERN, re.ASCII)
_FRACTION = re.compile(r"(?P<number>0?\.\d+)%?", re.ASCII)
_COMPACT_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", re.ASCII)


def quoted(value: object) -> str:
    """``value`` for a message: one line, not too long."""
    text = value if isinstance(value, str) else str(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:61])
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"


def parse_duration(value: object) -> float:
    """Seconds of a duration such as ``500ms``, ``10m`` or ``1h30m`` (larger units first). Raises ValueError."""
    text = _text(value, "duration", ("s", "m", "h"), _DURATION_HELP)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no duration; {_DURATION_HELP}")
    total, last = Decimal(0), Decimal("Infinity")
    for part in _PART.finditer(text):
        unit = SECONDS[part["unit"]]
        if unit >= last:
            raise ValueError(f"{quoted(text)} is no duration: each unit once, larger ones first, as 1h30m")
        total, last = total + Decimal(part["number"]) * unit, unit
    if total > LONGEST_DURATION:
        raise ValueError(f"{quoted(text)} is too long; the longest duration is {show_duration(LONGEST_DURATION)}")
    return float(total)


def parse_size(value: object) -> int:
    """Bytes of a size such as ``2TB`` (decimal) or ``64MiB`` (binary). Raises ValueError."""
    text = _text(value, "size", ("MB", "GB", "TB"), _SIZE_HELP)
    return _amount(text, BYTES, "size", _SIZE_HELP, rate=False)


def parse_rate(value: object) -> int:
    """Bits a second of a rate such as ``10Mbit`` or ``1.5Gbit``. Raises ValueError."""
    text = _text(value, "rate", ("kbit", "Mbit", "Gbit"), _RATE_HELP)
    return _amount(text, BITS_A_SECOND, "rate", _RATE_HELP, rate=True)


def parse_percent(value: object) -> int:
    """Whole percents, 0 to 100, of ``20`` or ``"20%"``. Raises ValueError, also for fractions such as 0.2."""
    text = _spelled(value)
    if _PERCENT.fullmatch(text):
        return int(text.rstrip("%"))
    if (found := _FRACTION.fullmatch(text)) and Decimal(found["number"]):
        percents = f"{Decimal(found['number']) * 100:f}"
        percents = percents.rstrip("0").rstrip(".") if "." in percents else percents
        raise ValueError(f"{text}: is it {percents}% or {text.rstrip('%')}%? {_PERCENT_HELP}")
    raise ValueError(f"{quoted(text)} is no percentage; {_PERCENT_HELP}")


def parse_time(value: object) -> float:
    """Epoch seconds of a moment: epoch seconds or ISO 8601, which is local time unless it names a zone.

    Raises ValueError.
    """
    from datetime import datetime

    text = _spelled(value)
    if _COMPACT_DATE.fullmatch(text):
        raise ValueError(f"{text} may be a date or epoch seconds; write a date as {text[:4]}-{text[4:6]}-{text[6:]}")
    if _NUMBER.fullmatch(text):
        moment = float(text)
    else:
        try:
            moment = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"{quoted(text)} is no time; {_TIME_HELP}") from None
    if not 0 <= moment < 253402300800:  # the year 10000
        raise ValueError(f"{quoted(text)} is not between the years 1970 and 9999; {_TIME_HELP}")
    return moment


def show_duration(seconds: float) -> str:
    """The duration for people, in the form `parse_duration` takes: ``90.0`` is ``1m30s``, ``0.5`` is ``500ms``.

    Below a second rounded to a millisecond, below a minute to a tenth of a second, above to a second.
    """
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 0:
        return "-" + show_duration(-seconds)
    if round(seconds, 3) < 1:
        return "0s" if round(seconds * 1000) == 0 else f"{round(seconds * 1000)}ms"
    if round(seconds, 1) < 60:
        return f"{round(seconds, 1):g}s"
    rest, shown = round(seconds), ""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        shown += f"{count}{unit}" if count else ""
    return shown


def show_size(size: float) -> str:
    """The size for people, decimal, at most four digits: ``920910664`` is ``920.9MB``."""
    return _show(size, ("B", "kB", "MB", "GB", "TB", "PB"))


def show_rate(rate: float) -> str:
    """The rate for people, bits a second, at most four digits: ``10e6`` is ``10Mbit``."""
    return _show(rate, ("bit", "kbit", "Mbit", "Gbit", "Tbit"))


def _show(amount: float, units: tuple[str, ...]) -> str:
    if not math.isfinite(amount):
        return "unknown"
    if amount < 0:
        return "-" + _show(-amount, units)
    number = float(amount)
    for unit in units[:-1]:
        if float(f"{number:.4g}") < 1000:
            return f"{number:.4g}{unit}"
        number /= 1000
    return f"{number:.4g}{units[-1]}" if number < 1000 else f"{number:.0f}{units[-1]}"


def _amount(text: str, units: Mapping[str, Decimal], what: str, help_text: str, *, rate: bool) -> int:
    found = _AMOUNT.fullmatch(text)
    if found is None or (text.endswith("/s") and not rate):
        raise ValueError(f"{quoted(text)} is no {what}; {help_text}")
    if found["unit"] not in units:
        alike = [unit for unit in units if unit.lower() == found["unit"].lower()]
        hint = f"did you mean {found['number']}{alike[0]}? " if alike else ""
        raise ValueError(f"{quoted(text)} is no {what}; {hint}{help_text}")
    amount = Decimal(found["number"]) * units[found["unit"]]
    if amount > LARGEST_AMOUNT:
        raise ValueError(f"{quoted(text)} is too large for a {what}")
    return round(amount)


def _text(value: object, what: str, units: tuple[str, ...], help_text: str) -> str:
    text = _spelled(value)
    if _NUMBER.fullmatch(text):
        if text[0] == "-":
            raise ValueError(f"{quoted(text)} is below 0; {help_text}")
        written = [f"{text.lstrip('+')}{unit}" for unit in units]
        shown = f"{', '.join(written[:-1])} or {written[-1]}?" if len(text) <= 20 else "too long a number;"
        raise ValueError(f"{quoted(text)} has no unit: {shown} For a {what}, {help_text}")
    return text


def _spelled(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip(" ")
