"""Scripts side by side on one server: how many, who waits for whom, and that nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from odd_server import OddServer
from ssh_place import HELLO, SOON, Place, fault_of

from cftools.config.servers import ServerSettings
from cftools.lab.keys import Keys
from cftools.lab.sshd import Shape, SshdServers
from cftools.remote.sessions import Places
from cftools.remote.ssh import SshTransport
from cftools.remote.transport import RemoteFault, Script

MAX_SESSIONS = 2
WHILE_THERE = Script("test", "read -r line; echo over")


class Enough(Exception):
    """What ends a wait here."""


def raise_enough() -> None:
    raise Enough


@pytest.fixture
def narrow(keys: Keys, new_address: Callable[[], str], tmp_path: Path) -> Iterator[Place]:
    """A real server whose MaxSessions is small."""
    address = new_address()
    with SshdServers(keys, tmp_path / "sshd") as servers, ExitStack() as stack:
        option = ("sh", "-c", f'exec "$@" -oMaxSessions={MAX_SESSIONS}', "sh")
        servers.shapes[address] = Shape(before=option)
        yield Place(servers, keys, address, stack)


@pytest.mark.system
@pytest.mark.parametrize("sessions", [MAX_SESSIONS, 8])
def test_more_threads_than_the_server_has_sessions_all_succeed_over_one_connection(
    narrow: Place, sessions: int
) -> None:
    transport = narrow.connect(gate=True, sessions=sessions)
    with ThreadPoolExecutor(9) as pool:
        script = Script("test", 'sleep 0.1; echo "$1"')
        calls = [pool.submit(transport.call, script._replace(arguments=(b"%d" % n,))) for n in range(9)]
        assert [call.result().out for call in calls] == [b"%d\n" % n for n in range(9)]
    assert narrow.gate.count == 1


@pytest.mark.system
def test_a_server_that_takes_no_more_sessions_is_told_and_those_under_way_go_on(narrow: Place) -> None:
    transport = narrow.connect(response_timeout=0.6)
    sessions = [transport.open(WHILE_THERE) for _ in range(MAX_SESSIONS)]
    fault = fault_of(transport)
    detail = "it takes no more sessions; is its MaxSessions below ssh.sessions?"
    assert (fault.kind, fault.detail, fault.nothing_was_done) == ("unreachable", detail, True)
    for session in sessions:
        session.write(b"\n")
        assert session.wait().out == b"over\n"
        session.close()
    assert transport.call(HELLO).out == b"hello\n"


@pytest.mark.parametrize("sessions", [2, 3])
def test_no_more_scripts_than_configured_run_at_once(place: Place, tmp_path: Path, sessions: int) -> None:
    transport = place.connect(sessions=sessions)
    (tmp_path / "runs").mkdir()
    text = 'cd "$1"; : >"$2"; ls | wc -l; sleep 0.15; rm "$2"'
    with ThreadPoolExecutor(8) as pool:
        words = [(str(tmp_path / "runs").encode(), b"%d" % n) for n in range(8)]
        counts = [int(reply.out) for reply in pool.map(lambda two: transport.call(Script("test", text, two)), words)]
    assert max(counts) <= sessions
    assert max(counts) > 1


def test_a_call_with_a_limit_of_its_own_does_not_wait_in_line(place: Place) -> None:
    transport = place.connect(sessions=2)
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(transport.call, Script("test", "echo begun; sleep 1.5")) for _ in range(2)]
        time.sleep(0.3)  # too short a time would let the test pass without testing, never fail
        began = time.monotonic()
        assert transport.call(HELLO, limit=5.0).out == b"hello\n"
        assert time.monotonic() - began < 1.0
        assert [call.result().out for call in busy] == [b"begun\n"] * 2


def test_lasting_sessions_leave_a_place_to_calls_and_wait_for_each_other(place: Place) -> None:
    transport = place.connect(sessions=2)
    first = transport.open(WHILE_THERE)
    assert transport.call(HELLO).out == b"hello\n"  # also from the thread that holds the session
    with pytest.raises(Enough):
        transport.open(WHILE_THERE, raise_enough)
    first.close()
    first.close()
    second = transport.open(WHILE_THERE, raise_enough)
    with pytest.raises(Enough):  # a session closed twice gave one place back, not two
        transport.open(WHILE_THERE, raise_enough)
    second.close()


def test_a_call_that_finds_no_place_is_given_up_in_time(place: Place) -> None:
    transport = place.connect(sessions=2, response_timeout=0.5)
    text = "for n in 1 2 3 4 5 6 7 8; do echo $n >&2; sleep 0.2; done"
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(transport.call, Script("test", text)) for _ in range(2)]
        time.sleep(0.2)
        fault = fault_of(transport)
        assert [call.result().status for call in busy] == [0, 0]
    assert (fault.kind, fault.nothing_was_done) == ("unreachable", True)
    assert fault.detail == "no session became free in 0.5 s (ssh.sessions)"


def test_closing_ends_those_who_wait_for_a_place(place: Place) -> None:
    transport = place.connect(sessions=2)
    session = transport.open(WHILE_THERE)
    faults: list[RemoteFault] = []

    def wait_in_line() -> None:
        try:
            transport.open(HELLO).close()
        except RemoteFault as fault:
            faults.append(fault)

    thread = threading.Thread(target=wait_in_line)
    thread.start()
    time.sleep(0.4)
    transport.close()
    thread.join(SOON)
    session.close()
    assert [(one.kind, one.nothing_was_done) for one in faults] == [("unreachable", True)]


@pytest.mark.parametrize("of_its_own", [True, False])
def test_a_request_that_is_never_answered_is_silent_in_time_and_takes_no_place_with_it(
    keys: Keys, new_address: Callable[[], str], of_its_own: bool
) -> None:
    with OddServer(keys, new_address()) as server:
        settings = ServerSettings(
            "here",
            "server",
            server.address,
            user="vod",
            port=server.port,
            identity=str(keys.identity),
            known_hosts=str(keys.known_hosts),
            response_timeout=60.0 if of_its_own else 0.4,
            sessions=2,
        )
        transport = SshTransport(settings)
        for count in range(1, 5):
            began = time.monotonic()
            fault = fault_of(transport, limit=0.4) if of_its_own else fault_of(transport)
            assert time.monotonic() - began < 3.0
            assert server.asked == count
            assert (fault.kind, fault.nothing_was_done) == ("silent", False)
            assert fault.detail.startswith("cannot start test: no answer in 0.")
        transport.close()


def test_places_are_given_back_whatever_happens_and_only_once() -> None:
    places = Places(2)
    first, second = (places.take(raise_enough, lasting=False) for _ in range(2))
    hurried = places.take_at_once()
    first.give_back()
    first.give_back()
    with pytest.raises(Enough):  # the one in a hurry made it one too many
        places.take(raise_enough, lasting=False)
    hurried.give_back()
    places.take(raise_enough, lasting=False)
    with pytest.raises(Enough):
        places.take(raise_enough, lasting=False)
    second.give_back()
    with pytest.raises(Enough):
        places.take(raise_enough, lasting=True)
    places.take(raise_enough, lasting=False)


def test_many_threads_pass_through_few_places() -> None:
    places = Places(2)
    inside: list[int] = []
    most = 0

    def work(number: int) -> None:
        nonlocal most
        place = places.take(lambda: None, lasting=number % 2 == 0)
        inside.append(number)
        most = max(most, len(inside))
        time.sleep(0.002)
        inside.remove(number)
        place.give_back()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(120)))
    assert most == 2
    assert not inside
