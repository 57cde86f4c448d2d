"""The fleet: servers worked on side by side, each over one connection, faults as values."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cftools.config.servers import ServerSettings
from cftools.lab.inprocess import InProcessServers
from cftools.lab.keys import Keys
from cftools.lab.servers import own_name
from cftools.lab.sshd import SshdServers
from cftools.remote.local import LocalTransport
from cftools.remote.pool import Fleet, ssh_fleet
from cftools.remote.transport import RemoteFault, Script, Transport

NAMES = ["s4", "s2", "s3", "s1"]


def local_fleet(parallel: int = 8) -> Fleet:
    settings = [ServerSettings(name, "destination", "10.0.0.1") for name in NAMES]
    return Fleet(settings, lambda one: LocalTransport(one.name), parallel)


def say_own_name(transport: Transport) -> bytes:
    return transport.call(Script("test", 'echo "$1"', (transport.server.encode(),))).out


class Counter:
    """How many threads are inside at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._turn = threading.Lock()

    def work(self, transport: Transport) -> str:
        """Stays inside for a moment."""
        with self._turn:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.1)
        with self._turn:
            self.now -= 1
        return transport.server


def test_answers_come_in_the_order_that_was_asked_for() -> None:
    with local_fleet() as fleet:
        wanted = ["s3", "s1", "s3", "s2"]
        assert list(fleet.each(wanted, say_own_name).items()) == [("s3", b"s3\n"), ("s1", b"s1\n"), ("s2", b"s2\n")]
        assert fleet.each([], say_own_name) == {}


@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_no_more_servers_than_allowed_are_worked_on_at_once(parallel: int) -> None:
    counter = Counter()
    with local_fleet(parallel) as fleet:
        assert list(fleet.each(NAMES, counter.work).values()) == NAMES
    assert counter.most == min(parallel, len(NAMES))


def test_a_fault_of_one_server_is_its_value_and_the_others_answer() -> None:
    fault = RemoteFault("s2", "broken", "cut")

    def work(transport: Transport) -> str:
        if transport.server == "s2":
            raise fault
        return transport.server

    with local_fleet() as fleet:
        assert fleet.each(["s1", "s2"], work) == {"s1": "s1", "s2": fault}
        assert fleet.each(["s2"], work) == {"s2": fault}


def test_a_bug_in_the_work_is_not_hidden() -> None:
    def work(transport: Transport) -> str:
        raise ZeroDivisionError(transport.server)

    with local_fleet() as fleet, pytest.raises(ZeroDivisionError):
        fleet.each(NAMES, work)


def test_a_server_that_is_not_configured_is_a_key_error() -> None:
    with local_fleet() as fleet, pytest.raises(KeyError, match="nowhere"):
        fleet.transport("nowhere")


def test_a_server_has_one_transport_made_when_it_is_first_needed() -> None:
    made: list[str] = []

    def connect(settings: ServerSettings) -> Transport:
        made.append(settings.name)
        return LocalTransport(settings.name)

    with Fleet([ServerSettings(name, "source", "10.0.0.1") for name in NAMES], connect, 8) as fleet:
        assert made == []
        fleet.each(["s1", "s2"], say_own_name)
        fleet.each(["s1", "s2"], say_own_name)
        assert sorted(made) == ["s1", "s2"]
        assert fleet.transport("s1") is fleet.transport("s1")


@pytest.fixture
def site(keys: Keys, new_address: Callable[[], str]) -> Iterator[tuple[InProcessServers, list[ServerSettings]]]:
    """Three servers that run, with their settings."""
    with InProcessServers(keys) as servers:
        yield (
            servers,
            [
                ServerSettings(
                    name,
                    "destination",
                    address,
                    user="vod",
                    port=servers.start(address, name=name),
                    identity=str(keys.identity),
                    known_hosts=str(keys.known_hosts),
                )
                for name, address in [(name, new_address()) for name in ("s1", "s2", "s3")]
            ],
        )


