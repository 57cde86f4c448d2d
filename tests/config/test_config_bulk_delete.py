"""The keys of bulk-delete: a target lies on servers or in object storage, and what goes with which."""

from __future__ import annotations

from pathlib import Path

import pytest

from cftools.config.load import load
from cftools.config.schema import BulkDelete, BulkDeleteTarget
from cftools.model.errors import ConfigFaults

MINIMAL = """\
node: n
inputs: {hitcount_history: h, grade_info: g}
sources: [{name: s1, address: 10.0.0.1, roots: [/a]}]
destinations: [{name: d1, address: 10.0.0.2, root: /srv/a}]
"""


def bulk(folder: Path, line: str) -> BulkDelete:
    path = folder / "c.yaml"
    path.write_text(f"{MINIMAL}bulk_delete: {line}\n")
    return load(path).bulk_delete


def target(folder: Path, keys: str) -> BulkDeleteTarget:
    return bulk(folder, f"{{targets: {{t: {{{keys}}}}}}}").targets["t"]


def faults(folder: Path, line: str) -> list[str]:
    """The faults without the file's name."""
    with pytest.raises(ConfigFaults) as raised:
        bulk(folder, line)
    return [fault.removeprefix(f"{folder / 'c.yaml'}:") for fault in raised.value.faults]


def target_faults(folder: Path, keys: str) -> list[str]:
    """The faults of one target, without their place."""
    prefix = "bulk_delete.targets.t"
    found = [fault.split(" ", 1)[1] for fault in faults(folder, f"{{targets: {{t: {{{keys}}}}}}}")]
    assert all(fault.startswith(prefix) for fault in found)
    return [fault.removeprefix(prefix).lstrip(".") for fault in found]


BOTH = "give either url, or servers and root"
NEITHER = ": give servers and root, or url for object storage"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", [NEITHER]),
        ("servers: [d1]", [NEITHER]),
        ("root: /x", [NEITHER]),
        ("servers: [], root: /x", [NEITHER]),
        ("protect: ['*.jpg']", [NEITHER]),
        ("url: s3://b, servers: [d1], root: /x", [f"url: {BOTH}"]),
        ("url: s3://b, servers: [d1]", [f"url: {BOTH}"]),
        ("url: s3://b, root: /x", [f"url: {BOTH}"]),
        ("url: s3://b, trash: 7d", ["trash: object storage has no trash folder; use the versions of the bucket"]),
        ("servers: [d1], root: /x, layout: some", ["layout: 'some' is none of every, any"]),
        ("servers: [d1], root: x", ["root: 'x' is not absolute; a path on a server begins with /"]),
        ("servers: [d1], root: /x, trash: 0s", ["trash: 0s is too little; at least 1s"]),
    ],
)
def test_a_target_that_lies_nowhere_or_in_two_places_is_refused(tmp_path: Path, keys: str, expected: list[str]) -> None:
    assert target_faults(tmp_path, keys) == expected


@pytest.mark.parametrize("url", ["s3://albums", "s3://albums/", "s3://albums/photos/2024", "gs://b/p", "az://c"])
def test_a_target_may_lie_in_a_bucket_of_any_service(tmp_path: Path, url: str) -> None:
    found = target(tmp_path, f"url: '{url}', endpoint: 'https://s3.example.com', region: eu-central-1")
    assert (found.url, found.servers, found.root, found.trash) == (url, [], "", None)


@pytest.mark.parametrize(
    "url",
    ["albums", "s3:", "s3:/albums", "s3://", "s3:///photos", "http://s3.example.com/b", "S3://b", "file:///x", "://b"],
)
def test_what_is_no_address_of_a_bucket_is_refused(tmp_path: Path, url: str) -> None:
    assert target_faults(tmp_path, f"url: '{url}'") == [f"url: '{url}': write it as s3://bucket/prefix (s3, gs, az)"]


def test_a_target_on_servers_deletes_unless_it_is_told_to_keep(tmp_path: Path) -> None:
    found = target(tmp_path, "servers: [d1], root: /images/")
    assert found == BulkDeleteTarget(servers=["d1"], root="/images")
    assert (found.layout, found.trash, found.protect) == ("every", None, [])
    found = target(tmp_path, "servers: [d1], root: /images, layout: any, trash: 7d, protect: ['*/o/*']")
    assert (found.layout, found.trash, found.protect) == ("any", 7 * 86400, ["*/o/*"])


def test_all_targets_tell_their_faults_at_once_each_in_its_place(tmp_path: Path) -> None:
    found = faults(tmp_path, "{retry_delay: 2h, targets: {a: {}, b: {url: x}, c: {url: s3://b, trash: 1d}}}")
    assert [" ".join(fault.split(" ")[:2]) for fault in found] == [
        "5:14 bulk_delete.retry_delay_limit:",
        "5:45 bulk_delete.targets.a:",
        "5:58 bulk_delete.targets.b.url:",
        "5:86 bulk_delete.targets.c.trash:",
    ]


def test_the_longest_rest_is_no_shorter_than_the_first(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "{retry_delay: 30s, retry_delay_limit: 29s}")
    assert fault == "5:52 bulk_delete.retry_delay_limit: 29s is shorter than retry_delay (30s)"
    (fault,) = faults(tmp_path, "{retry_delay: 2h}")
    assert fault == "5:14 bulk_delete.retry_delay_limit: 1h is shorter than retry_delay (2h)"
    assert bulk(tmp_path, "{retry_delay: 30s, retry_delay_limit: 30s}").retry_delay_limit == 30


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("{partition: 10001}", "bulk_delete.partition"),
        ("{partition: 0}", "bulk_delete.partition"),
        ("{attempts: 0}", "bulk_delete.attempts"),
        ("{retry_delay: 0s}", "bulk_delete.retry_delay"),
        ("{retry_delay_limit: 60}", "bulk_delete.retry_delay_limit"),
        ("{give_up_after: 0s}", "bulk_delete.give_up_after"),
        ("{keep: 0s}", "bulk_delete.keep"),
        ("{max_resources: 0}", "bulk_delete.max_resources"),
        ("{protect: '*.keep'}", "bulk_delete.protect"),
        ("{outboxes: {shop: {table: t}}}", "bulk_delete.outboxes.shop"),
        ("{broker: {prefetch: 0}}", "bulk_delete.broker.prefetch"),
        ("{broker: {deliveries: 1001}}", "bulk_delete.broker.deliveries"),
    ],
)
def test_a_value_out_of_its_limits_is_refused_at_its_key(tmp_path: Path, line: str, key: str) -> None:
    (fault,) = faults(tmp_path, line)
    assert fault.split(" ")[1].startswith(key)


def test_without_a_word_it_works_as_documented(tmp_path: Path) -> None:
    found = bulk(tmp_path, "{}")
    assert (found.partition, found.attempts, found.retry_delay, found.retry_delay_limit) == (5000, 3, 60, 3600)
    assert (found.give_up_after, found.keep, found.max_resources) == (7 * 86400, 30 * 86400, 2_000_000)
    assert (found.targets, found.outboxes, found.broker) == ({}, {}, None)


def test_a_target_may_lie_in_a_root_but_may_not_hold_one(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "{targets: {a: {servers: [d1], root: /srv}}}")
    assert "bulk_delete.targets.a.root: '/srv' holds" in fault
    assert bulk(tmp_path, "{targets: {a: {servers: [d1], root: /srv/a/albums}}}").targets["a"].root == "/srv/a/albums"
