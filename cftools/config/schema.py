"""The config file of a node: every key with its type, unit, default, meaning and example.

`cftools.config.load` reads YAML into these structs, `cftools.config.render` writes the example file from them. A field
without a default is required; a required text or list is never empty. Fields of unit "duration" hold seconds, "size"
bytes, "rate" bit/s, "percent" whole percents; in the file all but percents are written with their unit.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Amount = Literal["duration", "size", "rate", "percent"]
Text = Literal["path", "file", "address", "host", "account", "name", "timezone", "daily", "filename", "database"]
Unit = Literal["", Amount, Text]


class Key(msgspec.Struct, frozen=True):
    """What a field's annotation tells beside its type.

    Units of text: "path" is a path here, relative to the config file's folder, ``~`` is the home directory; "file" a
    path on a server, absolute; "address" an IP address; "host" an address or host name; "account" a login name; "name"
    a name that is safe as a file name; "timezone" a name of the zone database; "daily" a strftime pattern, one name a
    day; "filename" a name without a folder; "database" the URL of the state database.

    ``example`` is the YAML text shown in the example file when the default would not teach. ``least`` and ``most``
    bound the value, both allowed, in the field's own unit.
    """

    meaning: str
    unit: Unit = ""
    example: str = ""
    least: float | None = None
    most: float | None = None


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every mapping in the config file."""


class State(Section, frozen=True):
    """What must survive a crash."""

    directory: Annotated[str, Key("folder of the locks and of the database", "path", "/var/lib/cftools")] = "state"
    url: Annotated[
        str,
        Key(
            "instead of state.db there: sqlite:///path, or postgresql://user@host/name",
            "database",
            "sqlite:///var/lib/cftools/state.db",
        ),
    ] = ""


class Inputs(Section, frozen=True):
    """The files other programs write."""

    hitcount_history: Annotated[
        str, Key("every file with its size and holders", "path", "/data2/FailOver/.hitcount.history")
    ]
    grade_info: Annotated[str, Key("the files in rank order, best first", "path", "/data2/FailOver/.grade.info")]
    event_log_dir: Annotated[
        str, Key("folder of the load balancer's event logs; needed for hot files", "path", "/var/log/castis/lb_log")
    ] = ""
    event_log_name: Annotated[str, Key("their name, one a day, as strftime has it", "daily")] = "EventLog[%Y%m%d].log"
    event_log_timezone: Annotated[
        str, Key("zone of the dates in these names; unset: any zone is looked through", "timezone", "Asia/Seoul")
    ] = ""
    max_age: Annotated[float, Key("older history or grades delete nothing", "duration", least=1)] = 6 * 3600.0


class HotFiles(Section, frozen=True):
    """Which hits make a file hot: hot files are copied first and never evicted. Without this nothing is hot."""

    served_by: Annotated[list[str], Key("addresses whose hits count", "address", "[125.159.40.3]")]
    min_hits: Annotated[int, Key("hits in the window that make a file hot", least=1)] = 5
    window: Annotated[float, Key("how far back hits count", "duration", least=1)] = 600.0
    slack: Annotated[float, Key("how far log lines may be out of order", "duration")] = 5.0


class Ignore(Section, frozen=True):
    """Files cftools never touches."""

    prefixes: Annotated[
        list[str], Key("name beginnings (advertisements); never copied or deleted", "", "[M64, MN1]")
    ] = []


class Ssh(Section, frozen=True):
    """How servers are reached; all but config_file and parallel can be overridden in a server's own entry."""

    user: Annotated[
        str, Key("account on the servers; unset: as ssh_config says, else your own name", "account", "vod")
    ] = ""
    port: Annotated[int, Key("0: as ssh_config says, else 22", least=0, most=65535)] = 0
    identity: Annotated[str, Key("private key; unset: agent and ssh_config", "path", "~/.ssh/id_ed25519")] = ""
    known_hosts: Annotated[str, Key("host keys; an unknown or changed key is refused", "path")] = "~/.ssh/known_hosts"
    config_file: Annotated[
        str, Key("ssh_config to honour (Host, ProxyJump, IdentityFile, ...); none: /dev/null", "path")
    ] = "~/.ssh/config"
    connect_timeout: Annotated[float, Key("limit for connecting and logging in", "duration", least=0.1)] = 5.0
    response_timeout: Annotated[float, Key("limit for silence while an answer is due", "duration", least=0.1)] = 60.0
    sessions: Annotated[
        int, Key("scripts side by side on one server; below its sshd's MaxSessions", least=2, most=1000)
    ] = 8
    restricted: Annotated[bool, Key("the accounts run cftools' gate and nothing else; see `cftools gate`")] = False
    parallel: Annotated[int, Key("servers worked on side by side", least=1, most=1000)] = 32


