"""The proofs can fail: each protection that is taken out of the real code lets one of them find a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
from explorer import Explorer
from memory_node import MemoryLocks, World
from planner_table import Table, table
from stories import DESTINATIONS, Broken, Story
from test_every_situation import overtaken

from cftools.actions import protocol
from cftools.model import frames
from cftools.plans import dedup, known
from cftools.plans.values import Node
from cftools.state import journal
from cftools.state.database import Database


def found(explorer: Explorer) -> set[str]:
    """What is violated when every situation is looked for."""
    explorer.explore()
    return {one.what for one in explorer.violations}


def seeds_broken(count: int) -> Iterator[str]:
    world, answers = World(DESTINATIONS), table(DESTINATIONS)
    for seed in range(count):
        try:
            Story(seed, world, answers).tell()
        except Broken as broken:
            yield str(broken)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces a part of the protocol by one that answers always the same."""

    def replace(name: str, answer: Any) -> None:
        monkeypatch.setattr(protocol, name, lambda *_: answer)

    return replace


def test_without_the_look_at_the_keeper_dedup_deletes_the_last_copy(broken: Any) -> None:
    broken("_keeper_fault", "")
    assert found(Explorer(2)) == {"dedup deleted the last copy"}


def test_without_the_look_at_the_origin_files_go_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol._OriginView, "fault", lambda *_: "")
    assert found(Explorer(2)) == {"deleted what the origin lacks"}


def test_with_addresses_in_the_order_of_text_the_wrong_copy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """10.0.0.9 would come after 10.0.0.10."""
    monkeypatch.setattr(frames, "address_key", str)
    assert "the keeper is not above its duplicate" in found(Explorer(3, plans=Table(3).every_plan))


def test_with_a_keeper_chosen_as_it_comes_the_order_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner takes any copy that is alive for the keeper, and the others for duplicates."""

    def any_keeper(node: Node, files: pl.DataFrame, holders: pl.DataFrame) -> pl.DataFrame:
        kept = with_keeper(node, files, holders)
        turned = pl.col("holders").list.reverse()
        return kept.with_columns(holders=turned, keeper=pl.col("holders").list.first())

    with_keeper = dedup._with_keeper
    monkeypatch.setattr(dedup, "_with_keeper", any_keeper)
    monkeypatch.setattr(pl.Expr, "__lt__", pl.Expr.__gt__)
    assert "the keeper is not above its duplicate" in found(Explorer(3, plans=Table(3).every_plan))


def test_without_the_lock_two_managers_lose_the_last_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def at_once(*_: object, **__: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(MemoryLocks, "wait", at_once)
    assert "dedup deleted the last copy" in {one.what for one in overtaken(2)[0]}
    assert any("dedup deleted the last copy" in one for one in seeds_broken(2000))


def test_when_unsettled_deletions_stop_nobody_a_late_one_takes_the_last_copy(broken: Any) -> None:
    broken("settle_dead_runs", {})
    assert "dedup deleted the last copy" in found(Explorer(2))


def test_when_what_stands_is_settled_before_its_time_a_late_deletion_takes_the_last_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unsettled = journal.unsettled_deletes

    def expired(database: Database, *, elsewhere: bool = False) -> list[journal.Unsettled]:
        return [one._replace(expires=0) for one in unsettled(database, elsewhere=elsewhere)]

    monkeypatch.setattr(journal, "unsettled_deletes", expired)
    assert "dedup deleted the last copy" in found(Explorer(2))


def test_when_files_that_are_gone_are_asked_for_the_journal_does_not_tell_the_truth(broken: Any) -> None:
    broken("_missing", {})
    assert "the journal says done" in found(Explorer(2)), "the journal takes what was gone before for its own deed"


def test_when_a_deletion_never_expires_nothing_comes_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "PATIENCE", 1 << 30)
    assert any("it does not come to rest" in one for one in seeds_broken(300))


def test_without_a_journal_row_first_nobody_knows_what_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "intend_deletes", lambda _database, _run, intents, _now: list(range(len(intents))))
    assert found(Explorer(2)) == {"deleted without a journal row"}


def test_when_copies_arrive_where_a_deletion_is_open_the_journal_does_not_tell_the_truth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "may_be_deleted", lambda *_: False)
    assert any("the journal does not tell the truth" in one for one in seeds_broken(2000))


def test_without_a_look_for_the_origin_the_planner_asks_for_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "on_origin", lambda _node, frame: frame["name"].is_not_null())
    answers = Table(2)
    assert any(answers.rows("all-but-one", 3, view) for view in answers.views if not view.origin)
