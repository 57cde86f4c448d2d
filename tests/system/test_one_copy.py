"""The five cases of keeping one copy, on real servers: dest1 < dest2 < dest3 by number, not by text."""

from __future__ import annotations

import pytest
from site_of_sshd import MakeSite, Site, end, kinds, outcomes

pytestmark = pytest.mark.system

FILE = "a.mpg"
ALL = ["dest1", "dest2", "dest3"]


@pytest.fixture(params=["one", "all-but-one"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(make_site: MakeSite, mode: str) -> Site:
    site = make_site()
    site.configure(dedup={"deletes_per_file": mode})
    site.put(FILE, "src1", *ALL)
    site.start()
    return site


def test_case_1_fresh_history_each_time(site: Site, mode: str) -> None:
    left = [["dest2", "dest3"], ["dest3"], ["dest3"]] if mode == "one" else [["dest3"]] * 3
    deleted = [["dest1"], ["dest2"], []] if mode == "one" else [["dest1", "dest2"], [], []]
    for holders, gone in zip(left, deleted, strict=True):
        site.write_inputs({FILE: [server for server in site.holders(FILE) if server != "src1"]})
        rows = site.run("dedup", "--apply")
        assert outcomes(rows) == [(server, FILE, "done") for server in gone]
        assert site.holders(FILE) == ["src1", *holders]


def test_case_2_history_not_updated_asks_the_same_servers_again(site: Site, mode: str) -> None:
    site.write_inputs({FILE: ALL})
    asked = ["dest1"] if mode == "one" else ["dest1", "dest2"]
    left = [server for server in ALL if server not in asked]
    assert outcomes(site.run("dedup", "--apply")) == [(server, FILE, "done") for server in asked]
    for _ in range(2):
        assert outcomes(site.run("dedup", "--apply")) == [(server, FILE, "already") for server in asked]
        assert site.holders(FILE) == ["src1", *left]


def test_case_3_the_order_of_the_history_and_of_the_config_changes_nothing(site: Site, mode: str) -> None:
    site.destinations = dict(reversed(site.destinations.items()))
    site.configure(dedup={"deletes_per_file": mode})
    asked = ["dest1"] if mode == "one" else ["dest1", "dest2"]
    for order in (["dest3", "dest1", "dest2"], ["dest2", "dest3", "dest1"], ["dest1", "dest2", "dest3"]):
        site.write_inputs({FILE: order})
        rows = site.run("dedup")
        assert [row["server"] for row in kinds(rows, "delete")] == asked
        assert {row["keeper"] for row in kinds(rows, "delete")} == {"dest3"}
    # A varying order loses the last copy in two runs with a stale history; this one never reaches the keeper.
    for order in (["dest3", "dest2", "dest1"], ["dest1", "dest3", "dest2"]):
        site.write_inputs({FILE: order})
        site.run("dedup", "--apply")
        assert "dest3" in site.holders(FILE)


def test_case_4_an_unreachable_destination_with_its_old_report(site: Site, mode: str) -> None:
    site.write_inputs({FILE: ALL})
    site.servers.stop("dest1")
    rows = site.run("dedup", "--apply", expect=1)
    states = {row["server"]: row["state"] for row in kinds(rows, "outcome")}
    # The lowest is asked and cannot answer; mode `one` does not move on to the next.
    assert states == ({"dest1": "refused"} if mode == "one" else {"dest1": "refused", "dest2": "done"})
    assert "dest1 a.mpg: refused: Connection refused" in site.talk
    assert site.holders(FILE) == ["src1", "dest1", *(ALL[1:] if mode == "one" else ["dest3"])]
    site.start("dest1")
    for _ in range(3):
        site.write_inputs({FILE: [server for server in site.holders(FILE) if server != "src1"]})
        site.run("dedup", "--apply")
    assert site.holders(FILE) == ["src1", "dest3"]


def test_case_4_the_highest_is_unreachable_and_the_highest_alive_keeps_it(site: Site) -> None:
    site.write_inputs({FILE: ALL})
    site.servers.stop("dest3")
    rows = site.run("dedup", "--apply")
    assert outcomes(rows) == [("dest1", FILE, "done")]
    assert {row["keeper"] for row in kinds(rows, "delete")} == {"dest2"}
    assert outcomes(site.run("dedup", "--apply")) == [("dest1", FILE, "already")]
    assert site.holders(FILE) == ["src1", "dest2", "dest3"]
    site.start("dest3")
    site.write_inputs({FILE: ["dest2", "dest3"]})
    assert outcomes(site.run("dedup", "--apply")) == [("dest2", FILE, "done")]
    assert site.holders(FILE) == ["src1", "dest3"]


def test_case_5_a_stale_report_hides_dest1_and_later_shows_it_again(site: Site, mode: str) -> None:
    site.write_inputs({FILE: ["dest2", "dest3"]})
    assert outcomes(site.run("dedup", "--apply")) == [("dest2", FILE, "done")]
    assert site.holders(FILE) == ["src1", "dest1", "dest3"]
    site.write_inputs({FILE: ["dest1", "dest2", "dest3"]})
    rows = site.run("dedup", "--apply")
    expected = [("dest1", FILE, "done")] + ([] if mode == "one" else [("dest2", FILE, "already")])
    assert outcomes(rows) == expected
    assert site.holders(FILE) == ["src1", "dest3"]


def test_without_apply_nothing_changes(site: Site) -> None:
    site.write_inputs({FILE: ALL})
    rows = site.run("dedup")
    assert kinds(rows, "delete")
    assert not kinds(rows, "outcome")
    assert site.holders(FILE) == ["src1", *ALL]
    assert end(rows)["complete"] is True
