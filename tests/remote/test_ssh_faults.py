"""What can go wrong on the way to a server over SSH: each fault has its kind, one line, and an end in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from ssh_place import HELLO, SOON, Place, fault_of, lines

from cftools.config.servers import ServerSettings
from cftools.lab.keys import Keys
from cftools.lab.servers import free_port
from cftools.lab.sshd import SshdServers
from cftools.remote.ssh import SshTransport
from cftools.remote.transport import Script

ONCE_THEN = 'echo ran >>"$1"; [ "$(wc -l <"$1")" -gt "$2" ] || sleep 30; echo answer'


def when_run(path: Path, runs: int, do: Callable[[], object]) -> threading.Thread:
    """Does something as soon as the script has begun that many times."""

    def watch() -> None:
        deadline = time.monotonic() + SOON
        while lines(path) < runs and time.monotonic() < deadline:
            time.sleep(0.02)
        do()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def once_then(path: Path, hanging_runs: int = 1) -> Script:
    """A script that notes each run, hangs in the first ones and answers later."""
    return Script("test", ONCE_THEN, (str(path).encode(), str(hanging_runs).encode()))


def test_a_connection_that_breaks_under_a_script_is_broken_and_not_tried_again(place: Place, tmp_path: Path) -> None:
    transport = place.connect(gate=True)
    cutter = when_run(tmp_path / "runs", 1, place.gate.cut)
    fault = fault_of(transport, once_then(tmp_path / "runs"))
    cutter.join()
    assert (fault.kind, fault.nothing_was_done) == ("broken", False)
    assert lines(tmp_path / "runs") == 1
    assert transport.call(Script("test", "echo again")).out == b"again\n"


def test_a_repeatable_script_is_sent_once_more_over_a_new_connection(place: Place, tmp_path: Path) -> None:
    cutter = when_run(tmp_path / "runs", 1, place.gate.cut)
    reply = place.connect(gate=True).call(once_then(tmp_path / "runs"), repeatable=True)
    cutter.join()
    assert reply.out == b"answer\n"
    assert lines(tmp_path / "runs") == 2
    assert place.gate.count == 2


def test_a_repeatable_script_is_not_sent_a_third_time(place: Place, tmp_path: Path) -> None:
    cutters = [when_run(tmp_path / "runs", runs, place.gate.cut) for runs in (1, 2)]
    fault = fault_of(place.connect(gate=True), once_then(tmp_path / "runs", 9), repeatable=True)
    for cutter in cutters:
        cutter.join()
    assert fault.kind == "broken"
    assert lines(tmp_path / "runs") == 2


def test_a_server_that_dies_under_a_repeatable_script_may_have_done_it(place: Place, tmp_path: Path) -> None:
    # The second try finds no server, but that must not read as: nothing was done.
    killer = when_run(tmp_path / "runs", 1, lambda: place.servers.stop(place.address))
    fault = fault_of(place.connect(), once_then(tmp_path / "runs"), repeatable=True)
    killer.join()
    assert (fault.kind, fault.nothing_was_done) == ("broken", False)


def test_an_idle_connection_that_broke_is_replaced_unseen(place: Place) -> None:
    transport = place.connect(gate=True)
    transport.call(Script("test", "true"))
    place.gate.cut()
    time.sleep(0.5)  # until the transport has noticed
    assert transport.call(Script("test", "echo again")).out == b"again\n"
    assert place.gate.count == 2


@pytest.mark.parametrize("repeatable", [True, False])
def test_a_connection_that_breaks_between_two_calls_is_opened_again_for_repeatable_ones_only(
    place: Place, tmp_path: Path, repeatable: bool
) -> None:
    transport = place.connect(gate=True)
    transport.call(HELLO)
    place.gate.cut_at_the_next_word()
    again = Script("test", 'echo ran >>"$1"', (str(tmp_path / "runs").encode(),))
    if repeatable:
        assert transport.call(again, repeatable=True).status == 0
    else:
        assert fault_of(transport, again).kind == "broken"
    assert lines(tmp_path / "runs") == int(repeatable)
    assert place.gate.count == 1 + int(repeatable)


def test_calls_that_break_together_share_the_new_connection(place: Place, tmp_path: Path) -> None:
    transport = place.connect(gate=True)
    replies: list[bytes] = []

    def ask(number: int) -> None:
        replies.append(transport.call(once_then(tmp_path / str(number)), repeatable=True).out)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SOON
    while sum(lines(tmp_path / str(number)) for number in range(6)) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    place.gate.cut()
    for thread in threads:
        thread.join()
    assert replies == [b"answer\n"] * 6
    assert place.gate.count == 2


def test_calls_share_one_connection(place: Place) -> None:
    transport = place.connect(gate=True)
    threads = [threading.Thread(target=transport.call, args=(Script("test", "sleep 0.1"),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transport.call(Script("test", "true"))
    assert place.gate.count == 1


def test_a_closed_port_is_unreachable_and_not_asked_again_at_once(place: Place) -> None:
    transport = place.connect(port=free_port([place.address]))
    fault = fault_of(transport)
    assert str(fault) == "here: unreachable: Connection refused"
    assert fault.nothing_was_done
    gate_shut = place.connect(gate=True, known_hosts="/dev/null")
    assert fault_of(gate_shut).kind == fault_of(gate_shut).kind == "refused"
    assert place.gate.count == 1


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-half\r\n", b"SSH-2.0-"])
def test_what_takes_connections_but_is_no_ssh_server_is_given_up_in_time(
    new_address: Callable[[], str], keys: Keys, says: bytes
) -> None:
    address = new_address()
    with socket.create_server((address, 0)) as listener, ExitStack() as stack:

        def answer() -> None:
            client, _ = listener.accept()
            stack.enter_context(client)
            client.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        settings = ServerSettings("here", "server", address, user="x", identity=str(keys.identity), connect_timeout=0.5)
        began = time.monotonic()
        fault = fault_of(SshTransport(msgspec.structs.replace(settings, port=listener.getsockname()[1])))
        assert time.monotonic() - began < 2.0
        thread.join()
    assert str(fault) == "here: unreachable: no SSH answer in 0.5 s"


def test_a_server_that_hangs_up_at_once_is_unreachable(new_address: Callable[[], str], keys: Keys) -> None:
    address = new_address()
    with socket.create_server((address, 0)) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        settings = ServerSettings("here", "server", address, user="x", identity=str(keys.identity))
        fault = fault_of(SshTransport(msgspec.structs.replace(settings, port=listener.getsockname()[1])))
        thread.join()
    assert fault.kind == "unreachable"


def test_the_limit_of_a_call_counts_connecting_too(new_address: Callable[[], str], keys: Keys) -> None:
    address = new_address()
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
        settings = ServerSettings("here", "server", address, port=port, user="x", identity=str(keys.identity))
        began = time.monotonic()
        assert fault_of(SshTransport(settings), limit=0.5).kind == "unreachable"
        assert time.monotonic() - began < 2.0


@pytest.mark.system
def test_a_server_that_hangs_ends_calls_and_does_not_hold_up_the_end(
    keys: Keys, new_address: Callable[[], str], tmp_path: Path
) -> None:
    with SshdServers(keys, tmp_path / "sshd") as servers, ExitStack() as stack:
        place = Place(servers, keys, new_address(), stack)
        transport, fresh = place.connect(response_timeout=0.5), place.connect(connect_timeout=0.5)
        transport.call(Script("test", "true"))
        servers.pause(place.address)
        began = time.monotonic()
        assert fault_of(transport, stdin=bytes(20 << 20)).kind in ("silent", "broken")
        assert fault_of(fresh).kind == "unreachable"
        transport.close()
        assert time.monotonic() - began < 5
        servers.resume(place.address)
        assert transport.call(Script("test", "echo again")).out == b"again\n"
