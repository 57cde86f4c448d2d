"""Servers whose keys are bound to the gate: cftools does all it does, and a stolen key runs nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import paramiko
import pytest
from site_of_sshd import CONTENT, MakeSite, Site, kinds, outcomes

from cftools.config.load import load
from cftools.jobs.gate import for_server
from cftools.lab.keys import make_pair, public_line
from cftools.lab.servers import own_name
from cftools.lab.sshd import Shape

pytestmark = pytest.mark.system

REFUSED = 77
NAMES = ["best.mpg", "sub dir/two words.mpg", "-q'uo\"te$(id)드.mpg"]


def key(site: Site, name: str) -> Path:
    """A private key of the site; `manager` is the one of its config."""
    path = site.keys.identity if name == "manager" else site.keys.directory / name
    make_pair(path, name)
    return path


def bind(site: Site) -> None:
    """Gives every server its gate: for the manager's key, and on sources for the one with which destinations pull.
    A third key, `free`, is bound to nothing."""
    config = load(site.folder / "cftools.yaml")
    for server in site.names:
        folder = site.folder / "gates" / server
        folder.mkdir(parents=True, exist_ok=True)
        gate = folder / "cftools-gate"
        gate.write_text(for_server(config, server))
        gate.chmod(0o755)
        lines = [f'command="{gate}",restrict {public_line(key(site, "manager"))}', public_line(key(site, "free"))]
        if server in site.sources:
            lines.append(f'command="{gate} rsync",restrict {public_line(key(site, "pull"))}')
        (folder / "authorized_keys").write_text("\n".join(lines) + "\n")
        site.servers.shapes[server] = Shape(authorized_keys=folder / "authorized_keys")


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A node of one source and two destinations that is not started, bound for pulling."""
    site = make_site(destinations=2)
    site.server_keys = {"dest1": {"capacity": "950B"}, "dest2": {"capacity": "10000B"}}
    configure(site, "pull")
    return site


def configure(site: Site, via: str) -> None:
    """Writes the config of a restricted node and binds its servers to it."""
    distribute = {"via": via, "checksum": True, "pull_identity": str(key(site, "pull"))}
    site.configure(ssh={"restricted": True}, distribute=distribute)
    bind(site)


@pytest.mark.parametrize("via", ["pull", "relay"])
def test_every_command_works_on_restricted_servers(site: Site, via: str) -> None:
    configure(site, via)
    for name in NAMES:
        site.put(name, "src1")
    site.put("dup.mpg", "src1", "dest1", "dest2")
    low = [f"low{number}.mpg" for number in range(9)]
    for name in low:
        site.put(name, "src1", "dest1")
    site.write_inputs(
        {"dup.mpg": ["dest1", "dest2"], **{name: [] for name in NAMES}, **{name: ["dest1"] for name in low}}
    )
    site.start()
    assert [row["ok"] for row in kinds(site.run("heartbeat"), "heartbeat")] == [True] * 3
    assert [row["files"] for row in kinds(site.run("inventory"), "server")] == [13, 10, 1]
    assert outcomes(site.run("dedup", "--apply")) == [("dest1", "dup.mpg", "done")]
    copied = outcomes(site.run("distribute"))
    assert sorted(copied) == sorted(("dest2", name, "done") for name in NAMES)
    for name in NAMES:
        assert (site.root("dest2") / name).read_bytes() == CONTENT
    assert outcomes(site.run("evict", "--apply")) == [("dest1", "low8.mpg", "done")]
    assert list(site.root("dest2").glob(".cftools*")) == []


