"""The demo node: what is written, and that its story holds whatever the seed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from cftools.lab import node as nodes
from cftools.lab.cast import ADVERTISEMENTS, DEAD, FULL, MIN_HITS, CastFile, cast
from cftools.lab.inprocess import InProcessServers
from cftools.lab.node import DemoNode
from cftools.model.addresses import address_key
from cftools.model.errors import Unreachable, UsageFault

BLOCK = "127.0.42"
MIDNIGHT = 1_700_006_400.0
NOON = MIDNIGHT + 43_200
HIT = re.compile(r"0x40ffff,1,(\d+),Server (\S+) Selected for .*'s file\(([^)]*)\) Request")


@pytest.fixture
def node(tmp_path: Path) -> DemoNode:
    return nodes.build(tmp_path / "node", now=NOON, block=BLOCK)


def contents(directory: Path) -> dict[str, bytes]:
    skipped = {"keys", "cftools.yaml", "lab.json"}
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).parts[0] not in skipped
    }


def used_percent(node: DemoNode) -> dict[str, float]:
    config = yaml.safe_load(node.config.read_text())
    return {
        entry["name"]: 100 * held(Path(entry["root"])) / int(entry["capacity"].removesuffix("B"))
        for entry in config["destinations"]
    }


def held(root: Path) -> int:
    return sum(path.stat().st_size for path in root.iterdir())


def hot_names(node: DemoNode, now: float) -> Counter[str]:
    """A plain count of the last ten minutes' hits, by the log's own words."""
    hits: Counter[str] = Counter()
    for log in (node.directory / "inputs" / "lb_log").iterdir():
        for second, server, name in HIT.findall(log.read_text()):
            if now - 600 <= int(second) <= now and server == node.servers[0].address:
                hits[name] += 1
    return Counter({name: count for name, count in hits.items() if count >= MIN_HITS})


def test_the_same_seed_and_moment_write_the_same_files(tmp_path: Path, node: DemoNode) -> None:
    again = nodes.build(tmp_path / "again", now=NOON, block=BLOCK)
    other = nodes.build(tmp_path / "other", now=NOON, block=BLOCK, seed=2)
    assert contents(again.directory) == contents(node.directory)
    assert contents(other.directory) != contents(node.directory)


def test_the_node_is_small_and_quickly_made(tmp_path: Path) -> None:
    started = time.process_time()
    node = nodes.build(tmp_path / "node", block=BLOCK)
    assert time.process_time() - started < 2
    assert 60 <= len(node.files) <= 80
    assert sum(map(len, contents(node.directory).values())) < 40_000_000


def test_history_sizes_and_ranks_are_those_of_the_files(node: DemoNode) -> None:
    files = {file.name: file for file in cast(1)}
    lines = (node.directory / "inputs" / "hitcount.history").read_text().splitlines(keepends=True)
    assert lines[0] == f"historyheader:{int(NOON) - 60}\n"
    assert lines[-1].endswith("\n")
    sizes = {fields[0]: int(fields[3]) for line in lines[1:] if len(fields := line.split(",")) >= 5}
    assert sizes == {file.name: file.size for file in files.values() if file.rank}
    graded = (node.directory / "inputs" / "grade.info").read_text().splitlines()[1:]
    ranks = {line.split("\t")[0]: rank for rank, line in enumerate(filter(None, graded), 1)}
    assert ranks == {file.name: file.rank for file in files.values() if file.rank}
    for server in node.servers:
        for root in server.roots:
            for path in Path(root).iterdir():
                if path.name != nodes.MARKER:
                    file = files[path.name]
                    assert path.stat().st_size == (file.source_size if server.role == "source" else file.size)


def test_every_root_has_its_marker_and_every_source_both_roots_in_use(node: DemoNode) -> None:
    for server in node.servers:
        for root in map(Path, server.roots):
            assert (root / nodes.MARKER).exists()
            assert len(list(root.iterdir())) > 5
    assert [len(server.roots) for server in node.servers] == [2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(1, 9))
def test_the_story_holds_for_every_seed(tmp_path: Path, seed: int) -> None:
    node = nodes.build(tmp_path / "node", seed=seed, now=NOON, block=BLOCK)
    used = used_percent(node)
    assert 95 < used[FULL] < 96
    assert max(percent for name, percent in used.items() if name != FULL) < 60
    files = cast(seed)
    assert len({file.name for file in files}) == len(files)
    low = [file for file in files if file.role == "ranks low on the full destination"]
    # Enough may go to reach the target, and it is less than the guard's ten.
    capacity = held(Path(node.servers[-1].roots[0])) / used[FULL] * 100
    assert sum(file.size for file in low) > (used[FULL] - 88) / 100 * capacity
    assert len(low) < 10
    # What stays for a reason of its own ranks below all that goes, so each reason is met before the target is.
    stays = [file for file in files if FULL in file.holders and file.role.startswith("ranks lowest")]
    assert len(stays) == 4
    assert min(file.rank for file in stays) > max(file.rank for file in low)
    assert_fits(node, files, used)


def assert_fits(node: DemoNode, files: tuple[CastFile, ...], used: dict[str, float]) -> None:
    """The wanted files fit, the one that is too large fits nowhere, even with all duplicates gone."""
    free, freed = {}, Counter[str]()
    for file in files:
        for name in file.holders[:-1]:
            freed[name] += file.size
    for server in node.alive:
        if server.role == "destination" and server.name != FULL:
            bytes_held = held(Path(server.roots[0]))
            free[server.name] = bytes_held / used[server.name] * 88 - bytes_held
    large = max(file.size for file in files)
    assert all(free[name] + freed[name] < large for name in free)
    wanted = [file for file in files if file.rank and not file.told and file.sources and file.size != large]
    assert sum(file.size for file in wanted) < sum(free.values()) - len(free) * 300_000


@pytest.mark.parametrize("after_midnight", [43_200, 120, 1])
def test_hot_files_are_those_of_the_cast_at_noon_and_just_after_midnight(tmp_path: Path, after_midnight: int) -> None:
    now = MIDNIGHT + after_midnight
    node = nodes.build(tmp_path / "node", now=now, block=BLOCK)
    wanted = {file.name: file.hits for file in cast(1) if file.hits >= MIN_HITS}
    assert hot_names(node, now) == wanted
    assert hot_names(node, now + 240) == wanted  # a cycle that begins late still sees them
    assert {name for name in wanted if name.startswith(ADVERTISEMENTS)}
    assert {name for name in wanted if "-" in name}
    days = [f"EventLog[{datetime.fromtimestamp(now - back, UTC):%Y%m%d}].log" for back in (0, 86400)]
    assert {path.name for path in (node.directory / "inputs" / "lb_log").iterdir()} == set(days)


def test_log_lines_are_in_time_order_and_in_the_file_of_their_day(node: DemoNode) -> None:
    for path in (node.directory / "inputs" / "lb_log").iterdir():
        seconds = [int(line.split(",")[2]) for line in path.read_text().splitlines() if line != ","]
        assert seconds == sorted(seconds)
        assert {f"EventLog[{datetime.fromtimestamp(second, UTC):%Y%m%d}].log" for second in seconds} == {path.name}


def test_some_addresses_sort_otherwise_as_text(node: DemoNode) -> None:
    addresses = [server.address for server in node.servers if server.role == "destination"]
    assert addresses == sorted(addresses, key=address_key)
    assert addresses != sorted(addresses)


def test_the_config_names_every_server_and_its_port_is_free_on_all(node: DemoNode) -> None:
    config = yaml.safe_load(node.config.read_text())
    assert [entry["name"] for entry in config["sources"] + config["destinations"]] == [one.name for one in node.servers]
    assert {server.port for server in node.servers} == {config["ssh"]["port"]}
    for server in node.servers:
        socket.create_server((server.address, server.port)).close()
    assert (node.directory / config["ssh"]["config_file"]).read_bytes() == b""
    known = (node.directory / config["ssh"]["known_hosts"]).read_text()
    assert all(f"[{server.address}]:{server.port} ssh-ed25519 " in known for server in node.servers)


def test_pull_gets_the_key_and_known_hosts_of_the_destination(tmp_path: Path) -> None:
    node = nodes.build(tmp_path / "it's a node", block=BLOCK, via="pull")
    distribute = yaml.safe_load(node.config.read_text())["distribute"]
    keys = node.keys()
    assert distribute == {
        "via": "pull",
        "pull_identity": str(keys.identity),
        "pull_known_hosts": str(keys.known_hosts),
    }


def test_a_folder_that_holds_something_is_left_alone(node: DemoNode) -> None:
    before = contents(node.directory)
    with pytest.raises(UsageFault, match="not an empty folder"):
        nodes.build(node.directory, block=BLOCK)
    assert contents(node.directory) == before


def test_a_built_node_is_loaded_as_it_was(node: DemoNode, tmp_path: Path) -> None:
    assert nodes.load(node.directory) == node
    with pytest.raises(UsageFault, match="holds no demo node"):
        nodes.load(tmp_path)
    (tmp_path / "lab.json").write_text("{}")
    with pytest.raises(UsageFault, match="not a demo node's record"):
        nodes.load(tmp_path)


def test_all_but_the_dead_server_answer_once_started(node: DemoNode) -> None:
    with InProcessServers(node.keys()) as servers:
        node.start(servers)
        for server in node.servers:
            if server.name == DEAD:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((server.address, server.port), timeout=5)
            else:
                with socket.create_connection((server.address, server.port), timeout=5) as probe:
                    assert probe.recv(4) == b"SSH-"


SERVE = (
    "import sys; from pathlib import Path; from cftools.lab import node; "
    "sys.exit(node.serve(Path(sys.argv[1]), lambda _node: print('ready', flush=True)))"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_runs_the_servers_until_a_signal(node: DemoNode, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVE, str(node.directory)]
    here = Path(nodes.__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            server = node.servers[0]
            with socket.create_connection((server.address, server.port), timeout=5) as probe:
                assert probe.recv(4) == b"SSH-"
            os.kill(process.pid, number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (number, b"", b"")


def test_serving_on_a_taken_port_says_so(node: DemoNode) -> None:
    server = node.servers[3]
    before = signal.getsignal(signal.SIGTERM)
    with (
        socket.create_server((server.address, server.port)),
        pytest.raises(Unreachable, match=f"{server.port} is taken by another process"),
    ):
        nodes.serve(node.directory, lambda _node: pytest.fail("it served"))
    assert signal.getsignal(signal.SIGTERM) == before
