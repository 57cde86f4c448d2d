"""What dedup plans: the five cases of single-copy keeping, each reason, and a slow plain answer to compare with."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pytest
from hypothesis import given, settings
from planning import PREFIXES, SERVERS, Facts, changed, facts, node

from cftools.model import names, rows
from cftools.plans.dedup import plan_dedup
from cftools.plans.values import PlanServer

A = "a.mpg"
ORIGIN = ("src1", A, 100)
Mode = Literal["all-but-one", "one"]
MODES: list[Mode] = ["all-but-one", "one"]


def victims(history: str, there: str, mode: Mode, servers: tuple[PlanServer, ...] = SERVERS) -> list[str]:
    """Where a.mpg goes when the history names ``history`` and the listings show it on ``there``."""
    facts = node([(A, 1, 100, history)], [ORIGIN, *((server, A, 100) for server in there.split())], servers)
    return [row.server for row in plan_dedup(facts, mode).rows]


def test_case1_fresh_histories_take_the_copies_from_the_lowest_address_up_until_one_is_left() -> None:
    assert victims("dst1 dst2 dst3", "dst1 dst2 dst3", "one") == ["dst1"]
    assert victims("dst2 dst3", "dst2 dst3", "one") == ["dst2"]
    assert victims("dst3", "dst3", "one") == []
    assert victims("dst1 dst2 dst3", "dst1 dst2 dst3", "all-but-one") == ["dst1", "dst2"]
    assert victims("dst3", "dst3", "all-but-one") == []


def test_case2_a_stale_history_asks_the_same_servers_again_and_no_other() -> None:
    assert victims("dst1 dst2 dst3", "dst2 dst3", "one") == ["dst1"]
    assert victims("dst1 dst2 dst3", "dst3", "all-but-one") == ["dst1", "dst2"]


def test_case2_a_stale_history_never_takes_the_last_copy_after_the_keeper_was_evicted() -> None:
    assert victims("dst1 dst2 dst3", "dst1", "all-but-one") == []
    assert victims("dst1 dst2 dst3", "dst1 dst2", "all-but-one") == ["dst1"]
    assert victims("dst1 dst2 dst3", "", "all-but-one") == []
    assert victims("dst1 dst2 dst3", "", "one") == []


def test_case4_a_lowest_holder_that_cannot_be_reached_stays_the_only_one_asked() -> None:
    gone = changed(SERVERS, "dst1", alive=False, listed=False)
    assert victims("dst1 dst2 dst3", "dst1 dst2 dst3", "one", gone) == ["dst1"]
    assert victims("dst1 dst2 dst3", "dst1 dst2 dst3", "all-but-one", gone) == ["dst1", "dst2"]


def test_case4_a_highest_holder_that_cannot_be_reached_is_neither_keeper_nor_victim() -> None:
    gone = changed(SERVERS, "dst3", alive=False, listed=False)
    assert victims("dst1 dst2 dst3", "dst1 dst2 dst3", "all-but-one", gone) == ["dst1"]
    assert victims("dst2 dst3", "dst2 dst3", "all-but-one", gone) == []


@pytest.mark.parametrize("mode", MODES)
def test_case5_a_holder_the_history_hides_is_left_alone_until_it_is_shown_again(mode: Mode) -> None:
    assert victims("dst2 dst3", "dst1 dst2 dst3", mode) == ["dst2"]
    assert victims("dst1 dst3", "dst1 dst3", mode) == ["dst1"]
    assert victims("dst1 dst2 dst3", "dst1 dst3", mode) == (["dst1"] if mode == "one" else ["dst1", "dst2"])


@pytest.mark.parametrize("change", [{"alive": False}, {"listed": False}])
@pytest.mark.parametrize("mode", MODES)
def test_the_keeper_must_be_living_and_listed(change: dict[str, bool], mode: Mode) -> None:
    servers = changed(SERVERS, "dst3", **change)
    facts = node([(A, 1, 100, "dst1 dst2 dst3")], [ORIGIN, *((f"dst{n}", A, 100) for n in (1, 2, 3))], servers)
    assert [row.keeper for row in plan_dedup(facts, mode).rows] == ["dst2"]


def test_a_copy_of_another_size_is_no_keeper() -> None:
    facts = node([(A, 1, 100, "dst1 dst2 dst3")], [ORIGIN, ("dst1", A, 100), ("dst2", A, 100), ("dst3", A, 99)])
    assert [(row.server, row.keeper) for row in plan_dedup(facts, "all-but-one").rows] == [("dst1", "dst2")]


def test_a_row_tells_size_rank_reason_and_keeper() -> None:
    facts = node([(A, 7, 100, "dst1 dst2")], [ORIGIN, ("dst1", A, 100), ("dst2", A, 100)])
    assert plan_dedup(facts, "one").rows == [rows.Delete("dst1", A, 100, "duplicate", "dst2", 7)]


def test_rows_stand_by_rank_and_from_the_lowest_address_up() -> None:
    names = ["z.mpg", "y.mpg", "x.mpg"]
    everywhere = [(server, name, 5) for name in names for server in ("src2", "dst1", "dst2", "dst3")]
    facts = node([(name, rank, 5, "dst1 dst2 dst3") for rank, name in enumerate(names, 1)], everywhere)
    expected = [(name, server) for name in names for server in ("dst1", "dst2")]
    assert [(row.name, row.server) for row in plan_dedup(facts, "all-but-one").rows] == expected


def test_hot_files_are_not_spared() -> None:
    facts = node([(A, 1, 100, "dst1 dst2")], [ORIGIN, ("dst2", A, 100)], hot={A: 9})
    assert len(plan_dedup(facts, "one").rows) == 1


@pytest.mark.parametrize(
    ("name", "rank", "size", "on", "reason"),
    [
        ("a.mpg", 0, 100, "src1 dst2", "unknown"),
        ("a.mpg", 1, 0, "src1 dst2", "unknown"),
        ("M64a.mpg", 1, 100, "src1 dst2", "ignored-prefix"),
        ("a/../b.mpg", 1, 100, "src1 dst2", "unsafe-name"),
        ("a.mpg", 1, 100, "dst2", "origin-lacks"),
        ("a.mpg", 1, 100, "src1", "no-keeper"),
        ("a.mpg", 1, 100, "src1 dst1", "keeper-is-lowest"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_file_is_refused_and_counted(name: str, rank: int, size: int, on: str, reason: str, mode: Mode) -> None:
    plan = plan_dedup(node([(name, rank, size, "dst1 dst2")], [(one, name, size) for one in on.split()]), mode)
    assert (plan.rows, plan.refused) == ([], {reason: 1})
    assert plan.notes == [f"no duplicates: {reason} 1"]


def test_an_origin_that_was_not_fully_listed_is_unknown_and_not_lacking() -> None:
    servers = changed(SERVERS, "src2", listed=False)
    plan = plan_dedup(node([(A, 1, 100, "dst1 dst2")], [("dst2", A, 100)], servers), "one")
    assert (plan.rows, plan.refused) == ([], {"origin-unknown": 1})


def test_an_origin_with_another_size_lacks_the_file() -> None:
    plan = plan_dedup(node([(A, 1, 100, "dst1 dst2")], [("src1", A, 99), ("dst2", A, 100)]), "one")
    assert plan.refused == {"origin-lacks": 1}


def test_a_file_with_one_holder_is_no_candidate_and_an_empty_plan_says_so() -> None:
    plan = plan_dedup(node([(A, 1, 100, "dst1")], [ORIGIN, ("dst1", A, 100)]), "one")
    assert (plan.rows, plan.refused, plan.notes) == ([], {}, ["no duplicates: there is no candidate"])


def plain_dedup(facts: Facts, mode: Mode) -> tuple[list[tuple[str, str, str]], Counter[str]]:
    """The same decision for one file after the other."""
    servers = {one.name: one for one in facts.servers}
    sources = [one for one in facts.servers if one.role == "source"]
    planned: list[tuple[str, str, str]] = []
    refused: Counter[str] = Counter()
    for name, rank, size, held in facts.files:
        holders = [one for one in ("dst1", "dst2", "dst3") if one in held.split()]
        if len(holders) < 2:
            continue
        if rank <= 0 or size <= 0:
            refused["unknown"] += 1
        elif name.startswith(PREFIXES):
            refused["ignored-prefix"] += 1
        elif names.unsafe(name):
            refused["unsafe-name"] += 1
        elif not any(facts.seen.get((one.name, name), (-1, 0))[0] == size for one in sources):
            refused["origin-lacks" if all(one.listed for one in sources) else "origin-unknown"] += 1
        else:
            alive = [one for one in holders if servers[one].alive and facts.seen.get((one, name), (-1, 0))[0] == size]
            below = [one for one in holders if alive and one < alive[-1]]
            if not alive:
                refused["no-keeper"] += 1
            elif not below:
                refused["keeper-is-lowest"] += 1
            planned += [(name, one, alive[-1]) for one in (below if mode == "all-but-one" else below[:1])]
    return planned, refused


@settings(max_examples=80, deadline=None)
@given(facts=facts())
def test_every_plan_is_the_plain_one(facts: Facts) -> None:
    for mode in MODES:
        planned, refused = plain_dedup(facts, mode)
        plan = plan_dedup(facts.node, mode)
        assert [(row.name, row.server, row.keeper) for row in plan.rows] == planned
        assert plan.refused == refused
