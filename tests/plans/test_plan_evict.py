"""What evict plans: limit and target to the byte, each reason, and a slow plain answer to compare with."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import NOW, OLD, PREFIXES, Facts, changed, destination, facts, node, source

from cftools.model import names, rows
from cftools.plans.evict import plan_evict
from cftools.plans.values import EvictPolicy

POLICY = EvictPolicy(limit_percent=90, target_percent=88, min_residency=100.0)


def full(used: int, *files: tuple[str, int, int], **changes: Any) -> Any:
    """A node whose dst1 has ``used`` of 1000 bytes in use and holds ``files`` (name, rank, size); the origin too."""
    servers = (source("src1"), source("src2"), destination("dst1", used, 1000 - used))
    held = [(server, name, size) for name, _, size in files for server in ("src1", "dst1")]
    return node([(name, rank, size, "dst1") for name, rank, size in files], held, servers, **changes)


def chosen(facts: Any, **more: Any) -> list[str]:
    return [row.name for row in plan_evict(facts, POLICY, **more).rows]


@pytest.mark.parametrize(("used", "expected"), [(899, []), (900, []), (901, ["c"])])
def test_nothing_goes_until_df_shows_more_than_the_limit(used: int, expected: list[str]) -> None:
    assert chosen(full(used, ("a", 1, 50), ("b", 2, 50), ("c", 3, 50))) == expected


@pytest.mark.parametrize(("last", "expected"), [(41, ["c"]), (40, ["c"]), (39, ["c", "b"])])
def test_copies_go_until_usage_is_at_the_target_and_one_may_overshoot(last: int, expected: list[str]) -> None:
    assert chosen(full(920, ("a", 1, 50), ("b", 2, 50), ("c", 3, last))) == expected


def test_percents_refer_to_used_and_available_not_to_the_total() -> None:
    servers = (source("src1"), destination("dst1", 800, 80, total=2000))
    facts = node([("a", 1, 50, "dst1")], [("src1", "a", 50), ("dst1", "a", 50)], servers)
    assert chosen(facts) == ["a"]


def test_a_row_tells_size_rank_and_reason() -> None:
    assert plan_evict(full(950, ("a", 3, 500)), POLICY).rows == [rows.Delete("dst1", "a", 500, "disk", "", 3)]


def test_what_dedup_takes_is_not_taken_again_and_counts_as_free() -> None:
    taken = [rows.Delete("dst1", "c", 40, "duplicate", "dst2", 3)]
    files = (("a", 1, 50), ("b", 2, 50), ("c", 3, 40))
    assert chosen(full(940, *files), taken=taken) == []
    plan = plan_evict(full(941, *files), POLICY, taken)
    assert ([row.name for row in plan.rows], plan.refused) == (["b"], {"taken": 1})


def test_what_dedup_takes_frees_its_bytes_once() -> None:
    taken = [rows.Delete("dst1", "c", 40, "duplicate", "dst2", 3)] * 2
    assert chosen(full(941, ("a", 1, 50), ("b", 2, 50), ("c", 3, 40)), taken=taken) == ["b"]


def test_what_dedup_takes_frees_nothing_where_it_is_not() -> None:
    taken = [rows.Delete("dst1", "gone", 500, "duplicate", "dst2", 3), rows.Delete("dst1", "b", 51, "duplicate")]
    assert chosen(full(920, ("a", 1, 50), ("b", 2, 50)), taken=taken) == ["a"]


@pytest.mark.parametrize(
    ("name", "rank", "expected", "size", "mtime", "hot", "origin", "reason"),
    [
        ("a", 1, 100, 100, OLD, {"a": 5}, "src1", "hot"),
        ("M64a", 1, 100, 100, OLD, {}, "src1", "ignored-prefix"),
        ("a", 0, 100, 100, OLD, {}, "src1", "unknown"),
        ("a", 1, 0, 0, OLD, {}, "src1", "unknown"),
        ("a/", 1, 100, 100, OLD, {}, "src1", "unsafe-name"),
        ("a", 1, 100, 100, OLD, {}, "", "origin-lacks"),
        ("a", 1, 100, 99, OLD, {}, "src1", "size-differs"),
        ("a", 1, 100, 100, int(NOW) - 99, {}, "src1", "young"),
        ("a", 1, 100, 100, int(NOW) + 5, {}, "src1", "young"),
    ],
)
def test_a_copy_is_refused_and_counted(
    name: str, rank: int, expected: int, size: int, mtime: int, hot: dict[str, int], origin: str, reason: str
) -> None:
    servers = (source("src1"), destination("dst1", 950, 50))
    held = [("dst1", name, size, mtime), *((one, name, expected) for one in origin.split())]
    plan = plan_evict(node([(name, rank, expected, "dst1")], held, servers, hot), POLICY)
    assert (plan.rows, plan.refused) == ([], {reason: 1})
    assert plan.notes == [f"dst1: 95 % stays, nothing more may be deleted ({reason} 1)"]


def test_a_copy_that_no_input_names_is_unknown() -> None:
    servers = (source("src1"), destination("dst1", 950, 50))
    assert plan_evict(node([], [("dst1", "a", 9)], servers), POLICY).refused == {"unknown": 1}


def test_a_copy_as_old_as_the_least_residency_may_go() -> None:
    servers = (source("src1"), destination("dst1", 950, 50))
    held = [("dst1", "a", 90, int(NOW) - 100), ("src1", "a", 90)]
    assert chosen(node([("a", 1, 90, "dst1")], held, servers)) == ["a"]


@pytest.mark.parametrize(("server", "ago", "expected"), [("dst1", 99, []), ("dst1", 100, ["a"]), ("dst2", 1, ["a"])])
def test_a_copy_that_arrived_lately_stays_whatever_its_mtime(server: str, ago: int, expected: list[str]) -> None:
    assert chosen(full(950, ("a", 1, 90)), arrivals={(server, "a"): NOW - ago}) == expected


def test_an_origin_that_was_not_fully_listed_is_unknown() -> None:
    servers = (source("src1"), source("src2", listed=False), destination("dst1", 950, 50))
    plan = plan_evict(node([("a", 1, 90, "dst1")], [("dst1", "a", 90)], servers), POLICY)
    assert (plan.rows, plan.refused) == ([], {"origin-unknown": 1})


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"alive": False}, "dst1: left out, it does not answer"),
        ({"listed": False}, "dst1: left out, its listing is not complete"),
    ],
)
def test_a_destination_that_is_dead_or_not_listed_is_left_out_and_named(change: dict[str, bool], note: str) -> None:
    servers = changed((source("src1"), destination("dst1", 950, 50)), "dst1", **change)
    plan = plan_evict(node([("a", 1, 90, "dst1")], [("src1", "a", 90), ("dst1", "a", 90)], servers), POLICY)
    assert (plan.rows, plan.refused, plan.notes) == ([], {}, [note])


def test_a_destination_that_cannot_reach_the_target_says_what_stays() -> None:
    plan = plan_evict(full(950, ("a", 1, 20), ("b", 2, 60), hot={"b": 5}), POLICY)
    assert [row.name for row in plan.rows] == ["a"]
    assert plan.notes == ["dst1: 93 % stays, nothing more may be deleted (hot 1)"]


def test_destinations_under_their_limit_count_nothing() -> None:
    servers = (source("src1"), destination("dst1", 950, 50), destination("dst2", 500, 500))
    held = [(server, "a", 90) for server in ("src1", "dst1", "dst2")]
    plan = plan_evict(node([("a", 1, 90, "dst1 dst2")], held, servers, {"a": 9}), POLICY)
    assert plan.refused == {"hot": 1}


def plain_evict(
    facts: Facts, policy: EvictPolicy, taken: set[tuple[str, str, int]], arrivals: dict[tuple[str, str], float]
) -> tuple[list[tuple[str, str, int]], Counter[str], int]:
    """The same decision for one copy after the other; the last value counts destinations that stay too full."""
    ranks = {name: (rank, size) for name, rank, size, _ in facts.files if rank > 0 and size > 0}
    planned: list[tuple[str, str, int]] = []
    refused: Counter[str] = Counter()
    stay = 0
    for server in facts.servers:
        if server.role != "destination" or not (server.alive and server.listed) or not server.used + server.available:
            continue
        mine = {name: seen for (holder, name), seen in facts.seen.items() if holder == server.name}
        used = server.used - sum(
            size for one, name, size in taken if one == server.name and mine.get(name, [-1])[0] == size
        )
        whole = server.used + server.available
        if Fraction(100 * used, whole) <= policy.limit_percent:
            continue
        allowed = []
        for name, (size, mtime) in mine.items():
            reason = _plain_reason(facts, policy, ranks, name, size, max(mtime, arrivals.get((server.name, name), 0)))
            if any((server.name, name) == (one, other) for one, other, _ in taken):
                reason = "taken"
            if reason:
                refused[reason] += 1
            else:
                allowed.append((-ranks[name][0], name, size))
        for _, name, size in sorted(allowed):
            if Fraction(100 * used, whole) > policy.target_percent:
                planned.append((server.name, name, size))
                used -= size
        stay += Fraction(100 * used, whole) > policy.target_percent
    return planned, refused, stay


def _plain_reason(
    facts: Facts, policy: EvictPolicy, ranks: dict[str, tuple[int, int]], name: str, size: int, arrived: float
) -> str:
    sources = [one for one in facts.servers if one.role == "source"]
    if name.startswith(PREFIXES):
        return "ignored-prefix"
    if name not in ranks:
        return "unknown"
    if name in facts.hot:
        return "hot"
    if ranks[name][1] != size:
        return "size-differs"
    if NOW - arrived < policy.min_residency:
        return "young"
    if names.unsafe(name):
        return "unsafe-name"
    if any(facts.seen.get((one.name, name), (-1, 0))[0] == size for one in sources):
        return ""
    return "origin-lacks" if all(one.listed for one in sources) else "origin-unknown"


@settings(max_examples=100, deadline=None)
@given(facts=facts(), data=st.data())
def test_every_plan_is_the_plain_one(facts: Facts, data: st.DataObject) -> None:
    places = [(server, name) for server, name, _, _ in facts.holdings if server.startswith("dst")] or [
        ("dst1", "a.mpg")
    ]
    taken = data.draw(st.sets(st.tuples(st.sampled_from(places), st.sampled_from([10, 20])), max_size=2))
    arrivals = data.draw(
        st.dictionaries(st.sampled_from(places), st.sampled_from([OLD, NOW - 99, NOW - 100]), max_size=3)
    )
    limit = data.draw(st.integers(20, 90))
    policy = EvictPolicy(limit, data.draw(st.integers(10, limit)), 100.0)
    gone = {(server, name, size) for (server, name), size in taken}
    planned, refused, stay = plain_evict(facts, policy, gone, arrivals)
    deletes = [rows.Delete(server, name, size, "duplicate") for server, name, size in gone]
    plan = plan_evict(facts.node, policy, deletes, arrivals)
    assert [(row.server, row.name, row.size) for row in plan.rows] == planned
    assert plan.refused == refused
    assert sum("stays" in note for note in plan.notes) == stay
