"""The faults of a config file: each is told with its line, column and key, and all of them at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from cftools.config.load import LARGEST, load
from cftools.model.errors import ConfigFaults

MINIMAL = """\
node: n
inputs: {hitcount_history: h, grade_info: g}
sources: [{name: s1, address: 10.0.0.1, roots: [/a]}]
destinations: [{name: d1, address: 10.0.0.2, root: /a}]
"""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults(folder: Path, text: str | bytes) -> list[str]:
    """The faults of a config, without the file's name."""
    path = written(folder, text)
    with pytest.raises(ConfigFaults) as raised:
        load(path)
    assert all(fault.startswith(f"{path}:") and "\n" not in fault for fault in raised.value.faults)
    return [fault.removeprefix(f"{path}:") for fault in raised.value.faults]


def line_faults() -> list[tuple[str, str]]:
    """A fifth line of the minimal config, and the one fault it is."""
    return [
        ("nodes: x", "5:1 nodes: is no known key (did you mean node?)"),
        ("zzz: x", "5:1 zzz: is no known key; known here: node, state, inputs, hot_files, ignore, ssh,"),
        ("evict: {limit: 9}", "5:9 evict.limit: is no known key (did you mean limit_percent?)"),
        ("node: x", "5:1 node: is given twice, first on line 1"),
        (
            "evict: {target_percent: 8, 'target_percent': 9}",
            "5:28 evict.target_percent: is given twice, first on line 5",
        ),
        ("? [a]\n: x", "5:3 config: a key must be a plain word"),
        ("evict: {<<: 5}", "5:13 evict.<<: takes a mapping, or a list of mappings"),
        ("evict: 5", "5:8 evict: must be a mapping, not '5'"),
        ("evict: [1]", "5:8 evict: must be a mapping, not a list"),
        ("evict: null", "5:8 evict: must be a mapping, not 'null'"),
        ("evict: !x {}", "5:8 evict: must be a mapping, not a mapping with the tag '!x'"),
        ("servers: x", "5:10 servers: must be a list, not 'x'; write servers: [x]"),
        ("servers:", "5:9 servers: must be a list, not nothing"),
        (
            "servers: [{name: i, address: h}, ]\nignore: {prefixes: }",
            "6:20 ignore.prefixes: must be a list, not nothing",
        ),
        ("servers:\n  -", "6:4 servers[0]: is empty; write its keys after the -, or take the - out"),
        ("servers: [5]", "5:11 servers[0]: must be a mapping, not '5'"),
        ("servers: [{name: i}]", "5:11 servers[0].address: is missing; meaning: address or host name, as 172.18.0.121"),
        ("hot_files:", "5:11 hot_files.served_by: is missing; meaning: addresses whose hits count, as [125.159.40.3]"),
        ("hot_files: {served_by: []}", "5:24 hot_files.served_by: is empty; give at least one; meaning: addresses"),
        ("ignore: {prefixes: [A, '']}", "5:24 ignore.prefixes[1]: is empty; meaning: name beginnings"),
        (
            "ignore: {prefixes: [A, 12]}",
            "5:24 ignore.prefixes[1]: '12' is read as a number, not as text; put it in quotes",
        ),
        (
            "ignore: {prefixes: [no]}",
            "5:21 ignore.prefixes[0]: 'no' is read as yes or no, not as text; put it in quotes",
        ),
        ("ignore: {prefixes: [2018-06-03]}", "5:21 ignore.prefixes[0]: '2018-06-03' is read as a date, not as text"),
        (
            "ignore: {prefixes: [[A]]}",
            "5:21 ignore.prefixes[0]: must be one value, not a list; meaning: name beginnings",
        ),
        ('ignore: {prefixes: ["\\0"]}', "5:21 ignore.prefixes[0]: '\\x00' holds a control character"),
        ("ssh: {user: }", "5:13 ssh.user: has no value; give one or take it out; meaning: account on the servers"),
        ("ssh: {user: null}", "5:13 ssh.user: has no value"),
        ("ssh: {user: -oX}", "5:13 ssh.user: '-oX' is no login name"),
        ("ssh: {known_hosts: ''}", "5:20 ssh.known_hosts: is empty; meaning: host keys"),
        ("ssh: {identity: ~nobodyx/k}", "5:17 ssh.identity: '~nobodyx/k': nobody's home directory"),
        ("ssh: {port: 65536}", "5:13 ssh.port: 65536 is too much; at most 65535"),
        ("ssh: {port: -1}", "5:13 ssh.port: -1 is too little; at least 0"),
        ("ssh: {port: 022}", "5:13 ssh.port: '022' may be octal; write it without the leading 0"),
        ("ssh: {port: '22'}", "5:13 ssh.port: '22' is text; write it without quotes"),
        ("ssh: {port: 2.5}", "5:13 ssh.port: '2.5' is no whole number"),
        ("ssh: {port: 10:30}", "5:13 ssh.port: '10:30' is no whole number"),
        ("ssh: {port: yes}", "5:13 ssh.port: 'yes' is no whole number"),
        (
            "ssh: {port: !!python/object:x.Y 3}",
            "5:13 ssh.port: the tag 'tag:yaml.org,2002:python/object:x.Y' is not known",
        ),
        ("ssh: {parallel: 0}", "5:17 ssh.parallel: 0 is too little; at least 1"),
        ("ssh: {connect_timeout: 5}", "5:24 ssh.connect_timeout: '5' has no unit: 5s, 5m or 5h?"),
        ("ssh: {connect_timeout: 0s}", "5:24 ssh.connect_timeout: 0s is too little; at least 100ms"),
        ("ssh: {response_timeout: 10:30}", "5:25 ssh.response_timeout: '10:30' is no duration"),
        ("heartbeat: {timeout: 0ms}", "5:22 heartbeat.timeout: 0s is too little"),
        ("hot_files: {served_by: [h], min_hits: 1}", "5:25 hot_files.served_by[0]: 'h' is no IP address"),
        ("hot_files: {served_by: [10.0.0.1], min_hits: 0}", "5:46 hot_files.min_hits: 0 is too little; at least 1"),
        ("hot_files: {served_by: [10.0.0.1], window: 0s}", "5:44 hot_files.window: 0s is too little; at least 1s"),
        ("distribute: {via: push}", "5:19 distribute.via: 'push' is none of pull, relay"),
        (
            "distribute: {spread: most-fre}",
            "5:22 distribute.spread: 'most-fre' is none of most-free, round-robin (did you",
        ),
        ("distribute: {checksum: 1}", "5:24 distribute.checksum: '1' is neither true nor false"),
        ("distribute: {checksum: 'true'}", "5:24 distribute.checksum: 'true' is text; write it without quotes"),
        ("distribute: {speed_limit: 10MB}", "5:27 distribute.speed_limit: '10MB' is no rate; write a number with bit,"),
        ("distribute: {speed_limit: 10}", "5:27 distribute.speed_limit: '10' has no unit: 10kbit, 10Mbit or 10Gbit?"),
        (
            "distribute: {pull_identity: ~/k}",
            "5:29 distribute.pull_identity: '~/k' is not absolute; a path on a server",
        ),
        (
            "distribute: {cooldown: 1h, cooldown_limit: 5m}",
            "5:44 distribute.cooldown_limit: 5m is shorter than cooldown (1h)",
        ),
        ("distribute: {cooldown: 7h}", "5:13 distribute.cooldown_limit: 6h is shorter than cooldown (7h)"),
        ("evict: {limit_percent: 0.8}", "5:24 evict.limit_percent: 0.8: is it 80% or 0.8%?"),
        ("evict: {limit_percent: 100}", "5:24 evict.limit_percent: 100% is too much; at most 99%"),
        ("evict: {limit_percent: on}", "5:24 evict.limit_percent: 'on' is no percentage"),
        (
            "evict: {limit_percent: 80, target_percent: 81}",
            "5:44 evict.target_percent: 81% is above limit_percent (80%)",
        ),
        ("evict: {limit_percent: 80}", "5:8 evict.target_percent: 88% is above limit_percent (80%)"),
        ("delete: {batch: 0}", "5:17 delete.batch: 0 is too little; at least 1"),
        ("guards: {max_delete_bytes: 50}", "5:28 guards.max_delete_bytes: '50' has no unit: 50MB, 50GB or 50TB?"),
        ("guards: {max_deletes: 99999999999999999999}", "5:23 guards.max_deletes: '99999999999999999999' is too large"),
        ("guards: {max_deletes: -5}", "5:23 guards.max_deletes: -5 is too little; at least 0"),
        ("guards: {mount_marker: a/b}", "5:24 guards.mount_marker: 'a/b' is no plain file name"),
        ("bulk_delete: {partition: 0}", "5:26 bulk_delete.partition: 0 is too little"),
        ("bulk_delete: {attempts: 0}", "5:25 bulk_delete.attempts: 0 is too little"),
        (
            "bulk_delete: {targets: {a b: {servers: [s1], root: /x}}}",
            "5:25 bulk_delete.targets.a b: 'a b': use letters",
        ),
        (
            "servers: [{name: i, address: h}]\nbulk_delete: {targets: {t: {servers: [s1, j], root: /x}}}",
            "6:43 bulk_delete.targets.t.servers[1]: 'j' is the name of no server; declare it under servers",
        ),
        (
            "bulk_delete: {targets: {t: {servers: [s1, s1], root: /x}}}",
            "5:43 bulk_delete.targets.t.servers[1]: 's1' is listed twice",
        ),
        (
            "state: {url: postgresql://h}",
            "5:14 state.url: the URL names no database; write postgresql://user@host/name",
        ),
        ("state: {url: postgresql://h/}", "5:14 state.url: the URL names no database"),
        ("state: {url: 'postgresql:h/d'}", "5:14 state.url: no URL of a PostgreSQL database; write postgresql://"),
        ("state: {url: postgresql://u@h:70000/d}", "5:14 state.url: the URL's hosts are not host:port,host:port"),
        ("state: {url: 'postgresql://u@h:1,h 2/d'}", "5:14 state.url: the URL holds a blank or a control character"),
        ("state: {url: postgresql://h/d?sslmode}", "5:14 state.url: the URL's parameters are not name=value&name="),
        (
            "state: {url: mysql://h/d}",
            "5:14 state.url: 'mysql://h/d': write sqlite:///absolute/path, sqlite:relative",
        ),
        ("state: {url: /var/s.db}", "5:14 state.url: '/var/s.db': write sqlite:///absolute/path, sqlite:"),
        ("state: {url: sqlite://h/s.db}", "5:14 state.url: 'sqlite://h/s.db' names a host"),
        ("state: {url: 'sqlite:'}", "5:14 state.url: 'sqlite:' names no file, and the state must survive"),
        ("state: {url: 'sqlite::memory:'}", "5:14 state.url: 'sqlite::memory:' names no file"),
        ("state: {url: 'sqlite:s.db?mode=ro'}", "5:14 state.url: 'sqlite:s.db?mode=ro': parameters after ?"),
    ]


