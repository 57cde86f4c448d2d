"""Deleting from object storage, a real one: exactly what was asked, and each key's own error."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import obstore
import pytest
from obstore.exceptions import PermissionDeniedError
from swift_server import PASSWORD, READER, SwiftServer
from tcp_gate import TcpGate

from cftools.actions import objects
from cftools.actions.objects import Storage, check, remove
from cftools.actions.unlink import Verdict
from cftools.config.schema import BulkDeleteTarget, Ssh
from cftools.model.errors import UsageFault
from cftools.remote.transport import RemoteFault

pytestmark = pytest.mark.xdist_group("swift")
DONE = Verdict("done")
UNAVAILABLE = "Please reduce your request rate. (code: ServiceUnavailable)"
ODD = [
    *("two words.jpg", " ends and begins ", "a+b", "100%", "a%20b", "a%2Fb", "q?x=1&y", "h#1", "드라마/여름.jpg", "~t"),
    *("q'uo\"te", "dot.", "dots..", "...", "a..b", "<x>&amp;", "é", "e\u0301", "*?[a]", "back\\slash", ":;@=,$!()"),
    *(".hidden", "a/.hidden", "-rf", "\u200b", "\ufffd", "\U0001f600", "{}|^`", "\x85", "x" * 300, "SlowDown"),
    *("a/InternalError: 1", "a: b", "a", "%", "%s", "Deleted", "\uf780"),
]


@pytest.fixture
def storage(swift: SwiftServer) -> Storage:
    """A prefix of an empty bucket."""
    return Storage(f"s3://{swift.fresh_bucket()}/pre fix/%41", swift.endpoint, "", 2, 20)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys of each call from now on."""
    calls: list[list[str]] = []
    real = obstore.delete

    def delete(store: object, paths: list[str]) -> None:
        calls.append(paths)
        real(store, paths)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "delete", delete)
    return calls


def text(key: str) -> str:
    """A key as rows have it: a real U+F780 is three bytes that are marked."""
    return key.replace("\uf780", "\uf7ef\uf79e\uf780")


def test_keys_reach_the_storage_exactly_as_they_are(swift: SwiftServer, storage: Storage) -> None:
    neighbours = ["two%20words.jpg", "ends and begins", "a b", "100%25", "a b", "a/b", "q", "h", "dot", "A", "aa", "b"]
    swift.fill(storage.bucket, [storage.prefix + name for name in [*ODD, *neighbours]])
    swift.fill(storage.bucket, ["pre fix/A/two words.jpg", "two words.jpg"])
    assert remove(storage, list(map(text, ODD))) == [DONE] * len(ODD)
    left = {storage.prefix + name for name in neighbours} | {"pre fix/A/two words.jpg", "two words.jpg"}
    assert set(swift.keys(storage.bucket)) == left
    assert remove(storage, ODD[:5]) == [DONE] * 5  # they are not there any more


def test_each_key_has_its_own_error_and_holds_no_other_back(swift: SwiftServer, storage: Storage) -> None:
    names = [f"{number:03}" for number in range(40)]
    swift.fill(storage.bucket, [storage.prefix + name for name in names])
    faults = {"000": 503, "017": 403, "018": 503, "039": 403}
    swift.fail({f"{storage.bucket}/{storage.prefix}{name}": status for name, status in faults.items()})
    verdicts = dict(zip(names, remove(storage, names), strict=True))
    failed = {name: one.detail for name, one in verdicts.items() if one != DONE}
    assert sorted(failed) == sorted(faults)
    assert failed["000"] == failed["018"] == UNAVAILABLE
    assert failed["017"] == failed["039"] == "Access Denied. (code: AccessDenied)"
    assert swift.keys(storage.bucket) == [storage.prefix + name for name in sorted(faults)]
    swift.fail({})
    assert remove(storage, names) == [DONE] * len(names)
    assert swift.keys(storage.bucket) == []


def test_when_every_key_fails_there_are_no_more_calls_than_two_a_key(
    swift: SwiftServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:03}" for number in range(40)]
    swift.fill(storage.bucket, [storage.prefix + name for name in names])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)  # who may log in, and delete nothing
    calls = asked(monkeypatch)
    assert {one.state for one in remove(storage, names)} == {"failed"}
    assert len(calls) <= 2 * len(names)
    assert len(swift.keys(storage.bucket)) == len(names)


def test_names_with_colons_do_not_hide_whose_error_it_is(swift: SwiftServer, storage: Storage) -> None:
    names = ["a", "a: b", "a: b: c", "c"]
    swift.fill(storage.bucket, [storage.prefix + name for name in names])
    swift.fail({f"{storage.bucket}/{storage.prefix}a: b": 503})
    assert [one.state for one in remove(storage, names)] == ["done", "failed", "done", "done"]
    assert swift.keys(storage.bucket) == [storage.prefix + "a: b"]


