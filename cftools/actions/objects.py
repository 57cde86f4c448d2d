"""Deleting from object storage (S3, Google Cloud Storage, Azure) through obstore, each key's own error seen.

An S3 service takes up to 1,000 keys a call and may fail each of them on its own inside an HTTP 200. obstore raises the
first of these errors, in the order of the keys: those before it are deleted, and of those behind it nothing is known.
So what is not known is asked again, in two halves, side by side: each call settles a whole list or finds the error of
one key, so there are at most two calls for a key that fails. Deleting again what is deleted does no harm.
An answer in which the words InternalError or SlowDown stand, be it in a key, obstore takes for an error of the whole
call, repeats it, and hands the answer over as it came: then it is read here.

The other services are asked key by key: of their calls for many keys obstore would not tell which one failed.

Whoever may log in is read from the environment, as obstore does it: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, and others. What a service
answers to a wrong login quotes parts of it, and addresses may hold tokens: of its words only code and message are told.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as Xml
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from cftools.actions.unlink import Verdict
from cftools.config.schema import BulkDeleteTarget, Ssh
from cftools.model import names
from cftools.model.errors import UsageFault
from cftools.remote.transport import RemoteFault

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, S3Config

TOGETHER = 1000  # keys a call, which S3 sets
PARALLEL = 8  # calls side by side
LONGEST_KEY = 1024  # bytes
RETRIES = 2  # of calls that were not taken, within the time that connecting has
_UNWRITABLE = re.compile("[\0-\x1f\x7f\ufffe\uffff]")  # XML, or obstore, cannot hold these
_OF_ONE_KEY = "DeleteObjects request failed for key "
_WHOLE_ANSWER = "Server returned error response: "
_ASKED = re.compile(r"Error performing \w+ (\S+) in ")
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE, _MESSAGE = re.compile(r"<Code>(\w+)</Code>"), re.compile(r"<Message>([^<]*)</Message>")
_KIND = re.compile(r"\bkind: (\w+)")
_REASON = re.compile(r'\b(?:message|error): "([^"]*)"|\bInvalidCertificate\(\s*(\w+)')
NO_LOGIN = "no login: the environment has none (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_...)"
# What one key can be the reason of, though it is told of the whole call.
_BY_A_KEY = frozenset({"MalformedXML", "KeyTooLongError", "InvalidURI", "InvalidArgument"})
_BY_THE_LOGIN = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"),
        *("AuthenticationFailed", "AuthorizationFailure", "InvalidAuthenticationInfo", "AccountIsDisabled"),
    }
)


class Storage(NamedTuple):
    """Where files lie. ``url``: s3://bucket/prefix, gs:// or az://; ``endpoint`` and ``region`` may be empty; limits
    in seconds: for a connection, and for the answer to one call."""

    url: str
    endpoint: str = ""
    region: str = ""
    connect_timeout: float = 5.0
    response_timeout: float = 60.0

    @classmethod
    def from_target(cls, target: BulkDeleteTarget, ssh: Ssh) -> Storage:
        """The storage of a target; its limits are those of the servers."""
        return cls(target.url, target.endpoint, target.region, ssh.connect_timeout, ssh.response_timeout)

    @property
    def call_limit(self) -> float:
        """Seconds for one call, connecting included."""
        return self.connect_timeout + self.response_timeout

    @property
    def scheme(self) -> str:
        """s3, gs or az."""
        return self.url.partition("://")[0]

    @property
    def bucket(self) -> str:
        """The bucket, or container."""
        return self.url.partition("://")[2].partition("/")[0]

    @property
    def prefix(self) -> str:
        """What each key begins with, a slash at its end, or the empty string."""
        prefix = self.url.partition("://")[2].partition("/")[2].strip("/")
        return f"{prefix}/" if prefix else ""


class _Answer(NamedTuple):
    """What one call settled, and the lists of keys that are to be asked again."""

    verdicts: Mapping[str, Verdict]
    again: Sequence[Sequence[str]] = ()


_DONE = Verdict("done")


def remove(settings: Storage, file_names: Sequence[str]) -> list[Verdict]:
    """Deletes the objects of these names below the URL's prefix; a verdict a name, in their order.

    `done`: it is not there now (S3 does not tell whether it was). `already`: it was not there. `failed`: the detail
    says why. Raises RemoteFault when the service cannot be asked: `unreachable`, `refused` (login, bucket), `silent` (a
    call took longer than it may) or `broken`; the last two leave open what was deleted. Raises UsageFault without
    obstore.
    """
    keys = {name: settings.prefix + names.bytes_from_text(name).decode(errors="replace") for name in file_names}
    verdicts = {name: Verdict("failed", why) for name, key in keys.items() if (why := _no_key(name, key))}
    wanted = list(dict.fromkeys(key for name, key in keys.items() if name not in verdicts))
    settled = _settle(settings, wanted) if wanted else {}
    return [verdicts[name] if name in verdicts else settled[keys[name]] for name in file_names]


def check(settings: Storage) -> None:
    """Raises RemoteFault when the service does not answer, whatever is asked; with no word on whether one may delete.

    For a `broken` or `silent` of `remove`: was it the service, or what it was asked? Changes nothing.
    """
    import obstore
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    store, started = _store(settings), time.monotonic()
    try:
        obstore.head(store, f"{settings.prefix}.cftools-check")
    except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError):
        return
    except (BaseError, OSError) as fault:
        understood = _understood(settings, fault, [""], time.monotonic() - started)
        if isinstance(understood, RemoteFault):
            raise understood from fault


def _no_key(name: str, key: str) -> str:
    """Why no object can have this name, or the empty string."""
    if {"", ".", ".."}.intersection(name.split("/")):
        return "no key: an empty part, '.' or '..'"
    if names.text_from_bytes(names.bytes_from_text(name).decode(errors="replace").encode()) != name:
        return "no key: it is not UTF-8"
    if _UNWRITABLE.search(key):
        return "no key: a character that no request can hold"
    if len(key.encode()) > LONGEST_KEY:
        return f"no key: longer than {LONGEST_KEY} bytes"
    return ""


def _settle(settings: Storage, keys: Sequence[str]) -> dict[str, Verdict]:
    call = _caller(settings)
    together = TOGETHER if settings.scheme == "s3" else 1
    lists: list[Sequence[str]] = [keys[first : first + together] for first in range(0, len(keys), together)]
    verdicts: dict[str, Verdict] = {}
    with ThreadPoolExecutor(min(PARALLEL, max(2, len(lists))), thread_name_prefix="objects") as pool:
        while lists:
            again: list[Sequence[str]] = []
            faults: list[RemoteFault] = []
            for answer in pool.map(lambda some: _ask(settings, call, some), lists):
                if isinstance(answer, RemoteFault):
                    faults.append(answer)
                else:
                    verdicts |= answer.verdicts
                    again += answer.again
            if faults:
                raise _worst(faults, something_was_done=bool(verdicts or again))
            lists = again
    return verdicts


def _worst(faults: Sequence[RemoteFault], *, something_was_done: bool) -> RemoteFault:
    """One fault for several: "nothing was done" is said only when it is true of all."""
    open_ones = [fault for fault in faults if not fault.nothing_was_done]
    if open_ones:
        return open_ones[0]
    first = faults[0]
    return RemoteFault(first.server, "broken", first.detail) if something_was_done else first


def _store(settings: Storage) -> ObjectStore:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as fault:
        raise UsageFault(f"{settings.url}: object storage needs obstore: pip install 'cftools[objects]'") from fault
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=settings.connect_timeout),
        "timeout": timedelta(seconds=settings.call_limit),
        "allow_http": settings.endpoint.startswith("http://"),
    }
    places: S3Config = {}
    if settings.endpoint:
        places["endpoint"] = settings.endpoint
    if settings.region:
        places["region"] = settings.region
    try:
        # Without the prefix: in a URL it would lose what follows a question mark.
        return from_url(
            f"{settings.scheme}://{settings.bucket}",
            config=places or None,
            client_options=client,
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=settings.connect_timeout)},
        )
    except (BaseError, ValueError) as fault:
        raise RemoteFault(settings.url, "refused", f"it cannot be used: {_first_line(fault)}") from fault


def _caller(settings: Storage) -> Callable[[Sequence[str]], None]:
    """Deletes keys in one call, or raises what obstore raises."""
    store = _store(settings)
    import obstore

    return lambda keys: obstore.delete(store, list(keys))


def _ask(settings: Storage, call: Callable[[Sequence[str]], None], keys: Sequence[str]) -> _Answer | RemoteFault:
    from obstore.exceptions import BaseError

    started = time.monotonic()
    try:
        call(keys)
    except (BaseError, OSError, TypeError, ValueError) as fault:
        return _understood(settings, fault, keys, time.monotonic() - started)
    return _Answer(dict.fromkeys(keys, _DONE))


def _understood(settings: Storage, fault: Exception, keys: Sequence[str], seconds: float) -> _Answer | RemoteFault:
    said, _, source = str(fault).partition("\n\nDebug source:")
    if isinstance(fault, TypeError | ValueError):  # raised before anything was asked
        return _divided(keys, _first_line(fault))
    if own := said.partition(_OF_ONE_KEY)[2]:
        return _from_first_error(own, keys)
    asked = _ASKED.search(said)
    if asked and (asked[1].startswith("http://169.254.") or f"/{settings.bucket}" not in asked[1]):
        return RemoteFault(settings.url, "refused", NO_LOGIN)  # it was asking for one
    if whole := said.partition(_WHOLE_ANSWER)[2]:
        return _from_answer(settings, whole, keys)
    if found := _STATUS.search(said):
        return _by_status(settings, int(found[1]), said[found.end() :], keys)
    return _by_connection(settings, said.rpartition(" - ")[2], source, seconds)


def _from_first_error(own: str, keys: Sequence[str]) -> _Answer:
    """A call that found the error of one key, told as ``KEY: MESSAGE (code: CODE)``."""
    fitting = [place for place, key in enumerate(keys) if own.startswith(f"{key}: ")]
    if len(fitting) != 1:  # colons in keys
        return _divided(keys, own)
    place = fitting[0]
    failed = Verdict("failed", own[len(keys[place]) + 2 :])
    return _Answer(dict.fromkeys(keys[:place], _DONE) | {keys[place]: failed}, _halves(keys[place + 1 :]))


def _from_answer(settings: Storage, whole: str, keys: Sequence[str]) -> _Answer | RemoteFault:
    """The service's own answer, with all that it says of each key."""
    try:
        answer = Xml.fromstring(whole)
    except Xml.ParseError:
        return RemoteFault(settings.url, "broken", "its answer cannot be understood")
    told: dict[str, Verdict] = {}
    wanted = set(keys)
    for element in answer:
        of = {part.tag.rpartition("}")[2]: part.text or "" for part in element}
        kind = element.tag.rpartition("}")[2]
        if of.get("Key") in wanted and kind in ("Deleted", "Error"):
            why = f"{of.get('Message', '')} (code: {of.get('Code', '')})"
            told[of["Key"]] = _DONE if kind == "Deleted" else Verdict("failed", why)
    left = [key for key in keys if key not in told]
    if not told and (len(keys) == 1 or not answer.tag.endswith("DeleteResult")):
        code, message = _CODE.search(whole), _MESSAGE.search(whole)
        why = f"{message[1] if message else 'its answer tells of no key'} (code: {code[1] if code else ''})"
        return RemoteFault(settings.url, "broken", why)
    return _Answer(told, _halves(left))


