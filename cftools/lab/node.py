"""The demo node: a folder with the config, the inputs, the keys and the servers' folders of one made-up site.

DIR/cftools.yaml         the config, every path of the manager's own relative to DIR
DIR/lab.json             what `load` gives back: the moment it was made for, servers, files and their parts
DIR/keys/                user key, host keys, known_hosts, and an ssh_config that says nothing
DIR/inputs/              hitcount.history, grade.info, lb_log/EventLog[YYYYmmdd].log (dates in UTC)
DIR/servers/NAME/FOLDER  the roots of the servers
DIR/state/               made by cftools
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import FrameType
from typing import Literal

import msgspec

from cftools.lab import inputs
from cftools.lab.cast import ADVERTISEMENTS, DEAD, FULL, MIN_HITS, SOURCES, CastFile, cast
from cftools.lab.keys import Keys
from cftools.lab.servers import LabServers, free_port, own_name
from cftools.model.errors import UsageFault
from cftools.model.rows import Role

MARKER = ".cftools-root"
RECORD = "lab.json"
CONFIG = "cftools.yaml"
BLOCK = "127.0.0"
# dst1 comes first by number and last as text.
HOSTS = {"src1": 101, "src2": 102, "dst1": 9, "dst2": 112, "dst3": 113, "dst4": 114, "dst5": 115}
FOLDERS = {"source": ("data2", "data3"), "destination": ("data",)}
SHARE_USED = {"dst1": 0.50, "dst2": 0.55, "dst3": 0.45, DEAD: 0.50, FULL: 0.955}

CONFIG_TEXT = """\
# A made-up node on loopback; `cftools lab DIR` runs its servers.
node: demo
state: {{directory: state}}
inputs:
  hitcount_history: inputs/hitcount.history
  grade_info: inputs/grade.info
  event_log_dir: inputs/lb_log
  event_log_timezone: UTC
  max_age: 30d
hot_files: {{served_by: [{watched}], min_hits: {min_hits}, window: 10m}}
ignore: {{prefixes: [{advertisements}]}}
ssh:
  user: {user}
  port: {port}
  identity: keys/id_ed25519
  known_hosts: keys/known_hosts
  config_file: keys/ssh_config
  connect_timeout: 3s
  response_timeout: 30s
