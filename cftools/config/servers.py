"""The servers of a node, each with all it takes to reach it."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from cftools.config.schema import Config, DestinationEntry, ServerEntry, SourceEntry
from cftools.model.addresses import address_key

Value = TypeVar("Value")


class ServerSettings(msgspec.Struct, frozen=True):
    """One server: its entry in the config, completed from the ``ssh`` section.

    ``roots`` are absolute folders without a slash at the end (none for a server that is neither source nor
    destination), ``capacity`` bytes or None for what df says, the timeouts seconds. An empty ``user``
    or ``identity``, or port 0, leaves it to ssh_config. ``restricted``: its account runs cftools' gate.
    """

    name: str
    role: Literal["source", "destination", "server"]
    address: str
    roots: tuple[str, ...] = ()
    capacity: float | None = None
    user: str = ""
    port: int = 0
    identity: str = ""
    known_hosts: str = ""
    config_file: str = ""
    connect_timeout: float = 5.0
    response_timeout: float = 60.0
    sessions: int = 8
    restricted: bool = False


def servers(config: Config) -> list[ServerSettings]:
    """Every server: the sources, then the destinations in numeric order of their addresses, then the others.

    A server that only a bulk-delete target names comes last, with its name as its address.
    """
    destinations = sorted(config.destinations, key=lambda entry: address_key(entry.address))
    entries: list[SourceEntry | DestinationEntry | ServerEntry] = [*config.sources, *destinations, *config.servers]
    declared = {entry.name for entry in entries}
    named = (server for target in config.bulk_delete.targets.values() for server in target.servers)
    entries += [ServerEntry(name=name, address=name) for name in dict.fromkeys(named) if name not in declared]
    return [settings_of(entry, config) for entry in entries]


def settings_of(entry: SourceEntry | DestinationEntry | ServerEntry, config: Config) -> ServerSettings:
    """The settings of one server: what its entry says, else what the ``ssh`` section says."""
    ssh = config.ssh
    role: Literal["source", "destination", "server"] = "server"
    roots: tuple[str, ...] = ()
    capacity = None
    if isinstance(entry, SourceEntry):
        role, roots = "source", tuple(entry.roots)
    elif isinstance(entry, DestinationEntry):
        role, roots, capacity = "destination", (entry.root,), entry.capacity
    return ServerSettings(
        name=entry.name,
        role=role,
        address=entry.address,
        roots=roots,
        capacity=capacity,
        user=_or(entry.user, ssh.user),
        port=_or(entry.port, ssh.port),
        identity=_or(entry.identity, ssh.identity),
        known_hosts=_or(entry.known_hosts, ssh.known_hosts),
        config_file=ssh.config_file,
        connect_timeout=_or(entry.connect_timeout, ssh.connect_timeout),
        response_timeout=_or(entry.response_timeout, ssh.response_timeout),
        sessions=_or(entry.sessions, ssh.sessions),
        restricted=_or(entry.restricted, ssh.restricted),
    )


def _or(own: Value | None, common: Value) -> Value:
    return common if own is None else own
