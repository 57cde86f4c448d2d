"""What earlier runs saw is remembered, the newest of each."""

from __future__ import annotations

from cftools.model.rows import Heartbeat
from cftools.state import seen
from cftools.state.database import Database
from cftools.state.seen import HistorySeen, Remembered


def test_the_newest_heartbeat_of_each_server_is_remembered(database: Database, another: Database) -> None:
    good, bad = Heartbeat("dst1", "destination", True, 12), Heartbeat("dst1", "destination", False, 5000, "timed out")
    source = Heartbeat("src1", "source", True, 3)
    assert seen.heartbeats(database) == {}
    seen.remember_heartbeats(database, [good, source], 10.0)
    seen.remember_heartbeats(database, [bad], 20.0)
    assert seen.heartbeats(another) == {"dst1": Remembered(bad, 20.0), "src1": Remembered(source, 10.0)}
    seen.remember_heartbeats(database, [], 30.0)
    assert seen.heartbeats(another)["src1"].at == 10.0


def test_the_size_of_each_servers_last_listing_is_remembered(database: Database, another: Database) -> None:
    seen.remember_inventory(database, {"dst1": 10, "dst2": 0}, 10.0)
    seen.remember_inventory(database, {"dst1": 7}, 20.0)
    assert seen.inventory(another) == {"dst1": 7, "dst2": 0}


def test_the_last_history_of_each_path_is_remembered(database: Database, another: Database) -> None:
    old, new = HistorySeen(1, 99, ("10.0.0.9",)), HistorySeen(2, 98, ("10.0.0.9", "10.0.0.10"))
    assert seen.history(database, "/data/h") is None
    seen.remember_history(database, "/data/h", old, 10.0)
    seen.remember_history(database, "/data/h", new, 20.0)
    seen.remember_history(database, "/other", HistorySeen(3, 0, ()), 20.0)
    assert seen.history(another, "/data/h") == new
    assert seen.history(another, "/other") == HistorySeen(3, 0, ())
