"""The config file of a node: every key with its type, unit, default, meaning and example.

`cftools.config.load` reads YAML into these structs, `cftools.config.render` writes the example file from them. A field
without a default is required. Units: ``DURATION`` fields hold seconds, ``SIZE`` bytes, ``RATE`` bit/s, ``PERCENT``
whole percents; in the file all but percents are written with their unit.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Unit = Literal["", "duration", "size", "rate", "percent", "path", "file", "address", "timezone"]


class Key(msgspec.Struct, frozen=True):
    """What a field's annotation tells beside its type.

    ``unit`` of "path" means: relative to the config file's folder, ``~`` is the home directory. "file" means a path
    on a server, absolute. ``example`` is the text shown in the example file when the default would not teach.
    """

    meaning: str
    unit: Unit = ""
    example: str = ""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every mapping in the config file."""


class State(Section):
    """What must survive a crash."""

    url: Annotated[str, Key("database; sqlite:///absolute/path or sqlite:relative/path; empty: state.db in directory")] = ""
    directory: Annotated[str, Key("folder of locks and of the database", "path", "/var/lib/cftools")] = "state"


class Inputs(Section):
    """The files other programs write."""

    hitcount_history: Annotated[str, Key("hit counts and holders a file", "path", "/data2/FailOver/.hitcount.history")]
    grade_info: Annotated[str, Key("files in rank order", "path", "/data2/FailOver/.grade.info")]
    event_log_dir: Annotated[str, Key("folder of the load balancer's event logs", "path", "/var/log/castis/lb_log")] = ""
    event_log_name: Annotated[str, Key("file name a day, as strftime has it")] = "EventLog[%Y%m%d].log"
    event_log_timezone: Annotated[
        str, Key("zone of the log host's dates, as Asia/Seoul; empty: any zone is looked through", "timezone")
    ] = ""
    max_age: Annotated[float, Key("older history or grades delete nothing", "duration")] = 6 * 3600.0


class HotFiles(Section):
    """Which hits make a file hot."""

    served_by: Annotated[list[str], Key("addresses whose hits count", "address", "[125.159.40.3]")]
    min_hits: Annotated[int, Key("hits in the window that make a file hot")] = 5
    window: Annotated[float, Key("how far back hits count", "duration")] = 600.0
    slack: Annotated[float, Key("how far log lines may be out of order", "duration")] = 5.0


class Ignore(Section):
    """Files cftools never touches."""

    prefixes: Annotated[list[str], Key("name prefixes (advertisements); never placed, never deleted", "", "[M64, MN1]")] = []


class Ssh(Section):
    """How servers are reached; every key can be overridden in a server's own entry."""

    user: Annotated[str, Key("account on the servers; empty: as ssh_config says, else the own name", "", "vod")] = ""
    port: Annotated[int, Key("0: as ssh_config says, else 22")] = 0
    identity: Annotated[str, Key("private key; empty: agent and ssh_config", "path", "~/.ssh/id_ed25519")] = ""
    known_hosts: Annotated[str, Key("host keys; an unknown or changed key is refused", "path")] = "~/.ssh/known_hosts"
    config_file: Annotated[str, Key("ssh_config to honour (Host, ProxyJump, IdentityFile, ...)", "path")] = "~/.ssh/config"
    connect_timeout: Annotated[float, Key("limit for connecting and logging in", "duration")] = 5.0
    response_timeout: Annotated[float, Key("limit for silence while an answer is due", "duration")] = 60.0
    parallel: Annotated[int, Key("servers worked on side by side")] = 32


class ServerSsh(Section):
    """SSH keys in a server's entry; unset ones come from `Ssh`."""

    user: Annotated[str | None, Key("account on this server")] = None
    port: Annotated[int | None, Key("port of this server")] = None
    identity: Annotated[str | None, Key("private key for this server", "path")] = None
    known_hosts: Annotated[str | None, Key("host keys for this server", "path")] = None
    connect_timeout: Annotated[float | None, Key("limit for connecting and logging in", "duration")] = None
    response_timeout: Annotated[float | None, Key("limit for silence while an answer is due", "duration")] = None


class SourceEntry(ServerSsh, kw_only=True):
    """One origin server."""

    name: Annotated[str, Key("the server's name in rows and messages", "", "src1")]
    address: Annotated[str, Key("address or host name", "", "172.18.0.101")]
    roots: Annotated[list[str], Key("folders of the origin storage", "file", "[/data2, /data3]")]


class DestinationEntry(ServerSsh, kw_only=True):
    """One edge server."""

    name: Annotated[str, Key("the server's name in rows and messages", "", "dst1")]
    address: Annotated[str, Key("IP address, as the history names it; its number decides which copy stays", "address", "172.18.0.111")]
    root: Annotated[str, Key("folder that holds the copies", "file", "/data")]
    capacity: Annotated[float | None, Key("bytes to reckon with instead of df, when the disk is shared", "size", "2TB")] = None