def test_a_name_that_can_be_no_key_fails_alone(swift: SwiftServer, storage: Storage) -> None:
    bad = ["\uf7ff", "nul\0", "tab\t", "del\x7f", "end\uffff", "/a", "a//b", "a/", "./a", "a/../b", "", "x" * 1100]
    swift.fill(storage.bucket, [storage.prefix + name for name in ("good", "a", "b", "a/b", "other")])
    verdicts = remove(storage, ["good", *bad, "good"])
    assert [one.state for one in verdicts] == ["done", *["failed"] * len(bad), "done"]
    assert all(one.detail.startswith("no key: ") for one in verdicts[1:-1])
    assert verdicts[1].detail == "no key: it is not UTF-8"
    assert set(swift.keys(storage.bucket)) == {storage.prefix + name for name in ("a", "b", "a/b", "other")}


def test_a_call_has_at_most_a_thousand_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(obstore, "delete", lambda _, paths: calls.append(paths))
    names = [str(number) for number in range(2500)]
    assert remove(Storage("s3://bucket"), [*names, *names]) == [DONE] * 5000
    assert sorted(map(len, calls)) == [500, 1000, 1000]
    assert sorted(key for call in calls for key in call) == sorted(names)


def test_without_a_prefix_the_bucket_itself_is_meant(swift: SwiftServer) -> None:
    bucket = swift.fresh_bucket()
    swift.fill(bucket, ["a", "b"])
    for url in (f"s3://{bucket}", f"s3://{bucket}/"):
        assert remove(Storage(url, swift.endpoint), ["a"]) == [DONE]
    assert swift.keys(bucket) == ["b"]


def test_limits_and_places_come_from_the_config() -> None:
    target = BulkDeleteTarget(url="s3://b/p", endpoint="http://h", region="r")
    storage = Storage.from_target(target, Ssh(connect_timeout=3, response_timeout=7))
    assert storage == Storage("s3://b/p", "http://h", "r", 3, 7)
    assert (storage.scheme, storage.bucket, storage.prefix, storage.call_limit) == ("s3", "b", "p/", 10)


def kind_of(storage: Storage, names: Sequence[str] = ("a", "b")) -> tuple[str, str]:
    with pytest.raises(RemoteFault) as fault:
        remove(storage, names)
    assert fault.value.server == storage.url
    assert PASSWORD not in str(fault.value)
    return fault.value.kind, fault.value.detail


def test_a_service_that_cannot_be_asked_is_told_apart_from_keys_that_fail(
    swift: SwiftServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, detail = kind_of(storage._replace(url="s3://no-such-bucket/p"))
    assert (kind, "NoSuchBucket" in detail) == ("refused", True)
    assert kind_of(storage._replace(endpoint="http://127.0.0.1:9"))[0] == "unreachable"
    assert kind_of(storage._replace(endpoint="http://no.such.host.invalid"))[0] == "unreachable"
    assert kind_of(storage._replace(endpoint=swift.endpoint.replace("http:", "https:")))[0] == "unreachable"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-s3cret")
    kind, detail = kind_of(storage)
    assert (kind, "SignatureDoesNotMatch" in detail) == ("refused", True)
    assert "wrong-s3cret" not in detail
    assert swift.environment["AWS_ACCESS_KEY_ID"] not in detail


def test_without_a_login_the_message_says_where_to_put_one(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as endpoint:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", endpoint)  # else the machine itself may have a login
        kind, detail = kind_of(storage)
    assert (kind, "AWS_ACCESS_KEY_ID" in detail) == ("refused", True)


@contextmanager
def answering(answer: bytes, *, hang: bool = False) -> Iterator[str]:
    """A service that gives this answer to everything; with ``hang`` it stays on the line."""
    held: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                held.append(connection)
                connection.recv(1 << 16)
                connection.sendall(answer)
                if not hang:
                    connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in held:
        connection.close()


def reply(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


ERROR = "<Error><Code>{}</Code><Message>words</Message></Error>"


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (reply("503 Slow"), "broken", "HTTP 503"),
        (reply("500 Oh", ERROR.format("InternalError")), "broken", "HTTP 500: words (code: InternalError)"),
        (reply("200 OK", ERROR.format("InternalError")), "broken", "words (code: InternalError)"),
        (reply("200 OK", "<html>"), "broken", "invalid DeleteObjects response"),
        (reply("200 OK"), "broken", "invalid DeleteObjects response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n<DeleteResult>", "broken", "body"),
        (b"", "broken", "error sending request"),
        (reply("403 No", ERROR.format("AccessDenied")), "refused", "HTTP 403: words (code: AccessDenied)"),
        (reply("400 No", ERROR.format("ExpiredToken")), "refused", "ExpiredToken"),
        (reply("404 No"), "refused", "HTTP 404"),
        (reply("501 No"), "refused", "HTTP 501"),
        (reply("301 Moved"), "refused", "region"),
    ],
)
def test_an_answer_that_is_none_says_whether_anything_may_have_been_done(
    storage: Storage, answer: bytes, kind: str, detail: str
) -> None:
    with answering(answer) as endpoint:
        told = kind_of(storage._replace(endpoint=endpoint))
    assert told[0] == kind
    assert detail in told[1]


def test_a_service_that_does_not_answer_in_time_is_silent_not_unreachable(storage: Storage) -> None:
    quick = storage._replace(connect_timeout=0.3, response_timeout=0.3)
    with answering(b"", hang=True) as endpoint:
        assert kind_of(quick._replace(endpoint=endpoint)) == ("silent", "no answer for 0.3 s")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(3)]  # they fill its queue
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        assert kind_of(quick._replace(endpoint=f"http://127.0.0.1:{full.getsockname()[1]}"))[0] == "unreachable"
        for one in waiting:
            one.close()


