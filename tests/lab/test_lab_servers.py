"""Both kinds of lab servers, through the ssh client and paramiko."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import paramiko
import pytest

from cftools.lab.inprocess import InProcessServers
from cftools.lab.keys import Keys
from cftools.lab.servers import LabServer, free_port, own_name
from cftools.lab.sshd import SshdServers
from cftools.model.errors import Unreachable, UsageFault

ADDRESS, OTHER = "127.0.41.7", "127.0.41.8"
SOON = 5.0  # seconds within which anything that is to happen has happened
BINARY = bytes(range(256)) * (10 * 4096)

Servers = InProcessServers | SshdServers


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture(params=["in process", pytest.param("sshd", marks=pytest.mark.system)])
def unopened(request: pytest.FixtureRequest, keys: Keys, tmp_path: Path) -> Servers:
    return InProcessServers(keys) if request.param == "in process" else SshdServers(keys, tmp_path / "sshd")


@pytest.fixture
def servers(unopened: Servers) -> Iterator[Servers]:
    with unopened:
        yield unopened


def connect(keys: Keys, server: LabServer, identity: Path | None = None) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.load_host_keys(str(keys.known_hosts))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(
        server.address,
        server.port,
        own_name(),
        key_filename=str(identity or keys.identity),
        look_for_keys=False,
        allow_agent=False,
        timeout=SOON,
    )
    return client


def run(client: paramiko.SSHClient, command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    into, out, err = client.exec_command(command, timeout=20)

    def feed() -> None:
        with suppress(OSError):  # a command that reads nothing may be over by now
            into.write(stdin)
            into.channel.shutdown_write()

    feeder = threading.Thread(target=feed)
    feeder.start()
    answer = out.read(), err.read()
    feeder.join()
    return out.channel.recv_exit_status(), *answer


def ssh(keys: Keys, server: LabServer) -> list[str]:
    options = {
        "UserKnownHostsFile": keys.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
    }
    settings = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    return ["ssh", "-F", "/dev/null", "-p", str(server.port), "-i", str(keys.identity), *settings, server.address]


def start(servers: Servers, address: str = ADDRESS) -> LabServer:
    return LabServer(address, address, servers.start(address))


def appears(path: Path) -> bool:
    return _within(lambda: path.exists())


def alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid: int) -> bool:
    return _within(lambda: not alive(pid))


def _within(happened: object) -> bool:
    assert callable(happened)
    deadline = time.monotonic() + SOON
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_ten_megabytes_of_any_bytes_come_back_as_they_went(servers: Servers, keys: Keys) -> None:
    echo = subprocess.run(
        [*ssh(keys, start(servers)), "cat"], input=BINARY, capture_output=True, check=False, timeout=30
    )
    assert (echo.returncode, echo.stderr) == (0, b"")
    assert echo.stdout == BINARY


def test_paramiko_gets_output_errors_and_status_apart(servers: Servers, keys: Keys) -> None:
    with connect(keys, start(servers)) as client:
        assert run(client, "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
        assert run(client, "wc -c", BINARY) == (0, b"%d\n" % len(BINARY), b"")
        assert run(client, "exec 0<&-; exit 3", BINARY[:1000]) == (3, b"", b"")


def test_bytes_that_are_not_utf8_reach_the_command(servers: Servers, keys: Keys) -> None:
    command = [*ssh(keys, start(servers)), os.fsdecode(b"printf %s 'a\xff\xeab'")]
    assert subprocess.run(command, capture_output=True, check=True, timeout=20).stdout == b"a\xff\xeab"


def test_channels_of_one_connection_run_side_by_side(servers: Servers, keys: Keys, tmp_path: Path) -> None:
    with connect(keys, start(servers)) as client, ThreadPoolExecutor(8) as pool:
        # Each of the eight waits for all the others, so none can end before all have begun.
        meet = "touch {0}/{1}; until [ $(ls {0} | wc -l) -eq 8 ]; do sleep 0.05; done; echo {1}"
        room = tmp_path / "room"
        room.mkdir()
        answers = list(pool.map(lambda number: run(client, meet.format(room, number)), range(8)))
    assert [out for _, out, _ in answers] == [b"%d\n" % number for number in range(8)]


def test_a_client_that_reads_nothing_holds_the_command_back(servers: Servers, keys: Keys, tmp_path: Path) -> None:
    written = tmp_path / "written"
    with connect(keys, start(servers)) as client:
        _, out, _ = client.exec_command(f"head -c 200000000 /dev/zero | tee {written}")
        assert appears(written)
        time.sleep(1.0)
        assert written.stat().st_size < 50_000_000
        out.channel.close()


def test_a_reading_command_ends_when_its_client_goes_away(servers: Servers, keys: Keys) -> None:
    server = start(servers)
    for whole_connection in (False, True):
        with connect(keys, server) as client:
            into, out, _ = client.exec_command("echo $$; exec cat")
            pid = int(out.readline())
            (client if whole_connection else into.channel).close()
            assert ends(pid)


def test_in_process_a_command_that_reads_nothing_is_killed_with_its_children(keys: Keys) -> None:
    with InProcessServers(keys) as servers, connect(keys, start(servers)) as client:
        into, out, _ = client.exec_command("sleep 1000 & echo $!; echo $$; wait")
        pids = [int(out.readline()), int(out.readline())]
        into.channel.settimeout(0.3)
        with pytest.raises(TimeoutError):  # all buffers on the way are full of input that nobody takes
            into.channel.sendall(bytes(6_000_000))
        into.channel.close()
        assert all(ends(pid) for pid in pids)


def test_a_killed_server_takes_its_commands_along_and_can_start_again(servers: Servers, keys: Keys) -> None:
    server, other = start(servers), start(servers, OTHER)
    with connect(keys, server) as client, connect(keys, other) as bystander:
        _, out, _ = client.exec_command("sleep 1000 & echo $!; echo $$; wait")
        pids = [int(out.readline()), int(out.readline())]
        servers.stop(ADDRESS)
        assert all(ends(pid) for pid in pids)
        out.channel.status_event.wait(SOON)
        assert out.channel.exit_status == -1
        with pytest.raises(OSError):
            connect(keys, server)
        assert run(bystander, "echo here") == (0, b"here\n", b"")
    assert servers.start(ADDRESS) == server.port
    with connect(keys, server) as client:
        assert run(client, "echo again") == (0, b"again\n", b"")
    assert [one.address for one in servers.servers] == [ADDRESS, OTHER]


def test_another_key_than_the_users_is_refused(servers: Servers, keys: Keys, tmp_path: Path) -> None:
    server = start(servers)
    with pytest.raises(paramiko.AuthenticationException):
        connect(keys, server, Keys(tmp_path / "strange").identity)
    connect(keys, server).close()


def test_a_taken_port_is_told_and_left_alone(servers: Servers) -> None:
    with socket.create_server((ADDRESS, free_port([ADDRESS]))) as somebody:
        port = somebody.getsockname()[1]
        with pytest.raises(Unreachable, match=rf"{ADDRESS}:{port} is taken"):
            servers.start(ADDRESS, port)


def test_names_stand_for_addresses_and_unknown_ones_are_told(servers: Servers, keys: Keys) -> None:
    port = servers.start(ADDRESS, name="dst1")
    servers.stop("dst1")
    assert servers.start("dst1") == port
    with connect(keys, LabServer("dst1", ADDRESS, port)) as client:
        assert run(client, "exit 0")[0] == 0
    with pytest.raises(UsageFault, match="no lab server dst9 was started; there are: dst1"):
        servers.stop("dst9")


def test_an_address_of_another_machine_is_told(servers: Servers) -> None:
    with pytest.raises(Unreachable, match=r"192\.0\.2\.1 is no address of this machine"):
        servers.start("192.0.2.1")


def test_servers_end_with_their_context_even_after_a_fault(unopened: Servers, keys: Keys) -> None:
    pids = []

    def fails() -> None:
        with unopened, connect(keys, start(unopened)) as client:
            _, out, _ = client.exec_command("sleep 1000 & echo $!; wait")
            pids.append(int(out.readline()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [ends(pid) for pid in pids] == [True]
    with pytest.raises(OSError):
        connect(keys, unopened.servers[0])


@pytest.mark.system
def test_commands_that_outlived_their_session_end_with_the_sshd(keys: Keys, tmp_path: Path) -> None:
    with SshdServers(keys, tmp_path / "sshd") as servers:
        with connect(keys, start(servers)) as client:
            _, out, _ = client.exec_command("setsid sleep 1000 >/dev/null 2>&1 & echo $!")
            pid = int(out.readline())
            assert out.channel.recv_exit_status() == 0
        assert alive(pid)
    assert not alive(pid)


@pytest.mark.system
def test_a_paused_sshd_takes_connections_but_says_nothing_until_resumed(keys: Keys, tmp_path: Path) -> None:
    with SshdServers(keys, tmp_path / "sshd") as servers:
        server = start(servers)
        with connect(keys, server) as client:
            servers.pause(ADDRESS)
            with socket.create_connection((server.address, server.port), timeout=0.3) as probe:
                with pytest.raises(TimeoutError):
                    probe.recv(1)
                servers.resume(ADDRESS)
                probe.settimeout(SOON)
                assert probe.recv(4) == b"SSH-"
            assert run(client, "echo on")[1] == b"on\n"


@pytest.mark.system
def test_a_paused_sshd_can_be_killed(keys: Keys, tmp_path: Path) -> None:
    with SshdServers(keys, tmp_path / "sshd") as servers:
        server = start(servers)
        servers.pause(ADDRESS)
        servers.stop(ADDRESS)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.address, server.port), timeout=SOON)
        with pytest.raises(UsageFault, match="is not running"):
            servers.pause(ADDRESS)


def test_a_machine_without_sshd_is_told_what_to_install(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cftools.lab.sshd.shutil.which", lambda *_words, **_more: None)
    with pytest.raises(UsageFault, match="install openssh-server"):
        SshdServers(keys, tmp_path / "sshd")
