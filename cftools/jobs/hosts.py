"""`hosts scan`: the host keys of all servers, compared with known_hosts and learned when that is asked for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cftools import __version__
from cftools.config.schema import Config
from cftools.config.servers import ServerSettings, servers
from cftools.model import rows
from cftools.model.errors import Unreachable, UsageFault
from cftools.remote import trust
from cftools.remote.host_keys import CoveredByPattern, HostKey, KnownHosts
from cftools.remote.route import Stop, Way, offered_key, path_of
from cftools.remote.transport import RemoteFault

COMMAND = "hosts scan"


class Options(NamedTuple):
    """``only``: names of servers, none for all. ``add``: learn new keys. ``replace``: also let them take the place of
    other keys of the same host."""

    only: tuple[str, ...] = ()
    add: bool = False
    replace: bool = False


class _Target(NamedTuple):
    """A host whose key is looked at. ``fault``: why there is no way to it."""

    label: str
    address: str
    port: int
    path: list[Stop]
    fault: str = ""


class _Found(NamedTuple):
    """What a host showed, or why it showed nothing."""

    key: HostKey | None
    fault: str = ""


def scan(config: Config, options: Options) -> Generator[rows.Row, None, None]:
    """A `host_key` row for each server, and for each jump host on the way to one.

    Raises UsageFault for an unknown server, or when something is to be replaced and nothing to be added; Unreachable,
    after the rows, when not one server answered.
    """
    if options.replace and not options.add:
        raise UsageFault("--replace writes nothing by itself; give --add with it")
    targets = _targets(_chosen(config, options.only))
    yield rows.Begin(COMMAND, __version__, time.time())
    found: dict[int, rows.HostKey] = {}
    # Jump hosts first: the key of one must be known, and may be learned here, before the way leads over it.
    for depth in sorted({len(target.path) for target in targets}):
        wave = [number for number, target in enumerate(targets) if len(target.path) == depth]
        looked = _look([targets[number] for number in wave], config.ssh.parallel)
        found |= {number: _row(targets[number], one, options) for number, one in zip(wave, looked, strict=True)}
    for number in range(len(targets)):
        yield found[number]
    states = Counter[str](row.state for row in found.values())
    yield rows.End(COMMAND, True, {"host_key": len(found), **states})
    if states["unreachable"] == len(found):
        raise Unreachable("no server answered")


def _chosen(config: Config, only: tuple[str, ...]) -> list[ServerSettings]:
    known = servers(config)
    unknown = sorted(set(only) - {server.name for server in known})
    if unknown:
        names = ", ".join(server.name for server in known)
        raise UsageFault(f"no server {unknown[0]!r} in the config; there are: {names}")
    return [server for server in known if not only or server.name in only]


def _targets(wanted: list[ServerSettings]) -> list[_Target]:
    """The servers, each after the jump hosts on its way that were not named before."""
    targets: list[_Target] = []
    jump_hosts: set[tuple[str, str]] = set()
    for settings in wanted:
        try:
            path = path_of(settings)
        except RemoteFault as fault:
            targets.append(_Target(settings.name, settings.address, settings.port, [], fault.detail))
            continue
        for count, stop in enumerate(path, 1):
            place = (stop.settings.known_hosts, stop.name)
            if not stop.jump or place not in jump_hosts:
                label = stop.jump or settings.name
                targets.append(_Target(label, stop.route["hostname"], stop.route["port"], path[:count]))
            if stop.jump:
                jump_hosts.add(place)
    return targets


def _look(targets: list[_Target], parallel: int) -> list[_Found]:
    """Asks these hosts for their keys, side by side."""
    ways = Way()

    def look(target: _Target) -> _Found:
        if not target.path:
            return _Found(None, target.fault)
        way = Way()
        try:
            ways.keep(way.close)
            return _Found(offered_key(target.path, way, target.path[-1].settings.connect_timeout))
        except RemoteFault as fault:
            return _Found(None, fault.detail)
        except EOFError:
            return _Found(None, "the run ended before it was begun")
        finally:
            way.close()

    with ThreadPoolExecutor(min(parallel, len(targets)), thread_name_prefix="scan") as pool:
        try:
            return list(pool.map(look, targets))
        except BaseException:
            ways.close()  # a signal must not wait for the slowest server
            raise


def _row(target: _Target, found: _Found, options: Options) -> rows.HostKey:
    if found.key is None:
        return rows.HostKey(target.label, target.address, target.port, "", "", "unreachable", found.fault)
    state, error = _judged(target.path[-1], found.key, options)
    return rows.HostKey(target.label, target.address, target.port, found.key.kind, found.key.fingerprint, state, error)


def _judged(stop: Stop, key: HostKey, options: Options) -> tuple[rows.HostKeyState, str]:
    """What known_hosts says to the key after the options had their way, and what to do about it."""
    path = Path(stop.settings.known_hosts)
    state: rows.HostKeyState = "unreachable"
    try:
        verdict = KnownHosts.read(path).judge(stop.name, key)
        state = verdict.state
        if options.add and state in ("new", "changed"):
            state = trust.learn(path, stop.name, key, replace=options.replace)
    except OSError as fault:
        return state, f"{path}: {fault.strerror}"
    except CoveredByPattern as fault:
        return state, f"{path}:{fault.number} covers other hosts, too; edit it by hand"
    place = f"{path}:{verdict.line}" if verdict.line else str(path)
    said: dict[rows.HostKeyState, str] = {
        "new": f"not in {path}; compare the fingerprint, then: cftools hosts scan --add",
        "changed": f"not the key of {place}; if that is right: cftools hosts scan --add --replace",
        "revoked": f"revoked by {place}",
    }
    return state, said.get(state, "")