def test_servers_are_worked_on_side_by_side_over_ssh_and_a_dead_one_is_a_fault(
    site: tuple[InProcessServers, list[ServerSettings]],
) -> None:
    servers, settings = site
    servers.stop("s2")
    began = time.monotonic()
    with ssh_fleet(settings, 8) as fleet:
        found = fleet.each(["s1", "s2", "s3"], lambda one: one.call(Script("test", "sleep 0.6; echo yes")).out)
    assert time.monotonic() - began < 1.15, "one after the other takes longer"
    assert [found["s1"], found["s3"]] == [b"yes\n", b"yes\n"]
    dead = found["s2"]
    assert isinstance(dead, RemoteFault)
    assert str(dead) == "s2: unreachable: Connection refused"


class Stop(Exception):
    """What a signal raises in the main thread here."""


def stopped_after(seconds: float, fleet: Fleet, work: Callable[[Transport], object]) -> float:
    """How long ``work`` with all servers takes to end when a signal arrives after so many seconds."""

    def handle(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        with pytest.raises(Stop), fleet:
            fleet.each(list(fleet.servers), work)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return time.monotonic() - began - seconds


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_signal_does_not_wait_for_scripts_that_hang_nor_are_they_sent_again(
    site: tuple[InProcessServers, list[ServerSettings]], tmp_path: Path, repeatable: bool
) -> None:
    def hang(transport: Transport) -> object:
        runs = str(tmp_path / transport.server).encode()
        return transport.call(Script("test", 'echo ran >>"$1"; sleep 60', (runs,)), repeatable=repeatable)

    assert stopped_after(1.0, ssh_fleet(site[1], 8), hang) < 2.0
    assert [(tmp_path / name).read_text() for name in ("s1", "s2", "s3")] == ["ran\n"] * 3


@pytest.mark.system
def test_a_signal_does_not_wait_for_servers_that_stand_still(
    keys: Keys, new_address: Callable[[], str], tmp_path: Path
) -> None:
    settings = []
    with SshdServers(keys, tmp_path / "sshd") as servers:
        for name in ("s1", "s2", "s3"):
            address = new_address()
            port = servers.start(address, name=name)
            settings.append(server_settings(name, address, port, keys))
        fleet = ssh_fleet(settings, 8)
        fleet.each(["s1", "s2"], say_own_name)  # the third is still to be logged in to
        for name in ("s1", "s2", "s3"):
            servers.pause(name)
        assert stopped_after(0.5, fleet, say_own_name) < 2.0


@pytest.mark.parametrize("how", ["says nothing", "takes no connection"])
def test_a_signal_does_not_wait_for_servers_that_cannot_be_logged_in_to(
    keys: Keys, new_address: Callable[[], str], how: str
) -> None:
    with ExitStack() as stack:
        settings = []
        for number in range(12):
            address = new_address()
            listener = stack.enter_context(socket.create_server((address, 0), backlog=0))
            if how == "takes no connection":  # its queue is full: what comes now gets no answer at all
                for _ in range(2):
                    plug = stack.enter_context(socket.socket())
                    plug.setblocking(False)
                    plug.connect_ex(listener.getsockname())
            settings.append(server_settings(f"s{number}", address, listener.getsockname()[1], keys))
        assert stopped_after(0.5, ssh_fleet(settings, 8), say_own_name) < 2.0


def server_settings(name: str, address: str, port: int, keys: Keys) -> ServerSettings:
    return ServerSettings(
        name,
        "destination",
        address,
        user=own_name(),
        port=port,
        identity=str(keys.identity),
        known_hosts=str(keys.known_hosts),
        connect_timeout=30.0,
    )


@pytest.mark.system
def test_all_work_with_a_server_shares_one_connection_until_the_fleet_closes(
    keys: Keys, new_address: Callable[[], str], tmp_path: Path
) -> None:
    address = new_address()
    with SshdServers(keys, tmp_path / "sshd") as servers, ExitStack() as stack:
        settings = ServerSettings(
            "s1",
            "source",
            address,
            user=own_name(),
            port=servers.start(address),
            identity=str(keys.identity),
            known_hosts=str(keys.known_hosts),
        )
        fleet = stack.enter_context(ssh_fleet([settings], 8))
        seen: list[bytes] = []  # client address and port, server address and port of each call's connection

        def look() -> None:
            seen.append(fleet.transport("s1").call(Script("test", "echo $SSH_CONNECTION")).out)

        threads = [threading.Thread(target=look) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fleet.each(["s1"], lambda _: look())
        assert len(seen) == 7
        assert len(set(seen)) == 1
        fleet.close()
        look()
        assert len(set(seen)) == 2
