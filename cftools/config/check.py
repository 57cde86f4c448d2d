"""Rules between keys of the config: what each key alone cannot tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cftools.config.schema import BulkDeleteTarget, Config, DestinationEntry, ServerEntry, SourceEntry
from cftools.config.units import quoted, show_duration

Entry = SourceEntry | DestinationEntry | ServerEntry
Machine = tuple[str, int]
STORAGE_SCHEMES = ("s3", "gs", "az")


class Finding(NamedTuple):
    """A rule that does not hold. ``keys`` are the keys it looked at; the first is the one to mend."""

    keys: tuple[str, ...]
    what: str


def findings(config: Config) -> Iterator[Finding]:
    """Every rule that does not hold in ``config``."""
    entries = _entries(config)
    yield from _names(entries)
    yield from _addresses(config)
    yield from _repeated_sources(config)
    yield from _overlaps(entries, config)
    yield from _limits(config)
    yield from _targets(config, entries)


def _entries(config: Config) -> list[tuple[str, Entry]]:
    """Every server's entry with its key."""
    groups: tuple[tuple[str, list[Entry]], ...] = (
        ("sources", [*config.sources]),
        ("destinations", [*config.destinations]),
        ("servers", [*config.servers]),
    )
    return [(f"{group}[{index}]", entry) for group, entries in groups for index, entry in enumerate(entries)]


def _names(entries: list[tuple[str, Entry]]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for key, entry in entries:
        owner = first.setdefault(entry.name, key)
        if owner != key:
            yield Finding((f"{key}.name", f"{owner}.name"), f"{quoted(entry.name)} is the name of {owner} already")


def _addresses(config: Config) -> Iterator[Finding]:
    """Destinations are told apart by their addresses, in the history and in the order of deletion."""
    first: dict[str, str] = {}
    for index, entry in enumerate(config.destinations):
        key = f"destinations[{index}]"
        owner = first.setdefault(entry.address, key)
        if owner != key:
            keys = (f"{key}.address", f"{owner}.address")
            yield Finding(keys, f"{entry.address} is the address of {owner} already")


def _repeated_sources(config: Config) -> Iterator[Finding]:
    first: dict[Machine, str] = {}
    for index, entry in enumerate(config.sources):
        key = f"sources[{index}]"
        owner = first.setdefault(_machine(entry, config), key)
        if owner != key:
            what = f"{entry.address} is the server of {owner} already; list all its roots there"
            yield Finding((f"{key}.address", *_machine_keys(key), *_machine_keys(owner)), what)


def _overlaps(entries: list[tuple[str, Entry]], config: Config) -> Iterator[Finding]:
    """Folders of one server that lie in one another: a deletion in one would be a deletion in the other."""
    known: dict[Machine, list[tuple[str, str, str]]] = {}
    for key, entry in entries:
        others = known.setdefault(_machine(entry, config), [])
        for root_key, root in _roots(key, entry):
            for owner, other_key, other in others:
                if f"{root}/".startswith(f"{other}/") or f"{other}/".startswith(f"{root}/"):
                    machines = () if owner == key else (*_machine_keys(key), *_machine_keys(owner))
                    keys = (root_key, other_key, *machines)
                    yield Finding(keys, f"{quoted(root)} and {quoted(other)} of {other_key} overlap on {entry.address}")
            others.append((key, root_key, root))


def _machine(entry: Entry, config: Config) -> Machine:
    """What tells servers apart: several may stand behind one address on ports of their own."""
    return entry.address, (config.ssh.port if entry.port is None else entry.port) or 22


def _machine_keys(key: str) -> tuple[str, ...]:
    return f"{key}.address", f"{key}.port", "ssh.port"


def _roots(key: str, entry: Entry) -> list[tuple[str, str]]:
    if isinstance(entry, SourceEntry):
        return [(f"{key}.roots[{index}]", root) for index, root in enumerate(entry.roots)]
    return [(f"{key}.root", entry.root)] if isinstance(entry, DestinationEntry) else []


def _limits(config: Config) -> Iterator[Finding]:
    evict, distribute = config.evict, config.distribute
    if evict.target_percent > evict.limit_percent:
        keys = ("evict.target_percent", "evict.limit_percent")
        yield Finding(keys, f"{evict.target_percent}% is above limit_percent ({evict.limit_percent}%)")
    if distribute.cooldown_limit < distribute.cooldown:
        keys = ("distribute.cooldown_limit", "distribute.cooldown")
        limit, first = show_duration(distribute.cooldown_limit), show_duration(distribute.cooldown)
        yield Finding(keys, f"{limit} is shorter than cooldown ({first})")
    bulk = config.bulk_delete
    if bulk.retry_delay_limit < bulk.retry_delay:
        keys = ("bulk_delete.retry_delay_limit", "bulk_delete.retry_delay")
        limit, first = show_duration(bulk.retry_delay_limit), show_duration(bulk.retry_delay)
        yield Finding(keys, f"{limit} is shorter than retry_delay ({first})")


def _targets(config: Config, entries: list[tuple[str, Entry]]) -> Iterator[Finding]:
    """Servers of targets. Without any ``servers`` an undeclared name is a host name; with them it is a slip."""
    known = {entry.name for _, entry in entries}
    for name, target in config.bulk_delete.targets.items():
        yield from _place(f"bulk_delete.targets.{name}", target)
        seen: set[str] = set()
        for index, server in enumerate(target.servers):
            key = f"bulk_delete.targets.{name}.servers[{index}]"
            if config.servers and server not in known:
                keys = (key, "sources", "destinations", "servers")
                yield Finding(keys, f"{quoted(server)} is the name of no server; declare it under servers")
            elif server in seen:
                yield Finding((key,), f"{quoted(server)} is listed twice")
            seen.add(server)
        if target.root:
            yield from _above(f"bulk_delete.targets.{name}", target, entries)


def _above(key: str, target: BulkDeleteTarget, entries: list[tuple[str, Entry]]) -> Iterator[Finding]:
    """A target whose folder holds a whole root of the node would delete files of which the node's other jobs believe
    that nobody else does. One inside a root they know."""
    for entry_key, entry in entries:
        for root_key, root in _roots(entry_key, entry) if entry.name in target.servers else []:
            if root.startswith(f"{target.root}/"):
                what = f"{quoted(target.root)} holds {quoted(root)} of {entry.name}; name that folder, or one beside it"
                yield Finding((f"{key}.root", root_key), what)


def _place(key: str, target: BulkDeleteTarget) -> Iterator[Finding]:
    """A target lies either below a folder of servers, or in object storage."""
    if target.url:
        scheme, separator, rest = target.url.partition("://")
        if target.servers or target.root:
            yield Finding((f"{key}.url", f"{key}.servers", f"{key}.root"), "give either url, or servers and root")
        elif not separator or scheme not in STORAGE_SCHEMES or not rest.split("/")[0]:
            what = f"{quoted(target.url)}: write it as s3://bucket/prefix ({', '.join(STORAGE_SCHEMES)})"
            yield Finding((f"{key}.url",), what)
        elif target.trash is not None:
            yield Finding((f"{key}.trash",), "object storage has no trash folder; use the versions of the bucket")
    elif not target.servers or not target.root:
        yield Finding((key,), "give servers and root, or url for object storage")
