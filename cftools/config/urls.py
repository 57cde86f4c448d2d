"""URLs of PostgreSQL databases, as libpq reads them. Nothing said about one shows its password."""

from __future__ import annotations

import re

_URL = re.compile(
    r"(?P<scheme>postgres(?:ql)?)://(?:(?P<user>[^@/?]*)@)?(?P<hosts>[^/?]*)(?:/(?P<name>[^?]*))?(?:\?(?P<query>.*))?",
    re.IGNORECASE,
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.\-%]*)(?::(?P<port>[0-9]{1,5}))?")
_UNSHOWN = re.compile("[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]")
EXAMPLE = "postgresql://user@host/name"


def is_postgresql(url: str) -> bool:
    """Whether the URL is one of PostgreSQL."""
    return url.partition(":")[0].lower() in ("postgres", "postgresql")


def postgresql(text: str) -> str:
    """The URL of a database in PostgreSQL, on one host or on several, as it goes to libpq. Raises ValueError."""
    found = _URL.fullmatch(text)
    if _UNSHOWN.search(text):
        raise ValueError("the URL holds a blank or a control character; write it as %20 or the like")
    if found is None:
        raise ValueError(f"no URL of a PostgreSQL database; write {EXAMPLE}")
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise ValueError("a % in the URL begins no character; write % itself as %25")
    if "@" in found["hosts"] + (found["name"] or "") or "/" in (found["name"] or ""):
        raise ValueError("write @, / and ? in a user name or password as %40, %2F and %3F")
    for host in found["hosts"].split(","):
        port = _HOST.fullmatch(host)
        if port is None or (port["port"] and not 1 <= int(port["port"]) <= 65535):
            raise ValueError(f"the URL's hosts are not host:port,host:port; write {EXAMPLE}")
    if not found["name"]:
        raise ValueError(f"the URL names no database; write {EXAMPLE}")
    for parameter in (found["query"] or "").split("&"):
        if found["query"] and not re.fullmatch("[a-z_]+=[^=]*", parameter):
            raise ValueError("the URL's parameters are not name=value&name=value")
    return f"{found['scheme'].lower()}{text[len(found['scheme']) :]}"


def shown_url(url: str) -> str:
    """The URL as people may see it: without password and parameters."""
    found = _URL.fullmatch(url)
    if found is None:
        return "postgresql:"
    user = (found["user"] or "").partition(":")[0]
    return f"{found['scheme']}://{user}{'@' if user else ''}{found['hosts']}/{found['name'] or ''}"