heartbeat: {{timeout: 5s}}
sources:
{sources}
destinations:
{destinations}
distribute: {{via: {via}{pull}}}
dedup: {{deletes_per_file: all-but-one}}
evict: {{limit_percent: 90, target_percent: 88, min_residency: 6h}}
guards: {{mount_marker: {marker}}}
"""


class DemoServer(msgspec.Struct, frozen=True):
    """One server of the demo node; ``alive`` is false for the one that is configured and never runs."""

    name: str
    role: Role
    address: str
    port: int
    roots: list[str]
    alive: bool


class DemoFile(msgspec.Struct, frozen=True):
    """One file of the demo node and the part it plays, a phrase for people."""

    name: str
    part: str


class DemoNode(msgspec.Struct, frozen=True):
    """A demo node. ``now`` is the moment its inputs were made for, epoch seconds."""

    folder: str
    now: float
    servers: list[DemoServer]
    files: list[DemoFile]

    @property
    def directory(self) -> Path:
        """The folder of the node."""
        return Path(self.folder)

    @property
    def config(self) -> Path:
        """Its config file."""
        return self.directory / CONFIG

    @property
    def alive(self) -> list[DemoServer]:
        """The servers that are to run."""
        return [server for server in self.servers if server.alive]

    def keys(self) -> Keys:
        """Its keys, for the lab servers."""
        return Keys(self.directory / "keys")

    def start(self, servers: LabServers) -> None:
        """Starts every server that is alive, on the port the config names. Raises Unreachable when one is taken."""
        for server in self.alive:
            servers.start(server.address, server.port, server.name)


def build(
    directory: Path,
    *,
    seed: int = 1,
    now: float | None = None,
    block: str = BLOCK,
    port: int = 0,
    via: Literal["relay", "pull"] = "relay",
) -> DemoNode:
    """Writes a whole node below ``directory``, which must be missing or empty.

    The same ``seed`` and ``now`` (epoch seconds, default: this moment) give the same files and inputs. ``block`` are
    the first three numbers of every address, below 127; ``port`` is the one port of all servers, 0 for a free one.
    Raises UsageFault for a folder that holds something, Unreachable when the addresses cannot be used.
    """
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageFault(
            f"{directory} is not an empty folder; name a new one, or serve it with `cftools lab` if it is a node"
        )
    moment = time.time() if now is None else now
    chosen = port or free_port(_address(block, name) for name in HOSTS)
    node = DemoNode(
        str(directory),
        moment,
        [_server(directory, name, block, chosen) for name in HOSTS],
        [],
    )
    files = cast(seed)
    node = msgspec.structs.replace(node, files=[DemoFile(file.name, file.role) for file in files])
    directory.mkdir(parents=True, exist_ok=True)
    held = _write_files(node, files, seed)
    _write_keys(node)
    inputs.write(directory / "inputs", files, moment, {server.name: server.address for server in node.servers}, seed)
    node.config.write_text(_config(node, held, via))
    (directory / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(node)) + b"\n")
    return node


def load(directory: Path) -> DemoNode:
    """The node that `build` wrote there. Raises UsageFault when there is none."""
    record = directory / RECORD
    try:
        node = msgspec.json.decode(record.read_bytes(), type=DemoNode)
    except FileNotFoundError as fault:
        raise UsageFault(
            f"{directory} holds no demo node ({RECORD} is missing); make one: cftools demo --keep DIR"
        ) from fault
    except (OSError, msgspec.MsgspecError) as fault:
        raise UsageFault(f"{record}: not a demo node's record: {fault}") from fault
    return msgspec.structs.replace(node, folder=str(directory.absolute()))


def serve(directory: Path, ready: Callable[[DemoNode], None]) -> int:
    """Runs the servers of a node until SIGINT or SIGTERM, and returns the signal's number.

    ``ready`` is called when all answer. To be called in the main thread. Raises UsageFault when there is no node,
    Unreachable when a port is taken.
    """
    from cftools.lab.inprocess import InProcessServers  # asyncssh is needed for this alone

    node = load(directory)
    came: list[int] = []
    stop = threading.Event()

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with InProcessServers(node.keys()) as servers:
            node.start(servers)
            ready(node)
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return came[0]


def _address(block: str, name: str) -> str:
    return f"{block}.{HOSTS[name]}"


def _server(directory: Path, name: str, block: str, port: int) -> DemoServer:
    role: Role = "source" if name in SOURCES else "destination"
    roots = [str(directory / "servers" / name / folder) for folder in FOLDERS[role]]
    return DemoServer(name, role, _address(block, name), port, roots, name != DEAD)


def _write_files(node: DemoNode, files: tuple[CastFile, ...], seed: int) -> dict[str, int]:
    """Writes every file on every server that holds it; returns the bytes each server holds."""
    roots = {server.name: [Path(root) for root in server.roots] for server in node.servers}
    for root in (root for several in roots.values() for root in several):
        root.mkdir(parents=True)
        (root / MARKER).touch()
    held = dict.fromkeys(roots, 0)
    for file in files:
        random = Random(f"{seed} {file.name}")
        content = random.randbytes(max(file.size, file.source_size))
        for name, size, age in (
            *((source, file.source_size, file.registered_days * 86400) for source in file.sources),
            *((holder, file.size, file.age) for holder in file.holders),
        ):
            path = random.choice(roots[name]) / file.name
            path.write_bytes(content[:size])
            os.utime(path, (node.now - age, node.now - age))
            held[name] += size
    return held


def _write_keys(node: DemoNode) -> None:
    keys = node.keys()
    for server in node.servers:
        keys.trust(server.name, server.address, server.port)
    (keys.directory / "ssh_config").touch()  # so that the user's own never takes part


def _config(node: DemoNode, held: dict[str, int], via: str) -> str:
    lines: dict[str, list[str]] = {"source": [], "destination": []}
    for server in node.servers:
        head = f"  - {{name: {server.name}, address: {server.address}, "
        if server.role == "source":
            lines["source"].append(f"{head}roots: [{', '.join(_quoted(root) for root in server.roots)}]}}")
        else:
            capacity = round(held[server.name] / SHARE_USED[server.name])
            lines["destination"].append(f"{head}root: {_quoted(server.roots[0])}, capacity: {capacity}B}}")
    keys = node.directory / "keys"
    identity, known_hosts = _quoted(str(keys / "id_ed25519")), _quoted(str(keys / "known_hosts"))
    return CONFIG_TEXT.format(
        watched=node.servers[0].address,
        min_hits=MIN_HITS,
        advertisements=", ".join(ADVERTISEMENTS),
        user=_quoted(own_name()),
        port=node.servers[0].port,
        sources="\n".join(lines["source"]),
        destinations="\n".join(lines["destination"]),
        via=via,
        pull=f", pull_identity: {identity}, pull_known_hosts: {known_hosts}" if via == "pull" else "",
        marker=MARKER,
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