class ServerEntry(ServerSsh, kw_only=True):
    """A server that is neither source nor destination (for bulk-delete)."""

    name: Annotated[str, Key("the server's name in rows and messages", "", "img1")]
    address: Annotated[str, Key("address or host name", "", "172.18.0.121")]


class HeartbeatKeys(Section):
    """The short check of every server."""

    timeout: Annotated[float, Key("time a server has for the whole check", "duration")] = 5.0
    max_age: Annotated[float, Key("a remembered result older than this is asked again", "duration")] = 60.0
    interval: Annotated[float, Key("how often servers with a running copy are checked", "duration")] = 10.0


class Distribute(Section):
    """Copying wanted files from sources to destinations."""

    speed_limit: Annotated[float | None, Key("bits a second of one copy; unset: no limit", "rate", "10Mbit")] = None
    timeout: Annotated[float, Key("limit for one copy; what arrived is kept and resumed", "duration")] = 3600.0
    via: Annotated[Literal["pull", "relay"], Key("pull: rsync on the destination; relay: through the manager")] = "pull"
    spread: Annotated[Literal["most-free", "round-robin"], Key("how destinations are chosen")] = "most-free"
    cooldown: Annotated[float, Key("rest of a source-destination pair after its first failure; doubles with each", "duration")] = 600.0
    cooldown_limit: Annotated[float, Key("longest rest of a pair", "duration")] = 6 * 3600.0
    checksum: Annotated[bool, Key("compare SHA-256 of both sides before a copy becomes visible")] = False
    forward_agent: Annotated[bool, Key("pull: log in to the source with the manager's SSH agent")] = False
    pull_identity: Annotated[str, Key("pull: private key on the destination; empty: its default keys", "file")] = ""
    pull_known_hosts: Annotated[str, Key("pull: known_hosts on the destination; empty: its default", "file")] = ""
    inventory_max_age: Annotated[float, Key("distribute lists the servers again after this time", "duration")] = 600.0
    partial_max_age: Annotated[float, Key("unfinished copies nobody works on are removed after this time", "duration")] = 86400.0


class Dedup(Section):
    """Keeping one copy a file in the node."""

    deletes_per_file: Annotated[Literal["all-but-one", "one"], Key("copies of one file a run may delete")] = "all-but-one"


class Evict(Section):
    """Keeping the disks under their limit."""

    limit_percent: Annotated[int, Key("a destination above this is evicted from", "percent")] = 90
    target_percent: Annotated[int, Key("until it is at or under this; copies stop here too", "percent")] = 88
    min_residency: Annotated[float, Key("copies younger than this stay", "duration")] = 6 * 3600.0


class DeleteKeys(Section):
    """How deletions are carried out."""

    batch: Annotated[int, Key("files a remote call, and a turn of the deletion lock")] = 2000


class Guards(Section):
    """Limits over which a whole plan is refused before anything is deleted."""

    max_deletes: Annotated[int, Key("files a plan may delete")] = 10000
    max_delete_bytes: Annotated[float, Key("bytes a plan may delete", "size")] = 50e12
    max_delete_percent: Annotated[int, Key("share of one server's files a plan may delete", "percent")] = 20
    percent_from: Annotated[int, Key("deletes on one server from which its share is looked at")] = 10
    max_inventory_shrink_percent: Annotated[int, Key("share of a server's files that may vanish between two listings", "percent")] = 30
    max_history_shrink_percent: Annotated[int, Key("share of the history's lines that may vanish between two readings", "percent")] = 30
    mount_marker: Annotated[str, Key("file that must stand in every root; unset: not asked", "", ".cftools-root")] = ""


class BulkDeleteTarget(Section):
    """Servers that hold one application's files."""

    servers: Annotated[list[str], Key("names of servers", "", "[img1, img2]")]
    root: Annotated[str, Key("folder below which the resources lie", "file", "/images")]


class BulkDelete(Section):
    """Deleting what applications ask for."""

    partition: Annotated[int, Key("resources a remote call")] = 500
    attempts: Annotated[int, Key("tries of one resource before it becomes a dead letter")] = 3
    targets: Annotated[dict[str, BulkDeleteTarget], Key("by name")] = {}


class Config(Section, kw_only=True):
    """One node."""

    node: Annotated[str, Key("name of the site", "", "seoul-1")]
    state: State = State()
    inputs: Inputs
    hot_files: HotFiles | None = None
    ignore: Ignore = Ignore()
    ssh: Ssh = Ssh()
    heartbeat: HeartbeatKeys = HeartbeatKeys()
    sources: list[SourceEntry]
    destinations: list[DestinationEntry]
    servers: list[ServerEntry] = []
    distribute: Distribute = Distribute()
    dedup: Dedup = Dedup()
    evict: Evict = Evict()
    delete: DeleteKeys = DeleteKeys()
    guards: Guards = Guards()
    bulk_delete: BulkDelete = BulkDelete()
