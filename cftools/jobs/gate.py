"""Printing a server's gate (see `cftools.remote.gate`): every script that cftools sends, and where each may work."""

from __future__ import annotations

from collections.abc import Sequence

from cftools.actions import arrival, remove, sweep, transfer, trash, unlink
from cftools.config import servers
from cftools.config.schema import BulkDeleteTarget, Config
from cftools.config.servers import ServerSettings
from cftools.facts import heartbeat, inventory, presence
from cftools.model.errors import UsageFault
from cftools.remote.gate import WRITING, Gate, Rule, is_plain, render

_ARRIVAL = "root marker part base name number"

RULES = (
    Rule("heartbeat", heartbeat.CHECK, "root..."),
    Rule("inventory", inventory.LISTING, "marker root..."),
    Rule("stat", presence.STAT, "root"),
    Rule("look", presence.GONE, "root marker"),
    Rule("digest", transfer.DIGEST, "file number"),
    Rule("send", transfer.SEND, "file number"),
    Rule("receive", transfer.RECEIVE, "root part base time number"),
    Rule("pull", transfer.PULL, "root part base name number limit number way way way way way way"),
    Rule("prepare", arrival.PREPARE, _ARRIVAL),
    Rule("publish", arrival.PUBLISH, _ARRIVAL),
    Rule("discard", arrival.DISCARD, _ARRIVAL),
    Rule("sweep", sweep.SWEEP, "root number"),
    Rule("unlink", unlink.UNLINK, "root marker number"),
    Rule("remove", remove.REMOVE, "root marker number"),
    Rule("trash", trash.TRASH, "root marker number number number"),
    Rule("restore", trash.RESTORE, "root marker number number"),
    Rule("empty", trash.EMPTY, "root marker number"),
)
_COPYING = frozenset({"receive", "pull", "prepare", "publish", "discard", "sweep"})
_TRASH = frozenset({"trash", "restore", "empty"})
_BULK = _TRASH | {"remove"}


def for_server(config: Config, name: str, *, read_only: bool = False, rsync: bool = False) -> str:
    """The gate of a configured server: what its role and ``distribute.via`` make the manager send, and no more.

    ``read_only`` leaves out what changes anything (a source's gate never has it), ``rsync`` lets destinations fetch
    files (a source's gate does when they pull). Raises UsageFault.
    """
    found = {server.name: server for server in servers.servers(config)}
    if name not in found:
        raise UsageFault(f"--server {name}: not in the config; it has {', '.join(found)}")
    server, pulls = found[name], config.distribute.via == "pull"
    roots = [*server.roots, *_target_roots(config, server)]
    left_out = {"receive"} if pulls else {"pull"}
    if server.role != "source" or pulls:
        left_out.add("send")
    if server.role == "source" or read_only:
        left_out |= WRITING
    if server.role == "server":
        left_out |= _COPYING | {"digest", "unlink", "inventory"}
    targets = _targets(config, server)
    if all(target.trash is None for target in targets):
        left_out |= _TRASH if targets else _BULK
    gate = Gate(
        name,
        roots,
        [rule for rule in RULES if rule.verb not in left_out],
        ways=_ways(config, [*found.values()]) if "pull" not in left_out else (),
        rsync=rsync or (server.role == "source" and pulls),
        agent=config.distribute.forward_agent,
    )
    return _checked(gate, "let the manager carry the files (distribute.via: relay)")


def for_roots(roots: Sequence[str], *, read_only: bool = False, rsync: bool = False) -> str:
    """A gate for these folders that is bound to no config: it knows no sources, so nothing can be pulled.

    Raises UsageFault.
    """
    left_out = {"pull"} | (WRITING if read_only else set())
    for root in roots:
        if not root.startswith("/") or root.endswith("/") or not root.isprintable():
            raise UsageFault(f"--root {root}: write it as an absolute path without a slash at its end")
        if {"", ".", ".."}.intersection(root[1:].split("/")):
            raise UsageFault(f"--root {root}: write it without '.', '..' and doubled slashes")
    gate = Gate(", ".join(roots), roots, [rule for rule in RULES if rule.verb not in left_out], rsync=rsync)
    return _checked(gate, "leave --allow-rsync out")


def _checked(gate: Gate, remedy: str) -> str:
    if not gate.roots:
        raise UsageFault(f"{gate.title} has no folders, so there is nothing to let through")
    hidden = [root for root in gate.roots if gate.rsync and not is_plain(root)]
    if hidden:
        what = f"{hidden[0]}: rsync cannot be held to a folder whose name has more than letters, digits, '.', '_', '-'"
        raise UsageFault(f"{what}; {remedy}")
    return render(gate)


def _ways(config: Config, every: Sequence[ServerSettings]) -> list[tuple[bytes, ...]]:
    sources = (server for server in every if server.role == "source")
    return [transfer.way_to(source, root, config.distribute) for source in sources for root in source.roots]


def _targets(config: Config, server: ServerSettings) -> list[BulkDeleteTarget]:
    """The targets from which files are deleted there on request; a source is nobody's."""
    if server.role == "source":
        return []
    return [target for target in config.bulk_delete.targets.values() if server.name in target.servers]


def _target_roots(config: Config, server: ServerSettings) -> list[str]:
    """The folders of applications from which files are deleted on request."""
    wanted = dict.fromkeys(target.root for target in _targets(config, server))
    return [root for root in wanted if root not in server.roots]