class ServerSsh(Section, frozen=True):
    """SSH keys in a server's entry; unset ones come from `Ssh`."""

    user: Annotated[str | None, Key("account on this server", "account")] = None
    port: Annotated[int | None, Key("port of this server", least=0, most=65535)] = None
    identity: Annotated[str | None, Key("private key for this server", "path")] = None
    known_hosts: Annotated[str | None, Key("host keys for this server", "path")] = None
    connect_timeout: Annotated[float | None, Key("limit for connecting and logging in", "duration", least=0.1)] = None
    response_timeout: Annotated[
        float | None, Key("limit for silence while an answer is due", "duration", least=0.1)
    ] = None
    sessions: Annotated[int | None, Key("scripts side by side on this server", least=2, most=1000)] = None
    restricted: Annotated[bool | None, Key("the account on this server runs cftools' gate")] = None


class SourceEntry(ServerSsh, frozen=True, kw_only=True):
    """One origin server."""

    name: Annotated[str, Key("the server's name in rows and messages", "name", "src1")]
    address: Annotated[str, Key("address or host name", "host", "172.18.0.101")]
    roots: Annotated[list[str], Key("folders of the origin storage", "file", "[/data2, /data3]")]


class DestinationEntry(ServerSsh, frozen=True, kw_only=True):
    """One edge server."""

    name: Annotated[str, Key("the server's name in rows and messages", "name", "dst1")]
    address: Annotated[
        str, Key("IP address, as the history names it; the highest one keeps its copy", "address", "172.18.0.111")
    ]
    root: Annotated[str, Key("folder that holds the copies", "file", "/data")]
    capacity: Annotated[
        float | None, Key("reckoned with instead of df, when the disk is shared", "size", "2TB", least=1)
    ] = None


class ServerEntry(ServerSsh, frozen=True, kw_only=True):
    """A server that is neither source nor destination (for bulk-delete)."""

    name: Annotated[str, Key("the server's name in rows and messages", "name", "img1")]
    address: Annotated[str, Key("address or host name", "host", "172.18.0.121")]


class HeartbeatKeys(Section, frozen=True):
    """The short check of every server."""

    timeout: Annotated[float, Key("time a server has for the whole check", "duration", least=0.1)] = 5.0
    max_age: Annotated[float, Key("a remembered failure older than this no longer counts", "duration")] = 60.0
    interval: Annotated[float, Key("how often servers with a running copy are checked", "duration", least=0.1)] = 10.0


class Distribute(Section, frozen=True):
    """Copying wanted files from sources to destinations."""

    speed_limit: Annotated[
        float | None, Key("bits a second of one copy; unset: no limit", "rate", "10Mbit", least=8000)
    ] = None
    timeout: Annotated[float, Key("limit for one copy; what arrived is kept and resumed", "duration", least=1)] = 3600.0
    via: Annotated[Literal["pull", "relay"], Key("pull: rsync on the destination; relay: through the manager")] = "pull"
    spread: Annotated[Literal["most-free", "round-robin"], Key("how destinations are chosen")] = "most-free"
    cooldown: Annotated[
        float, Key("rest of a source-destination pair after a failure; doubles with each", "duration")
    ] = 600.0
    cooldown_limit: Annotated[float, Key("longest rest of a pair", "duration")] = 6 * 3600.0
    checksum: Annotated[bool, Key("compare SHA-256 of both sides before a copy becomes visible")] = False
    forward_agent: Annotated[bool, Key("pull: log in to the source with the manager's SSH agent")] = False
    pull_identity: Annotated[
        str, Key("pull: private key on the destination; unset: its default keys", "file", "/home/vod/.ssh/id_ed25519")
    ] = ""
    pull_known_hosts: Annotated[
        str, Key("pull: known_hosts on the destination; unset: its default", "file", "/home/vod/.ssh/known_hosts")
    ] = ""
    inventory_max_age: Annotated[float, Key("the servers are listed again after this time", "duration")] = 600.0
    partial_max_age: Annotated[
        float, Key("unfinished copies nobody works on are removed after this time", "duration")
    ] = 86400.0


class Dedup(Section, frozen=True):
    """Keeping one copy of a file in the node."""

    deletes_per_file: Annotated[Literal["all-but-one", "one"], Key("copies of one file that one run may delete")] = (
        "all-but-one"
    )


class Evict(Section, frozen=True):
    """Keeping the disks under their limit."""

    limit_percent: Annotated[
        int, Key("a destination fuller than this is evicted from", "percent", least=1, most=99)
    ] = 90
    target_percent: Annotated[
        int, Key("until it is at or under this; copies stop here too", "percent", least=1, most=99)
    ] = 88
    min_residency: Annotated[float, Key("copies younger than this stay", "duration")] = 6 * 3600.0


class DeleteKeys(Section, frozen=True):
    """How deletions are carried out."""

    batch: Annotated[int, Key("files a remote call, and a turn of the deletion lock", least=1, most=5000)] = 5000


class Guards(Section, frozen=True):
    """Limits over which a whole plan is refused before anything is deleted."""

    max_deletes: Annotated[int, Key("files a plan may delete", least=0)] = 10000
    max_delete_bytes: Annotated[float, Key("bytes a plan may delete", "size")] = 50e12
    max_delete_percent: Annotated[int, Key("share of one server's files a plan may delete", "percent")] = 20
    percent_from: Annotated[int, Key("fewer files than this are never judged by their percentage", least=1)] = 10
    max_inventory_shrink_percent: Annotated[
        int, Key("share of a server's files that may vanish between two listings", "percent")
    ] = 30
    max_history_shrink_percent: Annotated[
        int, Key("share of the history's lines that may vanish between two readings", "percent")
    ] = 30
    mount_marker: Annotated[
        str, Key("file that must stand in every root; unset: not asked", "filename", ".cftools-root")
    ] = ""