def client(site: Site, program: str, name: str, server: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Runs an OpenSSH client with a key of the site; ``@`` in ``words`` stands for the server."""
    port = "-p" if program == "ssh" else "-P"
    options = [f"-i{key(site, name)}", "-oIdentitiesOnly=yes", "-oBatchMode=yes", f"{port}{site.port}", "-F/dev/null"]
    options.append(f"-oUserKnownHostsFile={site.keys.known_hosts}")
    place = f"{own_name()}@{(site.sources | site.destinations)[server]}"
    command = [program, *options, *(word.replace("@", place) for word in words)]
    return subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)


def test_a_stolen_manager_key_runs_no_command_and_moves_no_file(site: Site) -> None:
    site.start()
    secret = site.folder / "secret"
    secret.write_text("secret")
    fetched = site.folder / "fetched"
    assert client(site, "ssh", "manager", "src1", "@", "id").returncode == REFUSED
    victim = site.root("dest1") / "victim"
    tried: list[tuple[str, list[str]]] = [
        ("ssh", ["-T", "@"]),
        ("ssh", ["-tt", "@"]),
        ("ssh", ["@", "id"]),
        ("ssh", ["@", "sh -c id"]),
        ("ssh", ["@", f"touch {victim}"]),
        ("ssh", ["@", f"cftools-gate heartbeat; touch {victim}"]),
        ("ssh", ["@", f"cat {secret}"]),
        ("ssh", ["-s", "@", "sftp"]),
        ("ssh", ["@", "internal-sftp"]),
        ("sftp", [f"@:{secret}", str(fetched)]),
        ("scp", [f"@:{secret}", str(fetched)]),
        ("scp", ["-O", f"@:{secret}", str(fetched)]),
        ("scp", [str(secret), f"@:{victim}"]),
        ("scp", ["-O", str(secret), f"@:{victim}"]),
    ]
    for program, words in tried:
        done = client(site, program, "manager", "dest1", *words)
        assert done.returncode != 0, words
        # With -tt some versions of ssh end with 255 because they got no terminal.
        assert program != "ssh" or done.returncode in (REFUSED, 255 if "-tt" in words else REFUSED), (words, done)
        assert done.stdout == b"", words
        assert not victim.exists(), words
        assert not fetched.exists(), words
    # What was tried would do harm with a key that is not bound.
    assert b"uid=" in client(site, "ssh", "free", "dest1", "@", "sh -c id").stdout
    assert client(site, "scp", "free", "dest1", str(secret), f"@:{victim}").returncode == 0
    assert client(site, "sftp", "free", "dest1", f"@:{secret}", str(fetched)).returncode == 0
    fetched.unlink()


def connected(site: Site, name: str, server: str) -> paramiko.SSHClient:
    found = paramiko.SSHClient()
    found.load_host_keys(str(site.keys.known_hosts))
    address = (site.sources | site.destinations)[server]
    found.connect(
        address,
        site.port,
        own_name(),
        pkey=paramiko.PKey.from_path(key(site, name)),
        allow_agent=False,
        look_for_keys=False,
    )
    return found


@pytest.mark.parametrize("name", ["manager", "pull", "free"])
def test_a_bound_key_forwards_no_port_and_no_agent_and_gets_no_terminal(site: Site, name: str) -> None:
    site.start()
    bound = name != "free"
    with connected(site, name, "src1") as found:
        transport = found.get_transport()
        assert transport
        for refused in (
            lambda: transport.open_channel("direct-tcpip", (site.sources["src1"], site.port), ("127.0.0.1", 0)).close(),
            lambda: transport.request_port_forward("127.0.0.1", 0),
            lambda: transport.open_session().get_pty(),
        ):
            if bound:
                with pytest.raises(paramiko.SSHException):
                    refused()
            else:
                refused()


def test_a_stolen_key_of_a_destination_fetches_files_of_the_sources_roots_alone(make_site: MakeSite) -> None:
    site = make_site(destinations=1)
    configure(site, "pull")
    site.put("a.mpg", "src1")
    secret = site.root("src1").parent / "secret"
    secret.write_text("secret")
    site.start()
    root = site.root("src1")
    shell = f"ssh -i{key(site, 'pull')} -oIdentitiesOnly=yes -p{site.port} -F/dev/null"
    shell += f" -oUserKnownHostsFile={site.keys.known_hosts} -oBatchMode=yes"
    here = site.folder / "here"
    here.mkdir()

    def rsync(*words: str, names: str) -> int:
        place = f"{own_name()}@{site.sources['src1']}:"
        command = ["rsync", "-e", shell, *(word.replace("@", place) for word in words)]
        done = subprocess.run(command, input=names.encode(), capture_output=True, timeout=30, check=False)
        return done.returncode

    fetch = ["--no-s", "--files-from=-", "--from0", "--no-relative", "--times"]
    assert rsync(*fetch, f"@{root}/", f"{here}/", names="./a.mpg\0") == 0
    assert [path.name for path in here.iterdir()] == ["a.mpg"]
    for names in ("../secret\0", "./../secret\0", f"{secret}\0", "x/../../secret\0"):
        assert rsync(*fetch, f"@{root}/", f"{here}/", names=names) != 0
    for words in (
        [*fetch, f"@{root.parent}/", f"{here}/"],
        [*fetch, "--remove-source-files", f"@{root}/", f"{here}/"],
        ["--no-s", "--times", f"@{secret}", f"{here}/"],
        ["-s", "--times", f"@{secret}", f"{here}/"],
        ["-s", "-a", "@/", f"{here}/"],
        ["--no-s", "--times", str(here / "a.mpg"), f"@{root}/b.mpg"],
        ["--no-s", "--rsync-path=id;rsync", "--times", f"@{root}/a.mpg", f"{here}/"],
    ):
        assert rsync(*words, names="./secret\0") != 0, words
    assert client(site, "ssh", "pull", "src1", "@", "id").returncode == REFUSED
    assert [path.name for path in here.iterdir()] == ["a.mpg"]
    assert [path.name for path in root.iterdir()] == ["a.mpg"]
    # The same key is not bound to the manager's scripts, and on a destination it opens nothing at all.
    site.configure(ssh={"restricted": True, "identity": str(key(site, "pull"))})
    errors = {row["server"]: row["error"] for row in kinds(site.run("heartbeat", expect=69), "heartbeat")}
    assert errors["src1"] == "cftools-gate: refused: this key may not run scripts"
    assert errors["dest1"].startswith("login refused")


def test_a_manager_that_does_not_know_of_the_gate_is_told_so(site: Site) -> None:
    site.start()
    site.configure(ssh={"restricted": False})
    for row in kinds(site.run("heartbeat", expect=69), "heartbeat"):
        assert "restricted: true" in row["error"]


def test_an_old_gate_refuses_and_nothing_is_deleted_on_its_word(site: Site) -> None:
    site.put("a.mpg", "src1", "dest1", "dest2")
    site.write_inputs({"a.mpg": ["dest1", "dest2"]})
    gate = site.folder / "gates" / "dest2" / "cftools-gate"
    gate.write_text(gate.read_text().replace("digest=", "digest=0"))
    site.start()
    assert outcomes(site.run("dedup", "--apply")) == []
    (row,) = (row for row in kinds(site.run("inventory", expect=1), "server") if row["server"] == "dest2")
    assert (row["state"], "another version of cftools" in row["error"]) == ("incomplete", True)
    assert site.holders("a.mpg") == ["src1", "dest1", "dest2"]