@pytest.mark.parametrize(("line", "fault"), line_faults(), ids=[line for line, _ in line_faults()])
def test_a_fault_is_told_with_its_place_and_key(tmp_path: Path, line: str, fault: str) -> None:
    first = faults(tmp_path, MINIMAL + line + "\n")[0]
    assert first.startswith(fault)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("node: n\n", "", "1:1 node: is missing; meaning: name of the site, as seoul-1"),
        ("node: n", "node: 5", "1:7 node: '5' is read as a number, not as text; put it in quotes"),
        ("node: n", "node: ''", "1:7 node: is empty"),
        (", grade_info: g", "", "2:9 inputs.grade_info: is missing"),
        (
            "inputs: {hitcount_history: h, grade_info: g}\n",
            "",
            "1:1 inputs: is missing; meaning: The files other programs",
        ),
        ("grade_info: g", "grade_info: g, max_age: 60", "2:55 inputs.max_age: '60' has no unit"),
        ("grade_info: g", "grade_info: g, event_log_name: E.log", "2:62 inputs.event_log_name: 'E.log' names the same"),
        ("grade_info: g", "grade_info: g, event_log_name: E%H%d", "2:62 inputs.event_log_name: 'E%H%d' changes within"),
        ("grade_info: g", "grade_info: g, event_log_name: a/%d", "2:62 inputs.event_log_name: 'a/%d' holds a /"),
        ("grade_info: g", "grade_info: g, event_log_name: E%D", "2:62 inputs.event_log_name: 'E%D' holds a /"),
        ("grade_info: g", "grade_info: g, event_log_name: ''", "2:62 inputs.event_log_name: is empty"),
        (
            "grade_info: g",
            "grade_info: g, event_log_timezone: Asia",
            "2:66 inputs.event_log_timezone: 'Asia' is no time",
        ),
        (
            "grade_info: g",
            "grade_info: g, event_log_timezone: asia/seoul",
            "2:66 inputs.event_log_timezone: 'asia/seoul'",
        ),
        (
            "grade_info: g",
            "grade_info: g, event_log_timezone: ../x",
            "2:66 inputs.event_log_timezone: '../x' is no time",
        ),
        ("[{name: s1, address: 10.0.0.1, roots: [/a]}]", "[]", "3:10 sources: is empty; give at least one"),
        ("destinations: [{name: d1, address: 10.0.0.2, root: /a}]", "", "1:1 destinations: is missing"),
        ("name: s1", "name: .s1", "3:18 sources[0].name: '.s1': use letters a-z, digits"),
        ("name: s1", "name: -s1", "3:18 sources[0].name: '-s1': use letters"),
        ("name: s1", "name: s/1", "3:18 sources[0].name: 's/1': use letters"),
        ("name: s1", f"name: {'s' * 101}", f"3:18 sources[0].name: '{'s' * 57}...' is longer than 100"),
        ("name: s1", "name: d1", "4:23 destinations[0].name: 'd1' is the name of sources[0] already"),
        ("10.0.0.1", "10.0.0.999", "3:31 sources[0].address: '10.0.0.999' is no IP address"),
        ("10.0.0.1", "-h", "3:31 sources[0].address: '-h' is neither an IP address nor a host name"),
        ("10.0.0.1", "h, port: 70000", "3:40 sources[0].port: 70000 is too much"),
        ("10.0.0.2", "host", "4:36 destinations[0].address: 'host' is no IP address"),
        (
            "10.0.0.2",
            "10.0.0.02",
            "4:36 destinations[0].address: '10.0.0.02' is no IP address; write its numbers without",
        ),
        ("10.0.0.2", "0.0.0.0", "4:36 destinations[0].address: '0.0.0.0' is not the address of one server"),
        ("10.0.0.2", "10.0.0.1", "4:52 destinations[0].root: '/a' and '/a' of sources[0].roots[0] overlap on 10.0.0.1"),
        ("roots: [/a]", "roots: []", "3:48 sources[0].roots: is empty; give at least one"),
        ("roots: [/a]", "roots: [a]", "3:49 sources[0].roots[0]: 'a' is not absolute"),
        (
            "roots: [/a]",
            "roots: [/a, /a/b]",
            "3:53 sources[0].roots[1]: '/a/b' and '/a' of sources[0].roots[0] overlap",
        ),
        (
            "roots: [/a]",
            "roots: [/a/b, /a]",
            "3:55 sources[0].roots[1]: '/a' and '/a/b' of sources[0].roots[0] overlap",
        ),
        (
            "root: /a",
            "root: /a/../b",
            "4:52 destinations[0].root: '/a/../b' goes up with ..; write the path it leads to",
        ),
        ("root: /a", "root: //a/./b", "4:52 destinations[0].root: '//a/./b': write '/a/b'"),
        ("root: /a", "root: /", "4:52 destinations[0].root: '/' is the whole file system"),
        ("root: /a", "root: /a, capacity: 2tb", "4:66 destinations[0].capacity: '2tb' is no size; did you mean 2TB?"),
        ("root: /a", "root: /a, capacity: 0B", "4:66 destinations[0].capacity: 0B is too little; at least 1B"),
        (
            "}]\nd",
            "}, {name: s2, address: 10.0.0.1, roots: [/b]}]\nd",
            "3:75 sources[1].address: 10.0.0.1 is the server",
        ),
        (
            "root: /a}",
            "root: /a}, {name: d2, address: 10.0.0.2, root: /b}",
            "4:77 destinations[1].address: 10.0.0.2 is",
        ),
    ],
)
def test_a_fault_of_a_needed_key_is_told_with_its_place(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in MINIMAL
    found = faults(tmp_path, MINIMAL.replace(old, new, 1))
    assert found[0].startswith(fault)
    assert len(found) == 1


def test_every_fault_is_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
nodes: x
inputs: {hitcount_history: h, max_age: 60}
evict: {target_percent: 95, limit_percent: 90}
sources:
  - {name: a, address: 10.0.0.1, roots: [x]}
  - {name: a, address: 10.0.0.3, roots: [/x]}
destinations:
  - {name: d, address: nowhere, root: /x}
"""
    found = [fault.split(": ")[0] for fault in faults(tmp_path, text)]
    assert found == [
        "1:1 nodes",
        "1:1 node",
        "2:9 inputs.grade_info",
        "2:40 inputs.max_age",
        "3:25 evict.target_percent",
        "5:42 sources[0].roots[0]",
        "6:12 sources[1].name",
        "8:24 destinations[0].address",
    ]


def test_rules_between_keys_are_silent_about_keys_that_are_faulty_themselves(tmp_path: Path) -> None:
    assert len(faults(tmp_path, MINIMAL + "evict: {target_percent: 95, limit_percent: ninety}\n")) == 1
    two = "destinations: [{address: x, root: /a, name: d1}, {address: x, root: /a, name: d2}]"
    assert len(faults(tmp_path, MINIMAL.replace("destinations: [{name: d1, address: 10.0.0.2, root: /a}]", two))) == 2


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", "1:1 config: the file is empty; write one with: cftools config example >"),
        (b"# only this\n", "1:1 config: the file is empty"),
        (b"- a\n", "1:1 config: must be a mapping of keys"),
        (b"just text", "1:1 config: must be a mapping of keys"),
        (b"node: a\n  b: c\n", "2:4 syntax: mapping values are not allowed in this context"),
        (b"node: a\n\tb: c\n", "2:1 syntax: a tab; YAML is indented with spaces"),
        (b"node: [a\nb: c\n", "2:2 syntax: "),
        (b"node: 'a\n", "2:1 syntax: found unexpected end of stream"),
        (b"node: *x\n", "1:7 syntax: found undefined alias at '*x'"),
        (
            b"node: a\n---\nnode: b\n",
            "2:1 syntax: but found another document (expected a single document in the stream)",
        ),
        (b"node: a\nx: \xff\n", "2:4 syntax: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("é: é\n".encode() + b"x: \xc3(\n", "2:4 syntax: byte 0xc3 is not UTF-8"),
        ("node: a\n".encode("utf-16"), "1:1 syntax: byte 0xff is not UTF-8"),
        (b"node: a\nx: \x00\n", "2:4 syntax: the character U+0000 is not allowed in YAML"),
        (b"[" * 100_000, "1:61 syntax: more than 60 levels of nesting"),
        (b"{a: " * 100_000, "1:241 syntax: more than 60 levels of nesting"),
        (b"- " * 100_000, "1:121 syntax: more than 60 levels of nesting"),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("libyaml", [True, False])
def test_a_file_that_is_no_config_is_one_fault(
    tmp_path: Path, raw: bytes, fault: str, libyaml: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not libyaml:
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
        fault = fault.partition(" syntax: ")[0].partition(":")[0] if "syntax" in fault else fault
    found = faults(tmp_path, raw)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_a_missing_file_tells_how_to_write_one(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigFaults) as raised:
        load(path)
    assert str(raised.value) == f"{path}: no such config file; write one with: cftools config example > {path}"
    assert raised.value.exit_code == 78


def test_what_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults, match="a folder, not a config file"):
        load(tmp_path)
    with pytest.raises(ConfigFaults, match="cannot be read: Not a directory"):
        load(written(tmp_path, "x") / "below")
    with pytest.raises(ConfigFaults, match="larger than 8 MiB; is this the config file"):
        load(written(tmp_path, b"#" * (LARGEST + 1)))


def test_the_name_of_the_file_is_shown_whatever_its_bytes(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yaml"))
    with pytest.raises(ConfigFaults) as raised:
        load(path)
    assert "/\\xff.yaml: no such config file" in str(raised.value)
