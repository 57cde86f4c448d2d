"""Each guard just under, at and just over its limit, and how a broken one reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cftools.model.rows import Delete
from cftools.plans.guards import GUARDS, Acted, GuardedInput, GuardedServer, GuardFacts, GuardLimits, check

NOW = 1_700_000_000.0
HOUR = 3600.0
LIMITS = GuardLimits(
    max_deletes=10_000,
    max_delete_bytes=50e12,
    max_delete_percent=20,
    percent_from=10,
    max_inventory_shrink_percent=30,
    max_history_shrink_percent=30,
    mount_marker=".cftools-root",
    max_age=6 * HOUR,
)
FACTS = GuardFacts(
    now=NOW,
    servers=(GuardedServer("src1", 1_000_000, None, True), GuardedServer("dst1", 1_000_000, 1_000_000, True)),
    inputs=(GuardedInput("history", "/h", NOW - HOUR), GuardedInput("grades", "/g", NOW - HOUR)),
    history_lines=1000,
    previous_history_lines=1000,
    destinations=frozenset({"dst1 10.0.0.9"}),
    previous_destinations=frozenset({"dst1 10.0.0.9"}),
)


def deletes(count: int, size: int = 1, server: str = "dst1") -> list[Delete]:
    return [Delete(server, f"f{n}", size, "disk") for n in range(count)]


def broken(rows: list[Delete], limits: GuardLimits = LIMITS, **changes: Any) -> list[str]:
    return check(rows, msgspec.structs.replace(FACTS, **changes), limits).broken


def test_a_plan_inside_all_limits_breaks_none() -> None:
    assert check(deletes(1), FACTS, LIMITS) == ([], [])


@pytest.mark.parametrize(("count", "passes"), [(9_900, True), (10_000, True), (10_100, False)])
def test_max_deletes(count: int, passes: bool) -> None:
    expected = (
        "max_deletes: the plan deletes 10,100 files, the limit is 10,000; "
        "look at the plan, then raise guards.max_deletes, or pass --override max_deletes"
    )
    assert broken(deletes(count)) == ([] if passes else [expected])


@pytest.mark.parametrize(
    ("size", "passes"), [(4_950_000_000_000, True), (5_000_000_000_000, True), (5_050_000_000_000, False)]
)
def test_max_delete_bytes(size: int, passes: bool) -> None:
    lines = broken(deletes(10, size))
    assert [line[:75] for line in lines] == (
        [] if passes else ["max_delete_bytes: the plan deletes 50,500,000,000,000 bytes, the limit is 5"]
    )


def test_max_delete_bytes_is_compared_to_the_byte() -> None:
    limits = msgspec.structs.replace(LIMITS, max_delete_bytes=10.0)
    assert [len(broken(deletes(count), limits)) for count in (10, 11)] == [0, 1]


@pytest.mark.parametrize(("count", "passes"), [(198, True), (200, True), (202, False)])
def test_max_delete_percent(count: int, passes: bool) -> None:
    lines = broken(
        deletes(count), servers=(GuardedServer("dst1", 1000, None, True), GuardedServer("dst2", 9, None, True))
    )
    assert [line.partition(";")[0] for line in lines] == (
        [] if passes else ["max_delete_percent: the plan deletes 202 of 1,000 files on dst1, the limit is 20 %"]
    )


NEWER = int(NOW - HOUR)
ONE = msgspec.structs.replace(LIMITS, one_a_history=True)


def twin(server: str = "dst1") -> Delete:
    return Delete(server, "f", 1, "duplicate", "dst2")


@pytest.mark.parametrize(("later", "passes"), [(-1, True), (0, True), (1, False)])
def test_a_history_older_than_the_last_one_acted_upon_is_refused_in_both_modes(later: int, passes: bool) -> None:
    acted = (Acted("disk", NEWER + later, 500),)
    expected = [
        "history_not_newer: history /h is 1s older than the last one acted upon; take the newest history,"
        " or pass --override history_not_newer"
    ]
    for limits in (LIMITS, ONE):
        for row in (twin(), *deletes(1)):
            assert broken([row], limits, acted=acted, standing=(row,)) == ([] if passes else expected)


@pytest.mark.parametrize(
    ("generation", "size", "waits"),
    [(NEWER, 0, True), (NEWER - 1, 0, False), (NEWER, 1, False)],
)
def test_in_mode_one_a_history_is_acted_upon_once(generation: int, size: int, waits: bool) -> None:
    acted = (Acted("duplicate", generation, size),)
    expected = [
        "history_not_newer: history /h was acted upon before, and one copy of a file may go for each history;"
        " wait for the next one, or pass --override history_not_newer"
    ]
    assert broken([twin()], ONE, acted=acted, standing=(twin(),)) == (expected if waits else [])
    assert broken([twin()], LIMITS, acted=acted, standing=(twin(),)) == []
    assert broken([twin()], ONE, acted=acted, standing=()) == [], "to ask again for what is gone is harmless"
    assert broken(deletes(1), ONE, acted=acted, standing=tuple(deletes(1))) == [], "evict is not meant"
    assert broken([twin()], ONE, acted=(Acted("disk", generation, size),), standing=(twin(),)) == []


@pytest.mark.parametrize(("count", "passes"), [(9, True), (10, False)])
def test_few_deletes_on_a_server_are_not_judged_by_share(count: int, passes: bool) -> None:
    assert bool(broken(deletes(count), servers=(GuardedServer("dst1", 12, None, True),))) is not passes


@pytest.mark.parametrize(("previous", "passes"), [(50, True), (49, False), (None, True)])
def test_the_share_of_a_server_that_is_not_listed_refers_to_its_last_listing(
    previous: int | None, passes: bool
) -> None:
    assert bool(broken(deletes(10), servers=(GuardedServer("dst1", -1, previous),))) is not passes


@pytest.mark.parametrize(("hours", "passes"), [(5.94, True), (6.0, True), (6.06, False), (-5.94, True), (-6.06, False)])
@pytest.mark.parametrize("which", ["history", "grades"])
def test_max_age(hours: float, passes: bool, which: str) -> None:
    inputs = tuple(
        msgspec.structs.replace(one, generation=NOW - hours * HOUR) if one.name == which else one
        for one in FACTS.inputs
    )
    lines = broken(deletes(1), inputs=inputs)
    said = "6h 3m 36s old, the limit is 6h" if hours > 0 else "6h 3m 36s in the future"
    expected = f"max_age: {which} /{which[0]} is {said}"
    assert [line.partition(";")[0] for line in lines] == ([] if passes else [expected])


def test_an_input_that_does_not_say_when_it_was_written_is_too_old() -> None:
    lines = broken(deletes(1), inputs=(GuardedInput("history", "/h", 0),))
    assert [line.partition(";")[0] for line in lines] == ["max_age: history /h does not say when it was written"]


@pytest.mark.parametrize(
    ("files", "passes"), [(703, True), (700, True), (697, False), (0, False), (2000, True), (-1, True)]
)
def test_inventory_shrink(files: int, passes: bool) -> None:
    lines = broken(deletes(1), servers=(GuardedServer("src1", files, 1000, True),))
    assert [line[:42] for line in lines] == ([] if passes else ["inventory_shrink: src1 had 1,000 files and"])


@pytest.mark.parametrize(("lines_now", "passes"), [(703, True), (700, True), (697, False), (1500, True)])
def test_history_shrink(lines_now: int, passes: bool) -> None:
    assert [line[:51] for line in broken(deletes(1), history_lines=lines_now)] == (
        [] if passes else ["history_shrink: the history had 1,000 lines and has"]
    )


def test_a_first_run_has_nothing_to_shrink_or_change_from() -> None:
    assert broken(deletes(1), previous_history_lines=None, previous_destinations=None) == []


@pytest.mark.parametrize(
    ("files", "marker", "passes"),
    [(5, True, True), (5, False, False), (5, None, False), (-1, None, True), (-1, False, False)],
)
def test_mount_marker(files: int, marker: bool | None, passes: bool) -> None:
    servers = (GuardedServer("dst1", files, None, marker),)
    assert bool(broken(deletes(1), servers=servers)) is not passes
    assert broken(deletes(1), msgspec.structs.replace(LIMITS, mount_marker=""), servers=servers) == []


def test_destinations_changed_names_what_came_and_went() -> None:
    lines = broken(deletes(1), destinations=frozenset({"dst2 10.0.0.10"}))
    assert [line.partition(";")[0] for line in lines] == [
        "destinations_changed: the destinations changed since the history was written: dst2 10.0.0.10 added"
    ]
    assert "; dst1 10.0.0.9 removed; wait for a history" in lines[0]


def test_facts_are_judged_for_a_plan_without_rows_too() -> None:
    assert broken([]) == []
    assert len(broken([], history_lines=0, destinations=frozenset())) == 2


def test_all_broken_guards_are_told_at_once() -> None:
    lines = broken(deletes(10_001), history_lines=0, destinations=frozenset())
    assert [line.partition(":")[0] for line in lines] == ["max_deletes", "history_shrink", "destinations_changed"]


def test_an_overridden_guard_is_told_apart_and_breaks_nothing() -> None:
    facts = msgspec.structs.replace(FACTS, history_lines=0)
    checked = check(deletes(10_001), facts, LIMITS, ["max_deletes", "max_age"])
    assert [line.partition(":")[0] for line in checked.broken] == ["history_shrink"]
    assert [line.partition(":")[0] for line in checked.overridden] == ["max_deletes"]


def test_an_override_that_is_no_guard_lists_the_guards() -> None:
    with pytest.raises(
        ValueError, match="no guard 'max_delets'; the guards are max_deletes, max_delete_bytes, "
    ) as raised:
        check([], FACTS, LIMITS, ["max_delets"])
    assert all(name in str(raised.value) for name in GUARDS)


def test_percents_of_a_handful_of_files_are_not_judged() -> None:
    assert broken(deletes(1), servers=(GuardedServer("dst1", 1, previous_files=10, marker=True),)) == []
    assert broken(deletes(1), servers=(GuardedServer("dst1", 0, previous_files=10, marker=True),)) != []