def _divided(keys: Sequence[str], why: str) -> _Answer:
    """An error that may be any key's is that of a key that was asked alone."""
    if len(keys) == 1:
        return _Answer({keys[0]: Verdict("failed", why)})
    return _Answer({}, _halves(keys))


def _halves(keys: Sequence[str]) -> list[Sequence[str]]:
    middle = (len(keys) + 1) // 2
    return [half for half in (keys[:middle], keys[middle:]) if half]


def _by_status(settings: Storage, status: int, body: str, keys: Sequence[str]) -> _Answer | RemoteFault:
    code, message = _CODE.search(body), _MESSAGE.search(body)
    name = code[1] if code else ""
    why = f"HTTP {status}" + (f": {message[1]}" if message else "") + (f" (code: {name})" if name else "")
    alone = settings.scheme != "s3"  # each call is about one key
    if alone and status == 404 and name in ("NoSuchKey", "BlobNotFound"):  # a missing bucket is a 404, too
        return _Answer({keys[0]: Verdict("already", "not there any more")})
    if (status >= 500 and status != 501) or status in (408, 429):
        return RemoteFault(settings.url, "broken", why)
    if name in _BY_A_KEY or (alone and status not in (401, 404, 501) and name not in _BY_THE_LOGIN):
        return _divided(keys, why)
    return RemoteFault(settings.url, "refused", why)


def _by_connection(settings: Storage, said: str, source: str, seconds: float) -> RemoteFault:
    found, reason = _KIND.search(source), _REASON.search(source)
    kind = found[1] if found else ""
    if kind == "Connect" or (kind == "Timeout" and seconds < settings.call_limit * 0.99):
        told = f": {reason[1] or reason[2]}" if reason else ""
        return RemoteFault(settings.url, "unreachable", f"no connection{told}")
    if kind == "Timeout":
        return RemoteFault(settings.url, "silent", f"no answer for {settings.response_timeout:g} s")
    if "BareRedirect" in source:
        return RemoteFault(settings.url, "refused", "it lies elsewhere: is the region right?")
    return RemoteFault(settings.url, "broken", _first_line(said))


def _first_line(fault: Exception | str) -> str:
    lines = str(fault).strip().splitlines()
    return lines[0][:300] if lines else type(fault).__name__
