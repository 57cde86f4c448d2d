"""Bulk deletion from object storage, end to end: a real S3-speaking service, the real command line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_site import LocalSite
from site_of_sshd import Row, end, kinds
from swift_server import HOST, PASSWORD, USER, SwiftServer
from tcp_gate import TcpGate

pytestmark = pytest.mark.xdist_group("swift")


class Bucket(LocalSite):
    """A site with the target `photos`, which is a prefix of an empty bucket."""

    def __init__(self, folder: Path, swift: SwiftServer) -> None:
        super().__init__(folder, destinations=1)
        self.swift, self.bucket = swift, swift.fresh_bucket()
        self.url = f"s3://{self.bucket}/photos"
        self.aim(swift.endpoint)

    def aim(self, endpoint: str, **limits: str) -> None:
        """Writes the config."""
        limits = {"connect_timeout": "2s", "response_timeout": "20s", **limits}
        photos = {"url": self.url, "endpoint": endpoint}
        keys = {"partition": 20, "attempts": 2, "retry_delay": "0.1s", "retry_delay_limit": "0.2s"}
        self.configure(ssh=limits, bulk_delete={"targets": {"photos": photos}, **keys})

    def give(self, *names: str) -> None:
        """Stores files."""
        self.swift.fill(self.bucket, [f"photos/{name}" for name in names])

    def left(self) -> list[str]:
        """The files that are there."""
        return [key.removeprefix("photos/") for key in self.swift.keys(self.bucket)]

    def submit(self, *names: str) -> None:
        """Sends a request."""
        text = "".join(f"{name}\n" for name in names).encode()
        self.run("bulk-delete", "submit", "-", "--request", "k", "--target", "photos", stdin=text)

    def drain(self, *words: str, expect: int = 0) -> list[Row]:
        """Drains; the rows."""
        return self.run("bulk-delete", "drain", *words, expect=expect)

    def state(self, statement: str) -> list[Any]:
        """Asks the state."""
        with closing(sqlite3.connect(self.folder / "state" / "state.db")) as database:
            return database.execute(statement).fetchall()


@pytest.fixture
def bucket(tmp_path: Path, swift: SwiftServer) -> Iterator[Bucket]:
    """No message, row or file of the state ever holds the password."""
    made = Bucket(tmp_path, swift)
    yield made
    assert PASSWORD not in made.talk + made.output.decode()
    for path in (tmp_path / "state").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


def test_what_was_asked_for_is_deleted_and_nothing_else(bucket: Bucket) -> None:
    names = [f"album/{number} 드.jpg" for number in range(45)]
    bucket.give(*names, "album/kept.jpg", "kept.jpg")
    bucket.submit(*names)
    rows = bucket.drain()
    assert sorted(row["resources"] for row in kinds(rows, "partition")) == [5, 20, 20]
    assert {row["server"] for row in kinds(rows, "partition")} == {bucket.url}
    assert end(rows)["counts"] == {"partition": 3, "done": 45, "already": 0, "failed": 0}
    assert bucket.left() == ["album/kept.jpg", "kept.jpg"]
    assert bucket.state("SELECT state, count(*) FROM journal GROUP BY 1") == [("done", 45)]
    (status,) = kinds(bucket.run("bulk-delete", "status", "k"), "request_status")
    assert (status["state"], status["done"]) == ("done", 45)


def test_a_key_that_cannot_be_deleted_is_named_with_its_own_error_and_tried_again(bucket: Bucket) -> None:
    names = [f"{number:02}.jpg" for number in range(15)]
    bucket.give(*names)
    bucket.submit(*names)
    bucket.swift.fail({f"{bucket.bucket}/photos/07.jpg": 403})
    rows = bucket.drain(expect=1)
    (failed,) = kinds(rows, "outcome")
    assert (failed["name"], failed["state"]) == ("07.jpg", "failed")
    assert "AccessDenied" in failed["detail"]
    assert end(rows)["counts"]["done"] == 14
    assert bucket.left() == ["07.jpg"]
    bucket.drain("--for", "1s", expect=1)
    (dead,) = kinds(bucket.run("bulk-delete", "dead", "k"), "dead_letter")
    assert (dead["resource"], dead["attempts"], dead["server"]) == ("07.jpg", 2, bucket.url)
    assert "AccessDenied" in dead["error"]
    bucket.swift.fail({})
    bucket.run("bulk-delete", "retry", "k")
    bucket.drain()
    assert bucket.left() == []


def test_a_service_that_cannot_be_reached_costs_no_attempts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.give("a", "b")
    bucket.submit("a", "b")
    bucket.aim("http://127.0.0.1:9")
    rows = bucket.drain(expect=1)
    assert [row["waiting"] for row in kinds(rows, "partition")] == [2]
    assert "no connection: Connection refused" in bucket.talk
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    bucket.aim(bucket.swift.endpoint)
    bucket.drain("--for", "3s", expect=1)
    assert "SignatureDoesNotMatch" in bucket.talk
    assert USER not in bucket.talk
    assert bucket.state("SELECT sum(attempts) FROM bulk_work") == [(0,)]
    assert bucket.left() == ["a", "b"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    assert end(bucket.drain("--for", "3s"))["counts"]["done"] == 2
    assert bucket.left() == []


def test_a_service_that_falls_silent_costs_no_attempts(bucket: Bucket) -> None:
    bucket.give("a", "b")
    bucket.submit("a", "b")
    with TcpGate(HOST, (HOST, bucket.swift.port)) as gate:
        bucket.aim(f"http://{HOST}:{gate.port}", connect_timeout="0.5s", response_timeout="0.5s")
        gate.swallow()
        rows = bucket.drain(expect=1)
        assert end(rows)["counts"]["done"] == 0
        assert bucket.state("SELECT sum(attempts) FROM bulk_work") == [(0,)]
        gate.pass_on()
    assert bucket.left() in ([], ["a", "b"])  # what was on its way may have arrived


def test_an_answer_that_is_lost_is_asked_for_again(bucket: Bucket) -> None:
    names = [f"{number}" for number in range(10)]
    bucket.give(*names)
    bucket.submit(*names)
    with TcpGate(HOST, (HOST, bucket.swift.port)) as gate:
        bucket.aim(f"http://{HOST}:{gate.port}")
        gate.cut("down", 40, connections=3)  # as often as one call is tried
        assert end(bucket.drain("--for", "3s", expect=1))["counts"]["done"] == 10
        assert gate.connections > 3
    assert "HTTP error" in bucket.talk
    assert bucket.state("SELECT count(*) FROM bulk_dead") == [(0,)]
    assert bucket.left() == []
    assert bucket.state("SELECT state FROM bulk_request") == [("done",)]
