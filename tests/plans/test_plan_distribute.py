"""What plan-distribute plans: order, each exclusion, room, waves, and a slow plain answer to compare with."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import ADDRESSES, NAMES, PREFIXES, SERVERS, Facts, changed, destination, facts, node, source

from cftools.model import names, rows
from cftools.plans import distribute
from cftools.plans.distribute import plan_copies
from cftools.plans.values import CopyPolicy, Node, Plan, PlanServer, Running

POLICY = CopyPolicy(target_percent=88)
Spread = Literal["most-free", "round-robin"]


def holding(names_and_sizes: dict[str, int], *sources: str) -> list[tuple[Any, ...]]:
    return [(one, name, size) for name, size in names_and_sizes.items() for one in sources or ("src1", "src2")]


def wanted(sizes: dict[str, int]) -> list[tuple[str, int, int, str]]:
    """These files, ranked in this order, held nowhere by the history."""
    return [(name, rank, size, "") for rank, (name, size) in enumerate(sizes.items(), 1)]


def plain_node(sizes: dict[str, int], servers: tuple[PlanServer, ...] = SERVERS, **more: Any) -> Node:
    """A node that wants these files, which every source has."""
    sources = [one.name for one in servers if one.role == "source"]
    return node(wanted(sizes), holding(sizes, *sources), servers, **more)


def pairs(plan: Plan[rows.Copy]) -> list[tuple[str, str, str]]:
    return [(row.name, row.source, row.destination) for row in plan.rows]


def test_hot_files_come_first_by_hits_then_rank_and_the_rest_by_rank() -> None:
    facts = plain_node({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, hot={"e": 7, "d": 26, "b": 7})
    plan = plan_copies(facts, POLICY)
    assert [row.name for row in plan.rows] == ["d", "b", "e", "a", "c"]
    assert [row.reason for row in plan.rows] == ["hot: 26 hits", "hot: 7 hits", "hot: 7 hits", "rank 1", "rank 3"]
    assert [row.hits for row in plan.rows] == [26, 7, 7, 0, 0]


def test_a_row_tells_where_the_file_lies_and_has_an_id_of_its_own() -> None:
    held = [("src1", "sub/a", 9, 0, 1), ("src1", "b", 9, 0, 0), ("src1", "b", 9, 0, 1), ("src1", "b", 8, 0, 0)]
    servers = (source("src1", roots=("/", "/data3/")), destination("dst1"))
    plan = plan_copies(node(wanted({"sub/a": 9, "b": 9}), held, servers), POLICY)
    first, second = plan.rows
    assert first == rows.Copy(first.id, "sub/a", 9, "src1", "/data3/sub/a", "dst1", 1, 0, "rank 1")
    assert second.source_path == "/b"
    assert len({first.id, second.id}) == 2
    assert all(len(row.id) == 12 and int(row.id, 16) for row in plan.rows)


def test_the_id_is_the_same_for_the_same_copy() -> None:
    facts = plain_node({"a": 9, "b": 9})
    assert plan_copies(facts, POLICY) == plan_copies(facts, POLICY)


@pytest.mark.parametrize(
    ("file", "held", "reason"),
    [
        (("a", 0, 9, ""), [("src1", "a", 9)], "unknown"),
        (("a", 1, 0, ""), [("src1", "a", 0)], "unknown"),
        (("MN1a", 1, 9, ""), [("src1", "MN1a", 9)], "ignored-prefix"),
        (("/a", 1, 9, ""), [("src1", "/a", 9)], "unsafe-name"),
        (("a", 1, 9, "dst3"), [("src1", "a", 9)], "on-destination"),
        (("a", 1, 9, ""), [("src1", "a", 9), ("dst3", "a", 9)], "on-destination"),
        (("a", 1, 9, ""), [("src1", "a", 9), ("dst3", "a", 4)], "on-destination"),
        (("a", 1, 9, ""), [("src1", "a", 8)], "no-source"),
        (("a", 1, 9, ""), [], "no-source"),
        (("a", 1, 881, ""), [("src1", "a", 881)], "no-room"),
    ],
)
def test_a_file_is_refused_and_counted(file: Any, held: list[tuple[Any, ...]], reason: str) -> None:
    plan = plan_copies(node([file], held, hot={file[0]: 5}), POLICY)
    assert (plan.rows, plan.refused) == ([], {reason: 1})
    assert plan.notes == [f"no copies: {reason} 1"]


def test_a_hot_name_that_no_input_has_is_unknown() -> None:
    plan = plan_copies(plain_node({"a": 9}, hot={"nowhere": 5, "a": 5}), POLICY)
    assert ([row.name for row in plan.rows], plan.refused) == (["a"], {"unknown": 1})


@pytest.mark.parametrize("state", ["ready", "working"])
def test_a_file_that_is_being_copied_is_refused(state: Literal["ready", "working"]) -> None:
    running = [Running("a", 9, "src2", "dst1", state)]
    assert plan_copies(plain_node({"a": 9}), POLICY, running).refused == {"copying": 1}


@pytest.mark.parametrize("change", [{"alive": False}, {"listed": False}])
def test_a_source_that_is_dead_or_not_listed_gives_nothing(change: dict[str, bool]) -> None:
    servers = changed(SERVERS, "src1", **change)
    plan = plan_copies(node(wanted({"a": 9}), holding({"a": 9}, "src1"), servers), POLICY)
    assert plan.refused == {"no-source": 1}
    assert plan.notes[1].startswith("src1: left out, ")


@pytest.mark.parametrize("change", [{"alive": False}, {"listed": False}])
def test_a_destination_that_is_dead_or_not_listed_gets_nothing(change: dict[str, bool]) -> None:
    servers = (source("src1"), destination("dst1"))
    plan = plan_copies(plain_node({"a": 9, "b": 9}, changed(servers, "dst1", **change)), POLICY)
    assert (plan.rows, plan.refused) == ([], {"no-destination": 2})


def test_a_source_that_is_copying_gets_nothing_in_this_plan() -> None:
    running = [Running("z", 9, "src1", "dst1", "working")]
    facts = node(wanted({"a": 9, "b": 9}), [("src1", "a", 9), ("src1", "b", 9), ("src2", "b", 9)])
    plan = plan_copies(facts, POLICY, running)
    assert ([(row.name, row.source) for row in plan.rows], plan.refused) == ([("b", "src2")], {"source-busy": 1})


def test_a_file_whose_pairs_all_rest_is_refused_and_others_go_on() -> None:
    cooling = frozenset(("src1", one) for one in ADDRESSES)
    facts = node(wanted({"a": 9, "b": 9}), [("src1", "a", 9), ("src1", "b", 9), ("src2", "b", 9)])
    plan = plan_copies(facts, CopyPolicy(88, cooling=cooling))
    assert ([(row.name, row.source) for row in plan.rows], plan.refused) == ([("b", "src2")], {"pair-cooling": 1})


def test_a_pair_that_rests_is_avoided_and_its_destination_is_not() -> None:
    servers = (source("src1"), destination("dst1"), destination("dst2", available=500))
    cooling = frozenset({("src1", "dst1"), ("gone", "dst2"), ("src1", "gone")})
    assert pairs(plan_copies(plain_node({"a": 9}, servers), CopyPolicy(88, cooling=cooling))) == [("a", "src1", "dst2")]


def test_files_that_all_sources_have_are_spread_evenly_over_them() -> None:
    plan = plan_copies(plain_node({f"f{n}": 1 for n in range(9)}), POLICY)
    assert [row.source for row in plan.rows] == ["src1", "src2"] * 4 + ["src1"]


def test_copies_that_wait_for_a_source_count_as_its_own() -> None:
    running = [Running("y", 1, "src1", "dst1", "ready"), Running("z", 1, "src1", "dst1", "ready")]
    plan = plan_copies(plain_node({"a": 1, "b": 1, "c": 1}), POLICY, running)
    assert [row.source for row in plan.rows] == ["src2", "src2", "src1"]


def test_two_sources_feed_two_destinations_even_when_one_has_far_more_room() -> None:
    servers = (source("src1"), source("src2"), destination("dst1", available=9000), destination("dst2"))
    facts = plain_node({"a": 1, "b": 1, "c": 1, "d": 1}, servers)
    assert [row.destination for row in plan_copies(facts, POLICY).rows] == ["dst1", "dst2"] * 2


def test_fewer_destinations_than_sources_are_shared() -> None:
    servers = (source("src1"), source("src2"), destination("dst1"))
    assert pairs(plan_copies(plain_node({"a": 1, "b": 1}, servers), POLICY)) == [
        ("a", "src1", "dst1"),
        ("b", "src2", "dst1"),
    ]


def test_a_destination_without_room_is_not_free() -> None:
    servers = (source("src1"), source("src2"), destination("dst1"), destination("dst2", 88, 12))
    assert [row.destination for row in plan_copies(plain_node({"a": 1, "b": 1}, servers), POLICY).rows] == ["dst1"] * 2


def test_a_destination_that_receives_gets_nothing_while_others_are_free() -> None:
    servers = (source("src1"), source("src2"), destination("dst1", available=9000), destination("dst2"))
    running = [Running("z", 1, "src2", "dst1", "working")]
    facts = plain_node({"a": 1, "b": 1}, servers)
    assert [row.destination for row in plan_copies(facts, POLICY, running).rows] == ["dst2", "dst2"]


def test_a_destination_that_receives_is_shared_when_none_is_free() -> None:
    servers = (source("src1"), source("src2"), destination("dst1"))
    running = [Running("z", 1, "src2", "dst1", "working")]
    assert pairs(plan_copies(plain_node({"a": 1}, servers), POLICY, running)) == [("a", "src1", "dst1")]


def test_a_destination_that_nobody_feeds_goes_before_one_that_receives() -> None:
    sources = (source("src1"), source("src2"), source("src3"))
    servers = (*sources, destination("dst1", available=9000), destination("dst2"))
    running = [Running("z", 1, "src3", "dst1", "working")]
    plan = plan_copies(plain_node({"a": 1, "b": 1}, servers), POLICY, running)
    assert [row.destination for row in plan.rows] == ["dst2", "dst1"]


def test_most_free_takes_the_destination_with_the_most_room_after_planned_copies() -> None:
    servers = (source("src1"), destination("dst1", available=400), destination("dst2", available=450))
    plan = plan_copies(plain_node({"a": 100, "b": 100, "c": 10}, servers), POLICY)
    assert [row.destination for row in plan.rows] == ["dst2", "dst1", "dst2"]


@pytest.mark.parametrize(
    ("last", "expected"),
    [("", ["dst1", "dst2", "dst3", "dst1"]), ("dst1", ["dst2", "dst3", "dst1", "dst2"]), ("dst3", ["dst1"] * 0)],
)
def test_round_robin_goes_by_the_number_of_the_address(last: str, expected: list[str]) -> None:
    servers = (source("src1"), destination("dst3"), destination("dst1"), destination("dst2", available=9000))
    plan = plan_copies(
        plain_node({"a": 1, "b": 1, "c": 1, "d": 1}, servers), CopyPolicy(88, "round-robin", last_destination=last)
    )
    assert [row.destination for row in plan.rows] == (expected or ["dst1", "dst2", "dst3", "dst1"])


@pytest.mark.parametrize(("size", "fits"), [(79, True), (80, True), (81, False)])
def test_a_copy_may_fill_a_destination_up_to_the_target_and_no_further(size: int, fits: bool) -> None:
    servers = (source("src1"), destination("dst1", 700, 300))
    running = [Running("y", 60, "src9", "dst1", "ready"), Running("z", 40, "src9", "dst1", "working")]
    assert bool(plan_copies(plain_node({"a": size}, servers), POLICY, running).rows) is fits


def test_what_is_planned_takes_room_and_smaller_files_still_go() -> None:
    servers = (source("src1"), destination("dst1", 0, 100))
    plan = plan_copies(plain_node({"a": 60, "b": 60, "c": 28, "d": 1}, servers), POLICY)
    assert ([row.name for row in plan.rows], plan.refused) == (["a", "c"], {"no-room": 2})


def test_a_limit_stops_the_plan_and_the_rest_is_not_looked_at() -> None:
    plan = plan_copies(plain_node({"a": 1, "b": 1, "c": 1}), POLICY, limit=2)
    assert ([row.name for row in plan.rows], plan.refused) == (["a", "b"], {"not-looked-at": 1})
    assert plan_copies(plain_node({"a": 1, "b": 1}), POLICY, limit=2).refused == {}
    assert plan_copies(plain_node({"a": 1, "b": 1}), POLICY, limit=0).refused == {"not-looked-at": 2}


@pytest.mark.parametrize("first_piece", [1, 2, 3, 100])
def test_the_plan_is_the_same_however_the_candidates_are_cut(first_piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {f"f{n}": (n * 37) % 50 + 1 for n in range(40)}
    servers = (source("src1"), source("src2"), destination("dst1", 0, 300), destination("dst2", 0, 500))
    held = [*holding(dict(list(sizes.items())[:30]), "src1"), *holding(dict(list(sizes.items())[20:39]), "src2")]
    facts = node(wanted(sizes), held, servers)
    for limit in (None, 5):
        whole = plan_copies(facts, POLICY, limit=limit)
        with monkeypatch.context() as patch:
            patch.setattr(distribute, "FIRST_PIECE", first_piece)
            cut = plan_copies(facts, POLICY, limit=limit)
        assert cut.rows == whole.rows
        assert sum(cut.refused.values()) == sum(whole.refused.values()) == 40 - len(whole.rows)


def plain_candidates(facts: Facts, running: list[Running]) -> list[tuple[str, int]]:
    """Name and size of what may be copied if it has a source, best first."""
    dsts = [one.name for one in facts.servers if one.role == "destination"]
    left = []
    for name, rank, size, held in facts.files:
        excluded = rank <= 0 or size <= 0 or name.startswith(PREFIXES) or bool(names.unsafe(name)) or bool(held)
        copying = any(copy.name == name for copy in running)
        if not (excluded or copying or any((one, name) in facts.seen for one in dsts)):
            left.append((-facts.hot.get(name, 0), rank, name, size))
    return [(name, size) for _, _, name, size in sorted(left)]


def plain_copies(facts: Facts, policy: CopyPolicy, running: list[Running]) -> list[tuple[str, str, str]]:
    """The rule of `cftools.plans.placement` with lists and loops over everything."""
    working = [copy for copy in running if copy.state == "working"]
    usable = [one for one in facts.servers if one.alive and one.listed]
    sources = [one.name for one in usable if one.role == "source" and one.name not in {c.source for c in working}]
    dsts = {one.name: one for one in usable if one.role == "destination"}
    order = sorted(dsts)  # by name is by address here
    turn = order.index(policy.last_destination) + 1 if policy.last_destination in order else 0
    added = Counter({name: sum(copy.size for copy in running if copy.destination == name) for name in dsts})
    receiving = Counter(copy.destination for copy in working)
    queues: dict[str, list[str]] = {
        name: [c.destination for c in running if c.source == name and c.state == "ready"] for name in sources
    }
    planned = []
    for name, size in plain_candidates(facts, running):
        holders = [one for one in sources if facts.seen.get((one, name), (-1, 0))[0] == size]
        for one in sorted(holders, key=lambda each: len(queues[each])):
            wave = len(queues[one])
            fed = Counter(queue[wave] for queue in queues.values() if len(queue) > wave)
            able = [
                each
                for each in order
                if (dsts[each].used + added[each] + size) * 100 <= policy.target_percent * dsts[each].capacity
                and (one, each) not in policy.cooling
            ]
            free = [each for each in able if not receiving[each]]
            allowed = [each for each in free if not fed[each]] if len(free) >= len(sources) else able
            if not allowed:
                continue
            least = min(fed[each] + receiving[each] for each in allowed)
            equals = [each for each in allowed if fed[each] + receiving[each] == least]
            if policy.spread == "round-robin":
                best = next(each for each in order[turn:] + order[:turn] if each in equals)
            else:
                room = {
                    each: policy.target_percent * dsts[each].capacity // 100 - dsts[each].used - added[each]
                    for each in equals
                }
                best = max(equals, key=lambda each: room[each])
            planned.append((name, one, best))
            queues[one].append(best)
            added[best] += size
            turn = (order.index(best) + 1) % len(order)
            break
    return planned


@settings(max_examples=120, deadline=None)
@given(facts=facts(), data=st.data())
def test_every_plan_is_the_plain_one_and_no_candidate_is_lost(facts: Facts, data: st.DataObject) -> None:
    # Most files on both sources and room for some of them, so that waves and rooms matter.
    facts.holdings = [row for row in facts.holdings if data.draw(st.integers(0, 3)) or row[0].startswith("src")]
    facts.files = [
        (name, rank, size, held if data.draw(st.booleans()) else "") for name, rank, size, held in facts.files
    ]
    places = st.tuples(st.sampled_from(["src1", "src2", "src3"]), st.sampled_from(["dst1", "dst2", "dst3"]))
    cooling = data.draw(st.frozensets(places, max_size=3))
    running = [
        Running(name, 10, pair[0], pair[1], data.draw(st.sampled_from(["ready", "ready", "working"])))
        for name, pair in data.draw(st.dictionaries(st.sampled_from([*NAMES, "z"]), places, max_size=3)).items()
    ]
    spread: Spread = data.draw(st.sampled_from(["most-free", "round-robin"]))
    policy = CopyPolicy(
        data.draw(st.integers(30, 100)), spread, cooling, data.draw(st.sampled_from(["", "dst2", "dst9"]))
    )
    plan = plan_copies(facts.node, policy, running)
    assert pairs(plan) == plain_copies(facts, policy, running)
    strangers = len(facts.hot.keys() - {name for name, *_ in facts.files})
    assert len(plan.rows) + sum(plan.refused.values()) == len(facts.files) + strangers


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    spread=st.sampled_from(["most-free", "round-robin"]),
)
def test_no_plan_breaks_a_promise(data: st.DataObject, sizes: list[int], spread: Spread) -> None:
    rooms = [data.draw(st.integers(0, 300)) for _ in ADDRESSES]
    sources = tuple(source(f"src{n}") for n in range(1, data.draw(st.integers(1, 5)) + 1))
    servers = (*sources, *(destination(name, 0, room) for name, room in zip(ADDRESSES, rooms, strict=True)))
    plan = plan_copies(plain_node({f"f{n}": size for n, size in enumerate(sizes)}, servers), CopyPolicy(88, spread))
    assert len({row.name for row in plan.rows}) == len(plan.rows)
    for name, room in zip(ADDRESSES, rooms, strict=True):
        assert sum(row.size for row in plan.rows if row.destination == name) * 100 <= 88 * room
    shares = Counter({one.name: 0 for one in sources} | Counter(row.source for row in plan.rows))
    assert max(shares.values()) - min(shares.values()) <= 1
    left = [88 * room // 100 for room in rooms]
    fed: Counter[tuple[int, str]] = Counter()
    position: Counter[str] = Counter()
    for row in plan.rows:
        free = sum(room >= row.size for room in left)
        wave = (position[row.source], row.destination)
        assert free < len(sources) or not fed[wave]
        fed[wave] += 1
        position[row.source] += 1
        left[list(ADDRESSES).index(row.destination)] -= row.size
    unplanned = [size for n, size in enumerate(sizes) if f"f{n}" not in {row.name for row in plan.rows}]
    assert all(size > max(left) for size in unplanned)


def test_a_copy_that_was_begun_goes_on_where_its_part_lies() -> None:
    """The part makes its destination look fuller, so another one would be chosen without it."""
    servers = changed(changed(SERVERS, "dst1", used=90, available=910), "dst2", used=50, available=950)
    facts = plain_node({"sub/a": 1, "b": 1}, servers)
    assert pairs(plan_copies(facts, POLICY))[0][2] == "dst3"
    begun = msgspec.structs.replace(facts, begun={"a": "dst1", "b": "dst1"})
    assert [destination for _, _, destination in pairs(plan_copies(begun, POLICY))] == ["dst1", "dst3"]
    full = msgspec.structs.replace(begun, servers=changed(servers, "dst1", used=1000, available=0))
    assert [destination for _, _, destination in pairs(plan_copies(full, POLICY))] == ["dst3", "dst2"]
    resting = CopyPolicy(88, cooling=frozenset({("src1", "dst1"), ("src2", "dst1")}))
    assert "dst1" not in [destination for _, _, destination in pairs(plan_copies(begun, resting))]
