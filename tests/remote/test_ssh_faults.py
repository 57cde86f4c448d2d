"""What can go wrong on the way to a server over SSH: each fault has its kind, one line, and an end in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from cftools.config.servers import ServerSettings
from cftools.lab.inprocess import InProcessServers
from cftools.lab.keys import Keys, make_pair
from cftools.lab.servers import free_port, own_name
from cftools.lab.sshd import SshdServers
from cftools.remote.ssh import SshTransport
from cftools.remote.transport import RemoteFault, Script

SOON = 8.0  # seconds within which anything that is to happen has happened
ONCE_THEN = 'echo ran >>"$1"; [ "$(wc -l <"$1")" -gt "$2" ] || sleep 30; echo answer'


class Gate:
    """Passes connections on to a server, counts them, and can cut them."""

    def __init__(self, address: str, target: tuple[str, int]) -> None:
        self.count = 0
        self._target = target
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.count += 1
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends every connection that is open."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Takes no connections any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


class Place:
    """A server of the lab, a gate before it, and transports to it."""

    def __init__(self, servers: InProcessServers | SshdServers, keys: Keys, address: str, stack: ExitStack) -> None:
        self.servers, self.keys, self.address, self._stack = servers, keys, address, stack
        self.port = servers.start(address)
        self.gate = Gate(address, (address, self.port))
        stack.callback(self.gate.close)
        keys.trust(address, address, self.gate.port)  # the gate's server has this server's key

    def connect(self, *, gate: bool = False, **changes: Any) -> SshTransport:
        """A transport to the server, through the gate when asked, with these settings."""
        settings = ServerSettings(
            "here",
            "server",
            self.address,
            user=own_name(),
            port=self.gate.port if gate else self.port,
            identity=str(self.keys.identity),
            known_hosts=str(self.keys.known_hosts),
        )
        transport = SshTransport(msgspec.structs.replace(settings, **changes))
        self._stack.callback(transport.close)
        return transport


@pytest.fixture(params=["in process", pytest.param("sshd", marks=pytest.mark.system)])
def place(
    request: pytest.FixtureRequest, keys: Keys, new_address: Callable[[], str], tmp_path: Path
) -> Iterator[Place]:
    with ExitStack() as stack:
        sshd = request.param == "sshd"
        servers = stack.enter_context(SshdServers(keys, tmp_path / "sshd")) if sshd else None
        yield Place(servers or stack.enter_context(InProcessServers(keys)), keys, new_address(), stack)


HELLO = Script("test", "echo hello")


def fault_of(transport: SshTransport, script: Script = HELLO, **options: Any) -> RemoteFault:
    with pytest.raises(RemoteFault) as caught:
        transport.call(script, **options)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


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


def test_calls_share_one_connection(place: Place) -> None:
    transport = place.connect(gate=True)
    threads = [threading.Thread(target=transport.call, args=(Script("test", "sleep 0.1"),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transport.call(Script("test", "true"))
    assert place.gate.count == 1


def test_an_unknown_host_key_is_refused_with_what_to_do(place: Place, tmp_path: Path) -> None:
    known = tmp_path / "known"
    for content in (
        None,
        "other.host ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
    ):
        if content is not None:
            known.write_text(content)
        fault = fault_of(place.connect(known_hosts=str(known)))
        assert str(fault) == f"here: refused: unknown host key; add it to {known} after checking it"
        assert fault.nothing_was_done


def test_a_changed_host_key_is_refused(place: Place, tmp_path: Path) -> None:
    make_pair(tmp_path / "other", "other")
    kind, key = (tmp_path / "other.pub").read_text().split()[:2]
    known = tmp_path / "known"
    known.write_text(f"[{place.address}]:{place.port} {kind} {key}\n")
    fault = fault_of(place.connect(known_hosts=str(known)))
    assert fault.kind == "refused"
    assert fault.detail.startswith("host key changed: Host key for server ")
    assert fault.detail.endswith("; if that is right, mend known_hosts")


def test_a_key_the_server_does_not_know_is_a_refused_login(place: Place, tmp_path: Path) -> None:
    make_pair(tmp_path / "other", "other")
    fault = fault_of(place.connect(identity=str(tmp_path / "other")))
    assert (fault.kind, fault.detail) == ("refused", "login refused: Authentication failed.")


def test_having_no_key_at_all_is_a_refused_login_that_says_so(place: Place) -> None:
    fault = fault_of(place.connect(identity=""))
    assert (fault.kind, fault.detail) == ("refused", "login refused: there is no key to log in with; set ssh.identity")


NO_KEYS = {
    "missing": (None, "No such file or directory"),
    "empty": (b"", "no private key of a kind that can be used"),
    "other bytes": (b"\xff\xfe" * 99, "no private key of a kind that can be used"),
    "cut off": (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "no private key of a kind that can be used"),
    "locked": (b"", "locked with a passphrase; load it into an SSH agent and leave ssh.identity out"),
}


@pytest.mark.parametrize("case", NO_KEYS)
def test_an_identity_that_cannot_be_used_is_named(keys: Keys, tmp_path: Path, case: str) -> None:
    content, why = NO_KEYS[case]
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    if case == "locked":
        private = Ed25519PrivateKey.generate()
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"secret")))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = ServerSettings("here", "server", "127.0.0.1", user="x", identity=str(path))
        settings = msgspec.structs.replace(settings, port=listener.getsockname()[1], known_hosts=str(keys.known_hosts))
        fault = fault_of(SshTransport(settings))
    assert (fault.kind, fault.detail) == ("refused", f"login refused: {path}: {why}")


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
