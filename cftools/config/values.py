"""One value of the config file: from the text that stands there to the value of its field."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from cftools.config import units, urls
from cftools.config.units import quoted

LONGEST_NAME = 100
NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*"
HOST_PATTERN = r"[A-Za-z0-9_]([A-Za-z0-9_.\-]*[A-Za-z0-9_])?"
ACCOUNT_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.@$\\\-]*"

_NAME = re.compile(NAME_PATTERN)
_HOST = re.compile(HOST_PATTERN)
_ACCOUNT = re.compile(ACCOUNT_PATTERN)
_LIKE_ADDRESS = re.compile(r"[0-9.]+|.*:.*")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+", re.ASCII)
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")  # YAML 1.1's own


def whole(text: str) -> int:
    """The whole number. Raises ValueError."""
    if _LEADING_ZERO.fullmatch(text):
        raise ValueError(f"{quoted(text)} may be octal; write it without the leading 0")
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no whole number")
    if len(text) > 18:
        raise ValueError(f"{quoted(text)} is too large")
    return int(text)


def flag(text: str) -> bool:
    """The truth value. Raises ValueError."""
    if text.lower() not in TRUE + FALSE:
        raise ValueError(f"{quoted(text)} is neither true nor false")
    return text.lower() in TRUE


def plain(text: str, _: Path) -> str:
    """Any text on one line. Raises ValueError."""
    if _UNSHOWN.search(text):
        raise ValueError(f"{quoted(text)} holds a control character")
    return text


def path(text: str, folder: Path) -> str:
    """A path here: ``~`` filled in, relative to ``folder``. Raises ValueError."""
    plain(text, folder)
    filled = os.path.expanduser(text)  # noqa: PTH111  (Path.expanduser raises where this leaves the text alone)
    if filled.startswith("~"):
        raise ValueError(f"{quoted(text)}: nobody's home directory; write ./{text} for a file of that name")
    return str(folder / filled)


def server_file(text: str, folder: Path) -> str:
    """An absolute, normal path on a server, without a slash at its end. Raises ValueError."""
    plain(text, folder)
    if not text.startswith("/"):
        raise ValueError(f"{quoted(text)} is not absolute; a path on a server begins with /")
    parts = text.strip("/").split("/")
    if parts == [""]:
        raise ValueError(f"{quoted(text)} is the whole file system; name a folder")
    if ".." in parts:
        raise ValueError(f"{quoted(text)} goes up with ..; write the path it leads to")
    if "" in parts or "." in parts or text.startswith("//"):
        raise ValueError(
            f"{quoted(text)}: write {quoted('/' + '/'.join(part for part in parts if part not in ('', '.')))}"
        )
    return "/" + "/".join(parts)


def address(text: str, _: Path) -> str:
    """An IP address in its usual form. Raises ValueError."""
    try:
        parsed = ip_address(text)
    except ValueError:
        zeros = re.search(r"(^|\.)0\d", text) is not None
        hint = "write its numbers without leading zeros" if zeros else "write it as 172.18.0.101 or fd00::101"
        raise ValueError(f"{quoted(text)} is no IP address; {hint}") from None
    if parsed.is_unspecified or parsed.is_multicast or "%" in text:
        raise ValueError(f"{quoted(text)} is not the address of one server")
    return str(parsed)


def host(text: str, folder: Path) -> str:
    """An IP address in its usual form, or a host name. Raises ValueError."""
    if _LIKE_ADDRESS.fullmatch(text):
        return address(text, folder)
    if not _HOST.fullmatch(text) or len(text) > 253:
        raise ValueError(f"{quoted(text)} is neither an IP address nor a host name")
    return text


def account(text: str, _: Path) -> str:
    """A login name. Raises ValueError."""
    if not _ACCOUNT.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no login name")
    return text


def name(text: str, _: Path) -> str:
    """A name that is safe as a file name. Raises ValueError."""
    if not _NAME.fullmatch(text):
        what = "use letters a-z, digits, '-', '_' and '.', and neither '-' nor '.' at the beginning"
        raise ValueError(f"{quoted(text)}: {what}")
    if len(text) > LONGEST_NAME:
        raise ValueError(f"{quoted(text)} is longer than {LONGEST_NAME} characters")
    return text


def filename(text: str, folder: Path) -> str:
    """The name of a file without a folder. Raises ValueError."""
    plain(text, folder)
    if "/" in text or text in (".", ".."):
        raise ValueError(f"{quoted(text)} is no plain file name; write it without a folder")
    if len(text.encode()) > 255:
        raise ValueError(f"{quoted(text)} is longer than 255 bytes")
    return text


def daily(text: str, folder: Path) -> str:
    """A strftime pattern that gives one file name a day. Raises ValueError."""
    plain(text, folder)
    try:
        first, second, late = (
            datetime(2018, 6, day, hour, minute).strftime(text)
            for day, hour, minute in ((1, 1, 2), (2, 1, 2), (1, 23, 59))
        )
    except ValueError:
        raise ValueError(f"{quoted(text)} is no strftime pattern") from None
    if "/" in text or "/" in first:
        raise ValueError(f"{quoted(text)} holds a /; the folder is event_log_dir")
    if first == second:
        raise ValueError(f"{quoted(text)} names the same file every day; put the day in, as %Y%m%d")
    if first != late:
        raise ValueError(f"{quoted(text)} changes within a day; one file a day is read")
    return text


def timezone(text: str, _: Path) -> str:
    """A name of the zone database. Raises ValueError."""
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        known = {zone.lower(): zone for zone in zoneinfo.available_timezones()}
        hint = f"did you mean {known[text.lower()]}?" if text.lower() in known else "write it as Asia/Seoul or UTC"
        raise ValueError(f"{quoted(text)} is no time zone known here; {hint}") from None
    return text


def database(text: str, folder: Path) -> str:
    """The URL of the state database: ``postgresql://user@host/name``, or ``sqlite:///folder/file`` with its path made
    absolute. Raises ValueError."""
    if urls.is_postgresql(text):
        return urls.postgresql(text)
    plain(text, folder)
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() != "sqlite":
        raise ValueError(f"{quoted(text)}: write sqlite:///absolute/path, sqlite:relative/path or {urls.EXAMPLE}")
    if rest.startswith("//") and not rest.startswith("///"):
        raise ValueError(f"{quoted(text)} names a host; write sqlite:///absolute/path or sqlite:relative/path")
    file = sqlite_path(text)
    if not file.name or rest.endswith("/") or ":memory:" in rest:
        raise ValueError(f"{quoted(text)} names no file, and the state must survive; write sqlite:///absolute/path")
    if "?" in rest:
        raise ValueError(f"{quoted(text)}: parameters after ? are not supported")
    return f"sqlite://{path(str(file), folder)}"


def sqlite_path(url: str) -> Path:
    """The file of a URL such as ``sqlite:///absolute``, ``sqlite:relative`` or ``sqlite:///./relative``."""
    rest = url.partition(":")[2]
    rest = rest.removeprefix("//")
    return Path(rest[1:] if rest.startswith(("/./", "/../", "/~")) else rest)


TEXTS: dict[str, Callable[[str, Path], str]] = {
    "": plain,
    "path": path,
    "file": server_file,
    "address": address,
    "host": host,
    "account": account,
    "name": name,
    "timezone": timezone,
    "daily": daily,
    "filename": filename,
    "database": database,
}
AMOUNTS: dict[str, Callable[[object], float]] = {
    "": lambda value: whole(str(value)),
    "duration": units.parse_duration,
    "size": units.parse_size,
    "rate": units.parse_rate,
    "percent": units.parse_percent,
}
SHOWN: dict[str, Callable[[float], str]] = {
    "": lambda value: str(int(value)),
    "duration": units.show_duration,
    "size": units.show_size,
    "rate": units.show_rate,
    "percent": lambda value: f"{int(value)}%",
}
AS_WRITTEN = {"address", "host", "account"}  # texts that YAML may take for a number: 1:20:30 or 172.18