class BulkDeleteTarget(Section, frozen=True):
    """Where one application's files lie: below a folder of servers, or in object storage."""

    servers: Annotated[
        list[str], Key("names of servers; without any servers declared also host names", "name", "[img1, img2]")
    ] = []
    root: Annotated[str, Key("folder below which the files lie", "file", "/images")] = ""
    url: Annotated[
        str, Key("instead of both: object storage, s3://bucket/prefix, gs:// or az://", "", "s3://albums/photos")
    ] = ""
    endpoint: Annotated[str, Key("of an S3 service that is not Amazon's", "", "https://s3.example.com")] = ""
    region: Annotated[str, Key("of the bucket; unset: as the environment says", "", "eu-central-1")] = ""
    layout: Annotated[
        Literal["every", "any"], Key("every: each server has each file; any: whichever has it, a lack is no news")
    ] = "every"
    trash: Annotated[
        float | None, Key("keep what is deleted so long, to be restored; unset: delete", "duration", "7d", least=1)
    ] = None
    protect: Annotated[
        list[str], Key("patterns (* ? [...]) of files that may not be asked for", "", '["*/original/*"]')
    ] = []


class Outbox(Section, frozen=True):
    """A table of an application's own PostgreSQL, into which it writes requests."""

    dsn: Annotated[str, Key("environment variable that holds the address", "name", "SHOP_DATABASE")]
    table: Annotated[str, Key("the table, with its schema if need be")] = "bulk_delete_outbox"
    key: Annotated[str, Key("column of the request's key, unique")] = "request"
    target: Annotated[str, Key("column of the target's name")] = "target"
    resources: Annotated[str, Key("column of the files: text[], a JSON array, or text with one a line")] = "resources"
    taken: Annotated[str, Key("column for when it was taken: timestamptz, null until then")] = "taken"
    error: Annotated[str, Key("column for why it was refused: text, null")] = "error"


class Broker(Section, frozen=True):
    """A RabbitMQ queue into which applications publish requests."""

    url: Annotated[str, Key("environment variable that holds amqp://user:password@host/vhost", "name")] = (
        "CFTOOLS_BROKER"
    )
    queue: Annotated[str, Key("the quorum queue")] = "cftools.bulk-delete"
    dead_letters: Annotated[str, Key("exchange, and queue, of messages that cannot be used")] = (
        "cftools.bulk-delete.dead"
    )
    deliveries: Annotated[int, Key("deliveries of a message before it goes there", least=1, most=1000)] = 5
    prefetch: Annotated[int, Key("messages taken in at once", least=1, most=1000)] = 10


class BulkDelete(Section, frozen=True):
    """Deleting what applications ask for."""

    partition: Annotated[int, Key("files a remote call", least=1, most=10_000)] = 5000
    attempts: Annotated[int, Key("tries of one file before it becomes a dead letter", least=1)] = 3
    retry_delay: Annotated[
        float, Key("rest before the next try, of a file or of a server; doubles with each", "duration", least=0.1)
    ] = 60.0
    retry_delay_limit: Annotated[float, Key("longest such rest", "duration", least=0.1)] = 3600.0
    give_up_after: Annotated[
        float, Key("files of a server that cannot be reached for so long become dead letters", "duration", least=1)
    ] = 7 * 86400.0
    keep: Annotated[float, Key("finished requests are forgotten after this time", "duration", least=1)] = 30 * 86400.0
    max_resources: Annotated[int, Key("files one request may name", least=1)] = 2_000_000
    protect: Annotated[
        list[str], Key("patterns of files that no request may name, on any target", "", '["*.keep"]')
    ] = []
    targets: Annotated[dict[str, BulkDeleteTarget], Key("the applications' files, by name of your choice")] = {}
    outboxes: Annotated[dict[str, Outbox], Key("tables that `bulk-delete collect` reads, by name of your choice")] = {}
    broker: Broker | None = None


class Config(Section, frozen=True, kw_only=True):
    """One node."""

    node: Annotated[str, Key("name of the site", "", "seoul-1")]
    state: State = State()
    inputs: Inputs
    hot_files: HotFiles | None = None
    ignore: Ignore = Ignore()
    ssh: Ssh = Ssh()
    heartbeat: HeartbeatKeys = HeartbeatKeys()
    sources: Annotated[list[SourceEntry], Key("Origin servers, one entry a server.")]
    destinations: Annotated[list[DestinationEntry], Key("Edge servers, one entry a server.")]
    servers: Annotated[list[ServerEntry], Key("Other servers, which only bulk-delete works on.")] = []
    distribute: Distribute = Distribute()
    dedup: Dedup = Dedup()
    evict: Evict = Evict()
    delete: DeleteKeys = DeleteKeys()
    guards: Guards = Guards()
    bulk_delete: BulkDelete = BulkDelete()
