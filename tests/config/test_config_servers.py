"""The servers of a config: their order, and what their own entries override."""

from __future__ import annotations

from pathlib import Path

import pytest

from cftools.config.load import load
from cftools.config.servers import ServerSettings, servers
from cftools.model.errors import ConfigFaults

TEXT = """\
node: n
inputs: {hitcount_history: h, grade_info: g}
ssh: {user: vod, port: 22, identity: key, connect_timeout: 5s}
sources:
  - {name: src1, address: origin.example, roots: [/data2, /data3/], user: other, port: 2222, identity: own/key}
destinations:
  - {name: late, address: 10.0.0.10, root: /data, connect_timeout: 9s, known_hosts: ~/other}
  - {name: early, address: 10.0.0.9, root: /data, capacity: 2TB, user: '', sessions: 3}
servers:
  - {name: img1, address: 10.0.0.1}
"""


def of(tmp_path: Path, text: str = TEXT) -> dict[str, ServerSettings]:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return {server.name: server for server in servers(load(path))}


def test_sources_come_first_then_destinations_by_number_then_others(tmp_path: Path) -> None:
    found = of(tmp_path)
    assert list(found) == ["src1", "early", "late", "img1"]
    assert [server.role for server in found.values()] == ["source", "destination", "destination", "server"]


def test_an_entry_overrides_the_ssh_section_key_by_key(tmp_path: Path) -> None:
    found = of(tmp_path)
    source, early, late = found["src1"], found["early"], found["late"]
    assert (source.user, source.port, source.identity) == ("other", 2222, str(tmp_path / "own/key"))
    assert (early.user, early.port, early.identity) == ("", 22, str(tmp_path / "key"))
    assert (late.user, late.connect_timeout, late.known_hosts) == ("vod", 9.0, str(Path.home() / "other"))
    assert (source.connect_timeout, source.response_timeout) == (5.0, 60.0)
    assert (source.sessions, early.sessions, found["img1"].sessions) == (8, 3, 8)


@pytest.mark.parametrize("word", ["password", "passphrase", "passwd"])
def test_there_is_no_place_for_a_password(tmp_path: Path, word: str) -> None:
    places = [
        ("ssh: {user: vod,", "ssh: {user: vod, {}: secret,"),
        ("root: /data, capacity", "root: /data, {}: x, capacity"),
    ]
    for plain, with_password in places:
        with pytest.raises(ConfigFaults, match=rf"\.{word}: is no known key"):
            of(tmp_path, TEXT.replace(plain, with_password.replace("{}", word)))
    with pytest.raises(ConfigFaults, match="is no login name"):
        of(tmp_path, TEXT.replace("user: vod", "user: 'vod:secret'"))


@pytest.mark.parametrize("sessions", [0, 1, 1001])
def test_a_server_has_at_least_two_sessions_one_that_lasts_and_one_for_calls(tmp_path: Path, sessions: int) -> None:
    with pytest.raises(ConfigFaults, match="sessions"):
        of(tmp_path, TEXT.replace("sessions: 3", f"sessions: {sessions}"))


def test_roots_and_capacity_follow_the_role(tmp_path: Path) -> None:
    found = of(tmp_path)
    assert [server.roots for server in found.values()] == [("/data2", "/data3"), ("/data",), ("/data",), ()]
    assert [server.capacity for server in found.values()] == [None, 2e12, None, None]


def test_a_host_that_only_a_target_names_is_reached_by_that_name(tmp_path: Path) -> None:
    text = TEXT.replace("servers:\n  - {name: img1, address: 10.0.0.1}\n", "")
    found = of(tmp_path, text + "bulk_delete: {targets: {images: {servers: [img9, early], root: /images}}}\n")
    assert list(found) == ["src1", "early", "late", "img9"]
    assert (found["img9"].role, found["img9"].address, found["img9"].user) == ("server", "img9", "vod")
