"""Loading: what is found, what it becomes, and that nothing but a list of faults ever comes back from a bad file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cftools.config import tree
from cftools.config.load import find_config, load, state_path
from cftools.config.schema import Config, Evict
from cftools.model.errors import ConfigFaults

SAMPLE = """\
node: seoul-1
state: {url: sqlite:///var/lib/cftools/state.db, directory: /var/lib/cftools}   # relative paths are relative to this
inputs:
  hitcount_history: /data2/FailOver/.hitcount.history
  grade_info: /data2/FailOver/.grade.info
  event_log_dir: /var/log/castis/lb_log
  event_log_name: EventLog[%Y%m%d].log
  max_age: 6h                       # older history or grades delete nothing
hot_files: {served_by: [125.159.40.3], min_hits: 5, window: 10m}
ignore: {prefixes: [M64, MN1]}
ssh: {user: vod, port: 22, identity: ~/.ssh/id_ed25519, known_hosts: ~/.ssh/known_hosts, connect_timeout: 5s, \
response_timeout: 60s}
sources:                            # one entry a server; any ssh key above can be overridden in it
  - {name: src1, address: 172.18.0.101, roots: [/data2, /data3]}
destinations:
  - {name: dst1, address: 172.18.0.111, root: /data, capacity: 2TB}   # capacity: optional
distribute: {speed_limit: 10Mbit, timeout: 1h, via: pull, spread: most-free, cooldown: 10m}
dedup: {deletes_per_file: all-but-one}            # or: one
evict: {limit_percent: 90, target_percent: 88, min_residency: 6h}
guards: {max_deletes: 10000, max_delete_bytes: 50TB, max_delete_percent: 20, max_inventory_shrink_percent: 30, \
mount_marker: .cftools-root}   # marker optional
bulk_delete:
  partition: 500
  attempts: 3
  targets:
    images: {servers: [img1, img2], root: /images}     # servers may also be declared under `servers:`
"""

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


def loaded(folder: Path, text: str) -> Config:
    return load(written(folder, text))


def test_the_sample_of_the_interface_loads_with_every_key(tmp_path: Path) -> None:
    config = loaded(tmp_path, SAMPLE)
    assert config.node == "seoul-1"
    assert state_path(config) == Path("/var/lib/cftools/state.db")
    assert config.inputs.event_log_name == "EventLog[%Y%m%d].log"
    assert config.inputs.max_age == 21600.0
    assert config.hot_files is not None
    assert (config.hot_files.served_by, config.hot_files.min_hits, config.hot_files.window) == (
        ["125.159.40.3"],
        5,
        600.0,
    )
    assert config.ignore.prefixes == ["M64", "MN1"]
    assert (config.ssh.user, config.ssh.port, config.ssh.response_timeout) == ("vod", 22, 60.0)
    assert config.ssh.identity == str(Path.home() / ".ssh/id_ed25519")
    assert config.sources[0].roots == ["/data2", "/data3"]
    assert (config.destinations[0].address, config.destinations[0].capacity) == ("172.18.0.111", 2e12)
    assert (config.distribute.speed_limit, config.distribute.timeout, config.distribute.via) == (10e6, 3600.0, "pull")
    assert config.dedup.deletes_per_file == "all-but-one"
    assert config.evict == Evict(90, 88, 21600.0)
    assert (config.guards.max_delete_bytes, config.guards.mount_marker) == (50e12, ".cftools-root")
    assert config.bulk_delete.targets["images"].servers == ["img1", "img2"]


def test_what_is_left_out_has_its_default_with_paths_resolved(tmp_path: Path) -> None:
    config = loaded(tmp_path, MINIMAL)
    assert config.state.directory == str(tmp_path / "state")
    assert state_path(config) == tmp_path / "state" / "state.db"
    assert config.ssh.known_hosts == str(Path.home() / ".ssh/known_hosts")
    assert config.ssh.identity == ""
    assert (config.hot_files, config.servers, config.bulk_delete.targets) == (None, [], {})


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    written(tmp_path / "conf", MINIMAL)
    monkeypatch.chdir(tmp_path)
    config = load(Path("conf/c.yaml"))
    assert config.inputs.hitcount_history == str(tmp_path / "conf" / "h")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///abs/s.db", "/abs/s.db"),
        ("sqlite:/abs/s.db", "/abs/s.db"),
        ("sqlite:rel/s.db", "HERE/rel/s.db"),
        ("sqlite:./s.db", "HERE/s.db"),
        ("sqlite:///./rel/s.db", "HERE/rel/s.db"),
        ("sqlite:///../s.db", "HERE/../s.db"),
        ("sqlite:~/s.db", "HOME/s.db"),
    ],
)
def test_the_state_database_may_be_absolute_or_relative(tmp_path: Path, url: str, expected: str) -> None:
    config = loaded(tmp_path, MINIMAL + f"state: {{url: '{url}'}}\n")
    wanted = expected.replace("HERE", str(tmp_path)).replace("HOME", str(Path.home()))
    assert state_path(config) == Path(wanted)


def test_a_section_with_nothing_in_it_has_its_defaults(tmp_path: Path) -> None:
    assert loaded(tmp_path, MINIMAL + "evict:\n#  limit_percent: 80\nbulk_delete: {targets: }\n").evict == Evict()


def test_null_unsets_what_may_be_unset(tmp_path: Path) -> None:
    config = loaded(tmp_path, MINIMAL + "hot_files: null\ndistribute: {speed_limit: ~}\n")
    assert config.hot_files is None
    assert config.distribute.speed_limit is None


def test_texts_that_yaml_takes_for_numbers_are_taken_as_written(tmp_path: Path) -> None:
    text = MINIMAL.replace("10.0.0.2", "1:2:3:4:5:6:7:8") + "ssh: {user: 1001}\nevict: {target_percent: 7%}\n"
    config = loaded(tmp_path, text + "guards: {max_deletes: 10_000}\ndistribute: {checksum: on}\n")
    assert config.destinations[0].address == "1:2:3:4:5:6:7:8"
    assert (config.ssh.user, config.evict.target_percent, config.guards.max_deletes) == ("1001", 7, 10000)
    assert config.distribute.checksum is True


def test_addresses_and_server_paths_come_in_their_usual_form(tmp_path: Path) -> None:
    text = MINIMAL.replace("10.0.0.2", "FD00:0::1").replace("root: /a", "root: /data/")
    config = loaded(tmp_path, text)
    assert (config.destinations[0].address, config.destinations[0].root) == ("fd00::1", "/data")


def test_anchors_and_merge_keys_are_followed(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        "destinations: [{name: d1, address: 10.0.0.2, root: /a}]",
        "destinations:\n  - &d {name: d1, address: 10.0.0.2, root: /a, port: 2222}\n"
        "  - {<<: *d, name: d2, address: 10.0.0.3}\n  - {name: d3, <<: [{port: 9}, *d], address: 10.0.0.4}\n",
    )
    shown = [(each.name, each.address, each.root, each.port) for each in loaded(tmp_path, text).destinations]
    assert shown == [("d1", "10.0.0.2", "/a", 2222), ("d2", "10.0.0.3", "/a", 2222), ("d3", "10.0.0.4", "/a", 9)]


def test_a_mapping_merged_into_itself_ends(tmp_path: Path) -> None:
    assert loaded(tmp_path, MINIMAL + "evict: &e {<<: *e, limit_percent: 95}\n").evict.limit_percent == 95


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load(path).node == "n"


def test_two_servers_behind_one_address_may_have_the_same_folders(tmp_path: Path) -> None:
    text = MINIMAL.replace("10.0.0.2", "10.0.0.1, port: 2222")
    assert loaded(tmp_path, text).destinations[0].port == 2222


def test_reading_goes_on_without_libyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_libyaml = loaded(tmp_path, SAMPLE)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert loaded(tmp_path, SAMPLE) == with_libyaml


def test_the_option_comes_before_the_variable_before_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    usual = tmp_path / "conf" / "cftools.yaml"
    usual.touch()
    other = tmp_path / "etc.yaml"
    other.touch()
    assert find_config(Path("given"), {"CFTOOLS_CONFIG": "variable"}) == Path("given")
    assert find_config(None, {"CFTOOLS_CONFIG": "variable"}) == Path("variable")
    assert find_config(None, {"CFTOOLS_CONFIG": ""}) == Path("conf/cftools.yaml")
    usual.unlink()
    assert find_config(None, {}, (Path("conf/cftools.yaml"), other)) == other


def test_without_any_config_the_places_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigFaults) as raised:
        find_config(None, {}, (Path("conf/cftools.yaml"), tmp_path / "etc" / "cftools.yaml"))
    (line,) = raised.value.faults
    for part in (
        "--config",
        "$CFTOOLS_CONFIG",
        "conf/cftools.yaml",
        "etc/cftools.yaml",
        str(tmp_path),
        "config example",
    ):
        assert part in line


def test_a_node_of_two_hundred_servers_loads_at_once(tmp_path: Path) -> None:
    destinations = "\n".join(f"  - {{name: d{i}, address: 10.0.1.{i}, root: /data, capacity: 2TB}}" for i in range(200))
    text = MINIMAL.replace("destinations: [{name: d1, address: 10.0.0.2, root: /a}]", f"destinations:\n{destinations}")
    path = written(tmp_path, text)
    taken = []
    for _ in range(5):
        began = time.process_time()
        load(path)
        taken.append(time.process_time() - began)
    assert min(taken) < 0.1


def test_loading_imports_nothing_heavy() -> None:
    code = "import sys, cftools.config.load; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "yaml" in found
    assert not {"polars", "paramiko", "asyncssh", "rich", "typer", "difflib", "zoneinfo"} & set(found)


pieces = st.sampled_from(
    [
        *SAMPLE.split(),
        *"{}[],:-#&*!|>'\"%@`~?\n\t \\",
        "\n  ",
        "\n- ",
        ": ",
        "<<: ",
        "&a ",
        "*a ",
        "!!int ",
        "~",
        "null",
        "1e9",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=30).map("".join),
        st.tuples(st.integers(0, len(SAMPLE)), st.integers(0, 40), st.lists(pieces, max_size=3).map("".join)).map(
            lambda cut: SAMPLE[: cut[0]] + cut[2] + SAMPLE[cut[0] + cut[1] :]
        ),
    ).map(lambda text: text.encode(errors="surrogatepass")),
)
def test_garbage_is_never_more_than_a_list_of_faults(tmp_path: Path, raw: bytes) -> None:
    path = written(tmp_path, raw)
    lines: tuple[str, ...] = ()
    try:
        load(path)
    except ConfigFaults as fault:
        lines = fault.faults
        assert lines
    for line in lines:
        assert line.isprintable()
        assert line.startswith(f"{path}:")


def test_nesting_of_an_honest_file_is_far_from_the_limit() -> None:
    assert tree.compose(b"[" * 59 + b"]" * 59) is not None
