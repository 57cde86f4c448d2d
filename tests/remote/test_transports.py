"""One suite for every way of reaching a server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from cftools.config.servers import ServerSettings
from cftools.lab.inprocess import InProcessServers
from cftools.lab.keys import Keys
from cftools.lab.servers import own_name
from cftools.lab.sshd import SshdServers
from cftools.remote.local import LocalTransport
from cftools.remote.ssh import SshTransport
from cftools.remote.transport import RemoteFault, Script, Session, Transport

Connect = Callable[..., Transport]
SOON = 8.0  # seconds within which anything that is to happen has happened
ECHO = "printf '%s\\0' \"$@\"; cat"
ODD = [
    bytes(byte for byte in range(1, 256)),
    b"",
    b" ",
    b"-n",
    b"--",
    b"\n",
    b"a\nb\n",
    b"'",
    b"'\"'$(touch pwned)`touch pwned`$HOME",
    b"\\",
    b"\\n\\0101",
    b"*",
    b"~",
    b"!!",
    b"\xff\xfe\x80",
    "드라마 1.mpg".encode(),
]


@pytest.fixture(scope="module", params=["local", "in process", pytest.param("sshd", marks=pytest.mark.system)])
def server(
    request: pytest.FixtureRequest,
    keys: Keys,
    new_address: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerSettings | None]:
    """One server that runs; None is this machine itself."""
    if request.param == "local":
        yield None
        return
    folder = tmp_path_factory.mktemp("sshd")
    with SshdServers(keys, folder) if request.param == "sshd" else InProcessServers(keys) as servers:
        address = new_address()
        yield ServerSettings(
            "here",
            "server",
            address,
            user=own_name(),
            port=servers.start(address),
            identity=str(keys.identity),
            known_hosts=str(keys.known_hosts),
        )


@pytest.fixture
def connect(server: ServerSettings | None) -> Iterator[Connect]:
    """Makes transports to the server."""
    with ExitStack() as stack:

        def new(response_timeout: float = 60.0) -> Transport:
            if server is None:
                return LocalTransport("here", response_timeout)
            transport = SshTransport(msgspec.structs.replace(server, response_timeout=response_timeout))
            stack.callback(transport.close)
            return transport

        yield new


def script(text: str, *arguments: bytes) -> Script:
    return Script("test", text, arguments)


def fault_of(work: Callable[[], object]) -> RemoteFault:
    with pytest.raises(RemoteFault) as caught:
        work()
    return caught.value


def kind_of(work: Callable[[], object]) -> str:
    """The kind of fault it ended with, or what it returned."""
    try:
        return str(work())
    except RemoteFault as fault:
        return fault.kind


def read_until(session: Session, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = session.read()
        assert piece, data
        data += piece
    return data


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_arguments_and_input_of_any_bytes_arrive_as_they_are(connect: Connect) -> None:
    stdin = bytes(range(256)) * 3
    reply = connect().call(script(ECHO, *ODD), stdin)
    assert reply.out == b"".join(word + b"\0" for word in ODD) + stdin
    assert (reply.status, reply.err) == (0, b"")


def test_a_script_of_many_lines_knows_its_verb_and_what_it_was_given(connect: Connect) -> None:
    text = """
    # a comment with 'quotes" in it
    count=$#
    printf '%s %s\\n' "$0" "$count"
    """
    assert connect().call(Script("inventory", text, (b"a b", b""))).out == b"cftools-inventory 2\n"


def test_large_input_and_output_pass_each_other(connect: Connect) -> None:
    data = os.urandom(5 << 20)
    assert connect().call(script("cat"), data).out == data


def test_output_that_comes_before_the_input_is_read_holds_nothing_up(connect: Connect) -> None:
    reply = connect().call(script("head -c 5000000 /dev/zero; wc -c"), b"x" * (5 << 20))
    assert reply.out[:5_000_000] == bytes(5_000_000)
    assert int(reply.out[5_000_000:]) == 5 << 20


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_exit_status_comes_back(connect: Connect, status: int) -> None:
    assert connect().call(script('exit "$1"', str(status).encode())).status == status


def test_stderr_is_told_apart_from_stdout_and_its_first_line_is_the_complaint(connect: Connect) -> None:
    text = "echo out; echo 'no such \\377 folder' >&2; head -c 300000 /dev/zero >&2; echo out; exit 2"
    reply = connect().call(script(text.replace("echo 'no", "printf 'no").replace("folder'", "folder\\n'")))
    assert reply.out == b"out\nout\n"
    assert reply.err == b"no such \xff folder\n" + bytes(300_000)
    assert reply.complaint() == "no such \ufffd folder"
    assert connect().call(script("exit 7")).complaint() == "exit status 7"


@pytest.mark.parametrize("size", [1, 20_000, 3 << 20])
def test_a_script_that_ends_without_reading_its_input_still_answers(connect: Connect, size: int) -> None:
    transport = connect()
    for _ in range(4):
        reply = transport.call(script("echo no; exit 3"), b"x" * size)
        assert (reply.status, reply.out) == (3, b"no\n")


def test_a_script_that_a_signal_ended_is_never_a_good_answer(connect: Connect) -> None:
    def status() -> int:
        return connect().call(script("echo half; kill -9 $$")).status

    # Where the server's login shell stays above the script, that shell tells of the signal.
    assert kind_of(status) in ("broken", str(128 + 9))


def test_silence_is_limited_and_the_next_call_works(connect: Connect) -> None:
    transport = connect(response_timeout=0.4)
    began = time.monotonic()
    fault = fault_of(lambda: transport.call(script("echo begun; sleep 30; echo end")))
    assert 0.3 < time.monotonic() - began < SOON
    assert (fault.kind, str(fault)) == ("silent", "here: silent: no answer for 0.4 s")
    assert not fault.nothing_was_done
    assert transport.call(script("echo again")).out == b"again\n"


def test_a_long_script_that_gives_signs_of_life_is_waited_for(connect: Connect) -> None:
    text = "for n in 1 2 3; do echo $n; sleep 0.3; done"
    assert connect(response_timeout=0.7).call(script(text)).out == b"1\n2\n3\n"


def test_what_comes_on_stderr_is_a_sign_of_life(connect: Connect) -> None:
    text = "for n in 1 2 3 4; do echo $n >&2; sleep 0.3; done; echo done"
    reply = connect(response_timeout=0.9).call(script(text))
    assert (reply.out, reply.err) == (b"done\n", b"1\n2\n3\n4\n")


def test_stderr_keeps_a_script_alive_that_has_closed_its_output(connect: Connect) -> None:
    text = "exec >&-; for n in 1 2 3 4; do echo $n >&2; sleep 0.3; done"
    reply = connect(response_timeout=0.9).call(script(text))
    assert (reply.status, reply.out, reply.err) == (0, b"", b"1\n2\n3\n4\n")


def test_stderr_keeps_a_script_alive_that_does_not_yet_read_its_input(connect: Connect) -> None:
    session = connect(response_timeout=0.9).open(script("for n in 1 2 3 4; do echo $n >&2; sleep 0.3; done; wc -c"))
    session.write(bytes(20 << 20))
    session.close_input()
    reply = session.wait()
    session.close()
    assert (int(reply.out), reply.err) == (20 << 20, b"1\n2\n3\n4\n")


@pytest.mark.parametrize("text", ["sleep 30; echo end", "while :; do echo more; sleep 0.05; done"])
def test_the_time_for_all_of_it_is_limited_however_much_comes(connect: Connect, text: str) -> None:
    began = time.monotonic()
    fault = fault_of(lambda: connect().call(script(text), limit=0.5))
    assert 0.4 < time.monotonic() - began < SOON
    assert (fault.kind, fault.detail) == ("silent", "no answer in time")


def test_input_that_nobody_reads_is_given_up_in_time(connect: Connect) -> None:
    fault = fault_of(lambda: connect().call(script("sleep 30; cat"), bytes(20 << 20), limit=0.5))
    assert (fault.kind, fault.detail) == ("silent", "no answer in time")


def test_a_session_is_a_conversation(connect: Connect) -> None:
    session = connect().open(script('while read -r line; do echo "got $line"; done; echo over; echo e >&2; exit 4'))
    for word in (b"one", b"two"):
        session.write(word + b"\n")
        assert read_until(session, b"\n") == b"got " + word + b"\n"
    session.close_input()
    reply = session.wait()
    assert (reply.status, reply.out, reply.err) == (4, b"over\n", b"e\n")
    assert session.read() == b""
    session.close()


def test_sessions_of_one_transport_run_side_by_side(connect: Connect) -> None:
    transport = connect()
    first = transport.open(script("cat"))
    with ThreadPoolExecutor(4) as pool:
        blocks = [bytes([number]) * 300_000 for number in range(4)]
        assert list(pool.map(lambda block: transport.call(script("cat"), block).out, blocks)) == blocks
    first.write(b"still here")
    first.close_input()
    assert first.wait().out == b"still here"
    first.close()


class Enough(Exception):
    """What a watch raises here."""


@pytest.mark.parametrize("how", ["read", "wait", "write"])
def test_what_a_watch_raises_ends_the_wait(connect: Connect, how: str) -> None:
    calls = []

    def watch() -> None:
        calls.append(time.monotonic())
        if len(calls) == 2:
            raise Enough

    session = connect().open(script("sleep 30; cat"), watch)
    began = time.monotonic()
    waits: dict[str, Callable[[], object]] = {
        "read": session.read,
        "wait": session.wait,
        "write": lambda: session.write(bytes(40 << 20)),
    }
    with pytest.raises(Enough):
        waits[how]()
    assert time.monotonic() - began < SOON
    session.close()


def test_writing_to_a_script_that_ended_is_a_broken_session(connect: Connect) -> None:
    session = connect().open(script("exit 0"))

    def write_on() -> None:
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            session.write(b"x" * 1000)
            time.sleep(0.01)

    assert fault_of(write_on).kind == "broken"
    session.close()


def test_writing_after_the_input_was_closed_is_a_broken_session(connect: Connect) -> None:
    session = connect().open(script("cat >/dev/null; sleep 0.3"))
    session.close_input()
    session.close_input()
    assert fault_of(lambda: session.write(b"x")).kind == "broken"
    session.close()


def test_a_session_that_is_given_up_ends_its_script(connect: Connect) -> None:
    session = connect().open(script("echo $$; cat >/dev/null"))
    pid = int(read_until(session, b"\n"))
    assert is_alive(pid)
    session.close()
    session.close()
    wait_for(lambda: not is_alive(pid))


def test_a_closed_transport_opens_again_when_it_is_needed(connect: Connect) -> None:
    transport = connect()
    assert transport.call(script("echo 1")).out == b"1\n"
    transport.close()
    transport.close()
    assert transport.call(script("echo 2")).out == b"2\n"
