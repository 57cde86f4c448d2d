"""Where and as whom to log in: the config, then ssh_config, then the defaults; and jumps over a host."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cftools.config.servers import ServerSettings
from cftools.lab.keys import Keys
from cftools.lab.servers import own_name
from cftools.lab.sshd import SshdServers
from cftools.remote.route import path_of, route_of
from cftools.remote.ssh import SshTransport
from cftools.remote.transport import RemoteFault, Reply, Script

PLACE = Script("test", "echo $SSH_CONNECTION")


def settings(tmp_path: Path, ssh_config: str | bytes, **changes: Any) -> ServerSettings:
    path = tmp_path / "ssh_config"
    path.write_bytes(ssh_config if isinstance(ssh_config, bytes) else ssh_config.encode())
    return ServerSettings("here", "server", **{"address": "edge1", "config_file": str(path), **changes})


def route(tmp_path: Path, ssh_config: str, **changes: Any) -> dict[str, Any]:
    return route_of(settings(tmp_path, ssh_config, **changes))


CONFIG = """
Host edge1
    HostName 10.0.0.9
    Port 2200
    User vod
Host *
    Port 2300
    User other
"""


def test_ssh_config_tells_what_the_config_leaves_open(tmp_path: Path) -> None:
    found = route(tmp_path, CONFIG)
    assert (found["hostname"], found["port"], found["user"]) == ("10.0.0.9", 2200, "vod")
    found = route(tmp_path, CONFIG, address="10.0.0.8")
    assert (found["hostname"], found["port"], found["user"]) == ("10.0.0.8", 2300, "other")


def test_the_config_goes_before_ssh_config(tmp_path: Path) -> None:
    found = route(tmp_path, CONFIG, port=22, user="cm")
    assert (found["hostname"], found["port"], found["user"]) == ("10.0.0.9", 22, "cm")


@pytest.mark.parametrize("config_file", ["", "/dev/null", "/nonexistent/ssh_config"])
def test_without_ssh_config_the_defaults_of_ssh_hold(config_file: str) -> None:
    found = route_of(ServerSettings("here", "server", "edge1", config_file=config_file))
    assert (found["hostname"], found["port"], found["user"], found["identityfile"]) == ("edge1", 22, None, [])


def test_keys_that_ssh_config_names_are_used_where_they_exist(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("")
    assert route(tmp_path, f"IdentityFile {tmp_path}/none\nIdentityFile {key}\n")["identityfile"] == [str(key)]


@pytest.mark.parametrize("word", ["ProxyJump", "ProxyCommand"])
def test_none_means_no_proxy(tmp_path: Path, word: str) -> None:
    assert word.lower() in route(tmp_path, f"{word} somewhere\n")
    assert word.lower() not in route(tmp_path, f"{word} none\n")


@pytest.mark.parametrize(
    "text", ["Host edge1\n  Port\n", "Match wrong\n", b"Host \xff\xfe\n", "Host edge1\n  Port abc\n"]
)
def test_an_ssh_config_that_cannot_be_read_is_named(tmp_path: Path, text: str | bytes) -> None:
    broken = settings(tmp_path, text)
    with pytest.raises(RemoteFault) as caught:
        SshTransport(broken).call(PLACE)
    assert caught.value.nothing_was_done
    assert str(caught.value).startswith(f"here: unreachable: {tmp_path}/ssh_config: ")
    assert len(str(caught.value).splitlines()) == 1


Call = Callable[..., Reply]


class Net:
    """Three real servers, and calls to the last with an ssh_config."""

    def __init__(self, servers: SshdServers, keys: Keys, folder: Path, addresses: list[str]) -> None:
        self.servers, self.keys, self._folder = servers, keys, folder
        self.gate, self.middle, self.target = addresses
        self.ports = {address: servers.start(address) for address in addresses}

    def call(self, ssh_config: str, **changes: Any) -> Reply:
        """Runs PLACE on the target; ssh_config may name the servers and ports."""
        words = {"KEY": str(self.keys.identity), "KNOWN": str(self.keys.known_hosts)}
        for name, address in (("GATE", self.gate), ("MIDDLE", self.middle), ("TARGET", self.target)):
            words |= {name: address, f"{name}PORT": str(self.ports[address])}
        for word in sorted(words, key=len, reverse=True):
            ssh_config = ssh_config.replace(f"<{word}>", words[word])
        plain = settings(self._folder, ssh_config, known_hosts=str(self.keys.known_hosts), connect_timeout=5.0)
        transport = SshTransport(msgspec.structs.replace(plain, **changes))
        try:
            return transport.call(PLACE)
        finally:
            transport.close()


@pytest.fixture(scope="module")
def net(keys: Keys, new_address: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("net")
    with ExitStack() as stack:
        servers = stack.enter_context(SshdServers(keys, folder / "sshd"))
        yield Net(servers, keys, folder, [new_address() for _ in range(3)])


ALIAS = f"Host edge1\n HostName <TARGET>\n Port <TARGETPORT>\n User {own_name()}\n IdentityFile <KEY>\n"
JUMP_HOST = f"Host gate\n HostName <GATE>\n Port <GATEPORT>\n User {own_name()}\n IdentityFile <KEY>\n"


@pytest.mark.system
def test_host_port_user_and_key_of_ssh_config_reach_a_server(net: Net) -> None:
    assert net.call(ALIAS).out.split()[2:] == [net.target.encode(), str(net.ports[net.target]).encode()]
    with pytest.raises(RemoteFault, match="login refused"):
        net.call(ALIAS, user="nobody-of-this-name")
    with pytest.raises(RemoteFault, match="unreachable"):
        net.call(ALIAS, port=1)


@pytest.mark.system
@pytest.mark.parametrize("jump", ["gate", f"{own_name()}@<GATE>:<GATEPORT>", f"ssh://{own_name()}@[<GATE>]:<GATEPORT>"])
def test_a_server_is_reached_over_a_jump_host(net: Net, jump: str) -> None:
    everywhere = f"{ALIAS} ProxyJump {jump}\n{JUMP_HOST}Host *\n IdentityFile <KEY>\n"
    here, direct = net.call(everywhere).out.split(), net.call(ALIAS).out.split()
    assert here[2:] == direct[2:] == [net.target.encode(), str(net.ports[net.target]).encode()]
    # Without the jump host it does not work: the connection does go through it.
    net.servers.stop(net.gate)
    try:
        with pytest.raises(RemoteFault, match="Connection refused"):
            net.call(everywhere)
    finally:
        net.servers.start(net.gate)


@pytest.mark.parametrize("jump", ["a@b@c", "gate:port", "[::1", "@", ":22"])
def test_a_jump_host_that_is_none_is_told(tmp_path: Path, jump: str) -> None:
    with pytest.raises(RemoteFault) as caught:
        SshTransport(settings(tmp_path, f"ProxyJump {jump}\n")).call(PLACE)
    assert str(caught.value) == f"here: unreachable: ProxyJump {jump}: not [USER@]HOST[:PORT]"


@pytest.mark.system
def test_a_jump_host_that_is_down_or_unknown_is_told(net: Net, tmp_path: Path) -> None:
    with pytest.raises(RemoteFault) as caught:
        net.call(f"{ALIAS} ProxyJump <GATE>:1\n")
    assert (caught.value.kind, caught.value.detail) == (
        "unreachable",
        f"jump host {net.gate}:1: Connection refused",
    )
    known = tmp_path / "known"
    line = next(line for line in net.keys.known_hosts.read_text().splitlines() if net.target in line)
    known.write_text(f"{line}\n")
    with pytest.raises(RemoteFault) as caught:
        net.call(f"{ALIAS} ProxyJump gate\n{JUMP_HOST}", known_hosts=str(known))
    assert (caught.value.kind, caught.value.nothing_was_done) == ("refused", True)
    assert caught.value.detail.startswith("jump host gate: unknown host key; ")


@pytest.mark.system
def test_a_jump_host_that_does_not_reach_the_server_is_told(net: Net) -> None:
    with pytest.raises(RemoteFault) as caught:
        net.call(f"{ALIAS} ProxyJump gate\n{JUMP_HOST}", port=1)
    assert caught.value.kind == "unreachable"


MIDDLE = f"Host middle\n HostName <MIDDLE>\n Port <MIDDLEPORT>\n User {own_name()}\n IdentityFile <KEY>\n"
TWO_HOPS = {
    "a list": f"{ALIAS} ProxyJump gate,middle\n{JUMP_HOST}{MIDDLE}",
    "a list of addresses": f"{ALIAS} ProxyJump {own_name()}@<GATE>:<GATEPORT>,ssh://{own_name()}@<MIDDLE>:<MIDDLEPORT>\n"
    "Host *\n IdentityFile <KEY>\n",
    "a jump host behind one": f"{ALIAS} ProxyJump middle\n{JUMP_HOST}{MIDDLE} ProxyJump gate\n",
    "a jump host behind a command": f"{ALIAS} ProxyJump middle\n{MIDDLE}"
    f" ProxyCommand ssh -F none -oBatchMode=yes -oUserKnownHostsFile=<KNOWN> -i <KEY> -p <GATEPORT> -W %h:%p"
    f" {own_name()}@<GATE>\n",
}


@pytest.mark.system
@pytest.mark.parametrize("case", TWO_HOPS)
def test_a_server_is_reached_over_two_jump_hosts_and_not_without_one_of_them(net: Net, case: str) -> None:
    place = net.call(TWO_HOPS[case]).out.split()
    assert place[2:] == [net.target.encode(), str(net.ports[net.target]).encode()]
    for stop in (net.gate, net.middle):
        net.servers.stop(stop)
        try:
            with pytest.raises(RemoteFault) as caught:
                net.call(TWO_HOPS[case])
            assert caught.value.kind == "unreachable"
            assert "jump host " in caught.value.detail
        finally:
            net.servers.start(stop)


@pytest.mark.system
def test_every_jump_host_must_be_known(net: Net, tmp_path: Path) -> None:
    lines = net.keys.known_hosts.read_text().splitlines()
    for label, address in (("gate", net.gate), ("middle", net.middle)):
        known = tmp_path / label
        known.write_text("".join(f"{line}\n" for line in lines if address not in line))
        with pytest.raises(RemoteFault) as caught:
            net.call(TWO_HOPS["a list"], known_hosts=str(known))
        assert caught.value.kind == "refused"
        assert caught.value.detail.startswith(f"jump host {label}: unknown host key; ")


@pytest.mark.system
def test_closing_leaves_no_connection_to_any_jump_host(net: Net) -> None:
    net.call(TWO_HOPS["a list"])
    ends = {f"{address}:{net.ports[address]}" for address in net.ports}

    def connected() -> list[str]:
        shown = subprocess.run(["ss", "-Htn", "state", "established"], capture_output=True, text=True, check=True)
        return [line for line in shown.stdout.splitlines() if any(end in line for end in ends)]

    deadline = time.monotonic() + 8
    while connected():
        assert time.monotonic() < deadline, connected()
        time.sleep(0.05)


def test_a_circle_of_jump_hosts_is_told(tmp_path: Path) -> None:
    circle = "Host edge1\n ProxyJump one\nHost one\n ProxyJump two\nHost two\n ProxyJump one\n"
    for text, over in ((circle, "one"), ("ProxyJump one,two\n", "one"), ("Host edge1\n ProxyJump edge1\n", "edge1")):
        with pytest.raises(RemoteFault) as caught:
            path_of(settings(tmp_path, text))
        assert caught.value.detail == f"ProxyJump goes in a circle over {over}; give that one ProxyJump none"


def test_what_is_no_port_is_told(tmp_path: Path) -> None:
    with pytest.raises(RemoteFault, match="ssh_config: '65536' is no port"):
        route(tmp_path, "Port 65536\n")
    with pytest.raises(RemoteFault, match="one: '99999' is no port"):
        path_of(settings(tmp_path, "Host edge1\n ProxyJump one:99999\n"))


@pytest.mark.system
def test_a_host_key_alias_names_the_key(net: Net, tmp_path: Path) -> None:
    line = next(line for line in net.keys.known_hosts.read_text().splitlines() if net.target in line)
    known = tmp_path / "known"
    known.write_text(f"cluster {line.split(maxsplit=1)[1]}\n")
    assert net.call(f"{ALIAS} HostKeyAlias cluster\n", known_hosts=str(known)).status == 0
    with pytest.raises(RemoteFault, match="unknown host key"):
        net.call(ALIAS, known_hosts=str(known))


@pytest.mark.system
def test_a_proxy_command_carries_the_connection(net: Net) -> None:
    relay = "import socket,sys,threading,os;s=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
    relay += "f=lambda:[s.sendall(d) for d in iter(lambda:os.read(0,65536),b'')];"
    relay += "threading.Thread(target=f,daemon=True).start();"
    relay += "[os.write(1,d) for d in iter(lambda:s.recv(65536),b'')]"
    reply = net.call(f'{ALIAS} ProxyCommand python3 -c "{relay}" %h %p\n')
    assert reply.out.split()[2:] == [net.target.encode(), str(net.ports[net.target]).encode()]


def children() -> set[str]:
    """The processes this one started, also those that ended and were left behind."""
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return {pid for pids in lists for pid in pids}


@pytest.mark.parametrize(
    "command", ["/nonexistent/relay %h", "sh -c 'exit 1'", "sh -c 'echo no; sleep 30'", "sh 'open"]
)
def test_a_proxy_command_that_does_not_work_is_told(tmp_path: Path, command: str) -> None:
    before = children()
    transport = SshTransport(settings(tmp_path, f"ProxyCommand {command}\n", connect_timeout=1.0))
    with pytest.raises(RemoteFault) as caught:
        transport.call(PLACE)
    assert caught.value.kind == "unreachable"
    assert len(str(caught.value).splitlines()) == 1
    assert children() == before
