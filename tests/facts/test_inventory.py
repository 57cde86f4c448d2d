"""Listing a server: a whole listing or none at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_node import ODD, SIZE, LocalNode, Wire, cut, fake_program, put, raising, text

from cftools.config.servers import ServerSettings
from cftools.facts import inventory
from cftools.facts.inventory import Inventory, Listing, Partial
from cftools.model.errors import InputUnusable
from cftools.model.rows import Begin, End, Holding, Row
from cftools.pipe import Stream
from cftools.remote.transport import RemoteFault, Reply, Script


def server(*roots: Path, capacity: float | None = None) -> ServerSettings:
    return ServerSettings("dest1", "destination", "10.0.0.9", tuple(str(root) for root in roots), capacity)


def look(settings: ServerSettings, wire: Wire | None = None, marker: str = "") -> Listing:
    return inventory.look(wire or Wire("dest1"), settings, marker, ["src1", "dest1"])


def listed(listing: Listing) -> list[tuple[int, str, int]]:
    assert listing.server.state == "ok", listing.server.error
    return sorted((root, name, size) for _, root, name, size, _ in listing.holdings.iter_rows())


def refused(listing: Listing) -> str:
    assert listing.server.state == "incomplete"
    assert listing.server.files == -1
    assert listing.holdings.height == 0
    return listing.server.error


def test_files_of_any_name_are_listed_with_size_time_and_name_below_the_root(tmp_path: Path) -> None:
    for name in ODD:
        os.utime(put(tmp_path, name), (1, 1_500_000_000.75))
    listing = look(server(tmp_path))
    assert listed(listing) == sorted((0, text(name), SIZE) for name in ODD)
    assert set(listing.holdings["mtime"]) == {1_500_000_000}
    assert set(listing.holdings["server"]) == {"dest1"}
    assert listing.server.files == len(ODD)


NAMES = st.binary(min_size=1, max_size=30).filter(
    lambda raw: b"\0" not in raw and b"/" not in raw and raw not in (b".", b"..") and not raw.startswith(b".cftools-")
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES, st.integers(0, 50), max_size=12))
def test_any_set_of_files_comes_out_as_it_is(files: dict[bytes, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, size in files.items():
            put(Path(folder), name, b"x" * size)
        assert listed(look(server(Path(folder)))) == sorted((0, text(name), size) for name, size in files.items())


def test_only_regular_files_are_holdings_and_links_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, b"a.mpg")
    put(root, b"sub/a.mpg")
    put(tmp_path, b"outside/b.mpg")
    (root / "link").symlink_to(tmp_path / "outside" / "b.mpg")
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "empty").mkdir()
    os.mkfifo(root / "fifo")
    assert listed(look(server(root))) == [(0, "a.mpg", SIZE), (0, "sub/a.mpg", SIZE)]


def test_unfinished_copies_own_files_and_lost_and_found_are_no_holdings(tmp_path: Path) -> None:
    put(tmp_path, b"a.mpg")
    put(tmp_path, b".cftools-root", b"")
    os.utime(put(tmp_path, b".cftools-part-12/b\n.mpg", b"half"), (5, 5))
    put(tmp_path, b"lost+found/c.mpg")
    put(tmp_path, b"sub/lost+found/d.mpg")
    put(tmp_path, b"sub/.cftools-e.mpg")
    listing = look(server(tmp_path))
    assert [name for _, name, _ in listed(listing)] == ["a.mpg", "sub/.cftools-e.mpg", "sub/lost+found/d.mpg"]
    assert listing.partials == (Partial(".cftools-part-12/b\n.mpg", 4, 5),)


def test_every_root_is_listed_and_a_shared_disk_counts_once(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / str(number), b"same.mpg", b"x" * number)
    one, three = look(server(tmp_path / "0")), look(server(*(tmp_path / str(number) for number in range(3))))
    assert listed(three) == [(number, "same.mpg", number) for number in range(3)]
    assert three.server.total == one.server.total > 0
    disk = os.statvfs(tmp_path)
    assert one.server.total == disk.f_blocks * disk.f_frsize


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_root_that_is_missing_makes_the_whole_server_incomplete(tmp_path: Path, missing: int) -> None:
    roots = [tmp_path / str(number) for number in range(3)]
    for root in roots:
        put(root, b"a.mpg")
    (roots[missing] / "a.mpg").unlink()
    roots[missing].rmdir()
    assert refused(look(server(*roots))) == f"{roots[missing]}: not a folder that can be entered"
    roots[missing].write_text("a file")
    assert "not a folder" in refused(look(server(*roots)))


def test_an_empty_root_is_listed_as_empty_and_not_as_unknown(tmp_path: Path) -> None:
    listing = look(server(tmp_path))
    assert listed(listing) == []
    assert listing.server.files == 0


def test_a_listing_cut_off_anywhere_is_incomplete(tmp_path: Path) -> None:
    for name in ("a.", ".b", "c\n."):
        put(tmp_path / "0", name)
        put(tmp_path / "1", name)
    settings = server(tmp_path / "0", tmp_path / "1")
    wire = Wire("dest1")
    seen: list[Reply] = []
    wire.after = lambda _, reply: seen.append(reply) or reply  # type: ignore[func-returns-value]
    assert len(listed(look(settings, wire, ".cftools-root"))) == 6
    (whole,) = seen
    borders = {place for place, byte in enumerate(whole.out) if not byte}
    for length in sorted(({0} | borders | {border + 1 for border in borders}) - {len(whole.out)}):
        wire.after = lambda *_, length=length: whole._replace(out=whole.out[:length])
        refused(look(settings, wire, ".cftools-root"))
    # A record that was lost on the way, with the end in its place.
    records = whole.out.split(b"\0")[:-1]
    for place, record in enumerate(records):
        if record[:1] in (b"F", b"C", b"R", b"D"):
            rest = b"\0".join([*records[:place], *records[place + 1 :]]) + b"\0"
            wire.after = lambda *_, rest=rest: whole._replace(out=rest)
            refused(look(settings, wire, ".cftools-root"))
    wire.after = lambda *_: whole._replace(status=1)
    refused(look(settings, wire))


@pytest.mark.parametrize("banner", [b"Welcome\n", b"Fine\n", b"R", b"\0", b"C1 0\0", b"D1 - - -\0", b"R0\0R1\0"])
def test_what_a_login_shell_prints_ahead_is_never_taken_for_a_listing(tmp_path: Path, banner: bytes) -> None:
    put(tmp_path, b"a.mpg")
    wire = Wire("dest1")
    wire.after = lambda _, reply: reply._replace(out=banner + reply.out)
    if banner == b"\0":
        assert listed(look(server(tmp_path), wire)) == [(0, "a.mpg", SIZE)]
    else:
        refused(look(server(tmp_path), wire))


def test_errors_of_find_make_a_listing_incomplete_and_say_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "root", b"a.mpg")
    complaint = '"$real" "$@"; echo "find: \'./sub\': Permission denied" >&2; exit 1'
    fake_program(monkeypatch, tmp_path / "bin", "find", complaint)
    error = refused(look(server(tmp_path / "root")))
    assert "find had errors" in error
    assert "'./sub': Permission denied" in error


@pytest.mark.parametrize("body", ['"$real" "$@"; kill -9 $$', "exit 0", 'printf "F1 1.0 b.mpg\\0"; exec "$real" "$@"'])
def test_a_find_that_dies_or_lists_another_number_than_it_counts_is_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    put(tmp_path / "root", b"a.mpg")
    fake_program(monkeypatch, tmp_path / "bin", "find", body)
    listing = look(server(tmp_path / "root"))
    if body == "exit 0":  # it counted none and listed none: nothing can show that it lied
        assert listed(listing) == []
    else:
        refused(listing)


def test_a_df_that_fails_makes_the_listing_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "root", b"a.mpg")
    fake_program(monkeypatch, tmp_path / "bin", "df", "exit 1")
    refused(look(server(tmp_path / "root")))


def test_the_mount_marker_is_looked_for_in_every_root(tmp_path: Path) -> None:
    put(tmp_path / "0", b".cftools-root", b"")
    put(tmp_path / "1", b"a.mpg")
    both = server(tmp_path / "0", tmp_path / "1")
    assert look(both).marked is None
    assert look(both, marker=".cftools-root").marked is False
    assert look(server(tmp_path / "0"), marker=".cftools-root").marked is True
    put(tmp_path / "1", b".cftools-root", b"")
    assert look(both, marker=".cftools-root").marked is True


@pytest.mark.parametrize(("capacity", "available", "percent"), [(1000, 700, 30), (299, 0, 100), (100, 0, 100)])
def test_a_capacity_stands_in_for_df(tmp_path: Path, capacity: float, available: int, percent: int) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path, name)
    row = look(server(tmp_path, capacity=capacity)).server
    assert (row.total, row.used, row.available, row.used_percent) == (capacity, 300, available, percent)


@pytest.mark.parametrize(
    ("used", "available", "percent"),
    [(0, 100, 0), (90, 10, 90), (901, 99, 91), (1, 10**15, 1), (100, 0, 100), (0, 0, 0)],
)
def test_used_percent_is_rounded_up_as_df_does(used: int, available: int, percent: int) -> None:
    assert inventory.used_percent(used, available) == percent


def test_each_fault_of_the_way_has_its_state_and_hides_no_other_server(tmp_path: Path) -> None:
    node = LocalNode(tmp_path, destinations=4)
    node.put("a.mpg", "src1", "dest1", "dest2", "dest3", "dest4")
    node.wires["dest1"].before = raising(RemoteFault("dest1", "unreachable", "No route to host"), "inventory")
    node.wires["dest2"].before = raising(RemoteFault("dest2", "refused", "host key differs"), "inventory")
    node.wires["dest3"].before = raising(RemoteFault("dest3", "silent", "no answer"), "inventory")
    node.wires["dest4"].after = cut(30)
    taken = inventory.take(node.fleet, node.settings, "", 5.0)
    assert {name: row.state for name, row in taken.servers.items()} == {
        "src1": "ok",
        "dest1": "unreachable",
        "dest2": "refused",
        "dest3": "incomplete",
        "dest4": "incomplete",
    }
    assert set(taken.holdings["server"]) == {"src1"}
    assert taken.servers["dest2"].error == "host key differs"


def stream(node: LocalNode, taken: Inventory) -> Stream:
    rows: list[Row] = [*taken.servers.values()]
    rows += inventory.holding_rows(taken, node.fleet.servers)
    return Stream(Begin("inventory", "0", 5.0), rows, End("inventory", True))


def test_rows_of_an_inventory_give_the_inventory_back(tmp_path: Path) -> None:
    node = LocalNode(tmp_path, roots=2)
    for name in ODD:
        put(node.root("src1", 1), name)
        node.put(name, "dest1")
    before = inventory.take(node.fleet, node.settings, "", 5.0)
    after = inventory.from_rows(stream(node, before), "file", node.settings)
    assert after.servers == before.servers
    assert after.holdings.sort("server", "name").equals(before.holdings.sort("server", "name"))
    assert (after.at, after.live) == (5.0, False)


def test_rows_that_lack_a_holding_or_lie_below_no_root_are_unusable(tmp_path: Path) -> None:
    node = LocalNode(tmp_path)
    node.put("a.mpg", "dest1")
    whole = stream(node, inventory.take(node.fleet, node.settings, "", 5.0))
    (holding,) = (row for row in whole.rows if isinstance(row, Holding))
    less = whole._replace(rows=[row for row in whole.rows if row is not holding])
    with pytest.raises(InputUnusable, match="dest1 has 1 files, 0 holding rows came"):
        inventory.from_rows(less, "file", node.settings)
    moved = msgspec.structs.replace(holding, path="/elsewhere/a.mpg")
    with pytest.raises(InputUnusable, match="lies in none of its roots"):
        inventory.from_rows(whole._replace(rows=[*less.rows, moved]), "file", node.settings)


def test_the_command_needs_one_call_for_all_roots(tmp_path: Path) -> None:
    node = LocalNode(tmp_path, roots=3)
    inventory.take(node.fleet, node.settings, "", 5.0)
    assert sorted(node.calls) == sorted((one.name, "inventory") for one in node.settings)
    assert isinstance(inventory.script(node.settings[0], ""), Script)
