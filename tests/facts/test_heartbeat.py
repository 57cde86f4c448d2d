"""The short check of a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_node import Wire, fake_program, raising

from cftools.config.servers import ServerSettings
from cftools.facts import heartbeat
from cftools.remote.transport import RemoteFault


def settings(*roots: Path) -> ServerSettings:
    return ServerSettings("src1", "source", "10.0.0.1", tuple(str(root) for root in roots))


def test_a_server_whose_roots_can_be_entered_is_alive(tmp_path: Path) -> None:
    found = heartbeat.check(Wire("src1"), settings(tmp_path), 5)
    assert (found.server, found.role, found.ok, found.error) == ("src1", "source", True, "")
    assert 0 <= found.milliseconds < 5000


def test_one_root_that_cannot_be_entered_makes_it_fail_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for lost in ("missing", "file"):
        found = heartbeat.check(Wire("src1"), settings(tmp_path, tmp_path / lost), 5)
        assert not found.ok
        assert found.error == f"{tmp_path / lost}: not a folder that can be entered"


def test_a_server_that_hangs_is_given_up_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(monkeypatch, tmp_path / "bin", "sh", "exec sleep 20")
    found = heartbeat.check(Wire("src1"), settings(tmp_path), 0.3)
    assert not found.ok
    assert 300 <= found.milliseconds < 5000


@pytest.mark.parametrize("kind", ["unreachable", "refused", "broken", "silent"])
def test_every_fault_of_the_way_is_a_failed_check_with_its_reason(tmp_path: Path, kind: str) -> None:
    wire = Wire("src1")
    wire.before = raising(RemoteFault("src1", kind, "what happened"), "heartbeat")  # type: ignore[arg-type]
    found = heartbeat.check(wire, settings(tmp_path), 5)
    assert (found.ok, found.error) == (False, "what happened")


def test_an_answer_that_is_not_the_expected_word_is_no_sign_of_life(tmp_path: Path) -> None:
    wire = Wire("src1")
    for out, status in ((b"", 0), (b"aliv", 0), (b"alive\n", 1), (b"This account is locked\n", 0)):
        wire.after = lambda _, reply, out=out, status=status: reply._replace(out=out, status=status)  # type: ignore[misc]
        assert not heartbeat.check(wire, settings(tmp_path), 5).ok, (out, status)