def test_an_answer_that_is_reset_leaves_open_what_was_done(swift: SwiftServer, storage: Storage) -> None:
    swift.fill(storage.bucket, [f"{storage.prefix}a"])
    with TcpGate("127.0.0.1", ("127.0.0.1", swift.port)) as gate:
        gate.cut("down", 40, connections=9)
        assert kind_of(storage._replace(endpoint=f"http://127.0.0.1:{gate.port}"))[0] == "broken"
    assert swift.keys(storage.bucket) == []


def test_a_service_that_fails_half_way_leaves_open_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two calls is answered: what the other found must not read as if nothing had been done."""

    def delete(_: object, paths: list[str]) -> None:
        if paths == ["2000"]:
            raise PermissionDeniedError("Server returned non-2xx status code: 403 Forbidden: ")

    monkeypatch.setattr(obstore, "delete", delete)
    with pytest.raises(RemoteFault, match="HTTP 403") as fault:
        remove(Storage("s3://bucket"), [f"{number:04}" for number in range(1000, 2001)])
    assert fault.value.kind == "broken"


def test_checking_tells_a_service_that_is_well_from_one_that_is_not(
    swift: SwiftServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(storage)
    assert swift.keys(storage.bucket) == []
    check(storage._replace(url="s3://no-such-bucket"))
    with pytest.raises(RemoteFault, match="no connection"):
        check(storage._replace(endpoint="http://127.0.0.1:9"))
    with answering(reply("503 Slow")) as endpoint, pytest.raises(RemoteFault, match="503"):
        check(storage._replace(endpoint=endpoint))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
    check(storage)


def raising(fault: Callable[[str], Exception]) -> Callable[[object, list[str]], None]:
    def delete(_: object, paths: list[str]) -> None:
        (path,) = paths
        if not path.endswith("good"):
            raise fault(path)

    return delete


def told(path: str, status: str, code: str) -> str:
    at = f"https://host/bucket/{path} in 1ms"
    return f"Error performing DELETE {at} - Server returned non-2xx status code: {status}: {ERROR.format(code)}"


@pytest.mark.parametrize("url", ["gs://bucket", "az://bucket"])
def test_services_without_calls_for_many_keys_are_asked_key_by_key(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(objects, "_store", lambda _: None)
    answers = {
        "good": ("", ""),
        "gone": ("404 Not Found", "NoSuchKey" if url.startswith("gs") else "BlobNotFound"),
        "held": ("403 Forbidden", "RetentionPolicyNotMet"),
    }
    monkeypatch.setattr(obstore, "delete", raising(lambda path: FileNotFoundError(told(path, *answers[path]))))
    verdicts = remove(Storage(url), ["held", "good", "gone"])
    assert [one.state for one in verdicts] == ["failed", "done", "already"]
    assert "RetentionPolicyNotMet" in verdicts[0].detail
    for status, code in [("404 Not Found", "NoSuchBucket"), ("403 Forbidden", "AuthenticationFailed"), ("401 No", "")]:
        fault = FileNotFoundError(told("a", status, code))
        monkeypatch.setattr(obstore, "delete", raising(lambda _, fault=fault: fault))  # type: ignore[misc]
        with pytest.raises(RemoteFault) as raised:
            remove(Storage(url), ["a"])
        assert raised.value.kind == "refused"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("obstore", "obstore.store", "obstore.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageFault, match=r"pip install 'cftools\[objects\]'"):
        remove(Storage("s3://bucket"), ["a"])
