"""No situation that can come about lets dedup delete the last copy, or anything delete what the origin lacks."""

from __future__ import annotations

from random import Random

import pytest
from explorer import Explorer, Fault, Situation, Violation, converge
from memory_node import Manager, Step
from planner_table import KINDS, Table, bits, named, names_of, table
from stories import planned_together

from cftools.model.rows import Delete

EVERY_PLAN = {2: 4, 3: 11, 4: 26}  # the plans that any view of one file can bring


def explored(destinations: int, *, thorough: bool) -> Explorer:
    explorer = Explorer(destinations, thorough)
    explorer.explore()
    for one in explorer.violations[:1]:
        pytest.fail(f"{one.what}\n{explorer.seen.get(one.before) if one.before else ''}\n{one}")
    return explorer


def rests(explorer: Explorer) -> None:
    """Each situation comes to rest with one copy, the highest, of each file that the origin has and some server had."""
    ended = converge(explorer)
    assert len(ended) == len(explorer.seen)
    for situation, holders in ended.values():
        names = [names_of(explorer.destinations)[place] for place in bits(situation.copies)]
        assert holders == (names[-1:] if situation.origin else names)


@pytest.mark.parametrize(("destinations", "thorough"), [(2, True), (3, False), (4, False)])
def test_no_situation_loses_a_last_copy_and_each_comes_to_rest(destinations: int, thorough: bool) -> None:
    explorer = explored(destinations, thorough=thorough)
    assert len(explorer.plans) == EVERY_PLAN[destinations]
    # Deletions under way, on each server, hanging or not, were part of what was explored.
    assert {one.server for situation in explorer.seen for one in situation.hanging} == set(range(destinations))
    assert {(0, True), (0, False)} <= {row for situation in explorer.seen for row in situation.intended}
    rests(explorer)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
def test_no_situation_loses_a_last_copy_whatever_goes_wrong_at_once() -> None:
    explorer = explored(3, thorough=True)
    print(f"{len(explorer.seen)} situations, {explorer.runs} runs, {explorer.files} files")
    rests(explorer)


# Two managers


class Overtaking:
    """Another manager that carries out its plans at one step (its number) of the first, if the lock is free then."""

    def __init__(self, explorer: Explorer, number: int, rows: list[Delete]) -> None:
        self.other = Manager(explorer.world, "other")
        self.other.never_waits = True
        self.number, self.rows = number, rows
        self.steps = 0
        self.let_in = False

    def __call__(self, manager: Manager, _: Step) -> None:
        """A step of the first manager, or of this one."""
        if manager is not self.other:
            self.steps += 1
            if self.steps == self.number:
                self.let_in = bool(self.other.delete(self.rows))


def overtaken(destinations: int) -> tuple[list[Violation], int, int]:
    """One manager carries out each plan, and at each of its steps another one carries out each other plan: what was
    violated, the steps, and at how many of them the other one was let in."""
    explorer = Explorer(destinations)
    situations = [Situation(copies, True) for copies in range(1 << destinations)]
    acts = [(situation, plan) for situation in situations for plan in explorer.plans for _ in explorer.plans]
    others = [plan for _ in situations for _ in explorer.plans for plan in explorer.plans]
    number = steps = let_in = 0
    while number <= steps:
        explorer._fill(acts)
        rows = [row for name, plan in zip(explorer._before, others, strict=True) for row in named(plan, name)]
        overtaking = Overtaking(explorer, number, rows)
        explorer.world.on_step = overtaking
        explorer._fault = Fault(fate=f"overtaken at step {number}")
        Manager(explorer.world, "first").delete(explorer._rows())
        steps, let_in, number = max(steps, overtaking.steps), let_in + overtaking.let_in, number + 1
    return explorer.violations, steps, let_in


def test_two_managers_cannot_do_together_what_one_may_not() -> None:
    violations, steps, let_in = overtaken(3)
    assert violations == []
    # Before it takes the lock and whenever it gives it away: twice each, for the settling and for the batch.
    assert (steps > 20, let_in) == (True, 4)


# The planners alone


@pytest.mark.parametrize("destinations", [2, 3, 4])
def test_the_order_of_addresses_decides_whatever_is_seen(destinations: int) -> None:
    answers: Table = table(destinations)
    names = names_of(destinations)
    victims: dict[int, set[str]] = {}
    for answering in range(1 << destinations):
        for view in answers.views:
            living = view.inventory & answering
            for kind in KINDS[:2]:
                rows = answers.rows(kind, answering, view)
                gone = [row.server for row in rows]
                assert gone == sorted(gone, key=names.index)
                for row in rows:
                    assert view.origin
                    assert view.history >> names.index(row.server) & 1
                    assert row.keeper == names[bits(view.history & living)[-1]], "the highest that is alive keeps it"
                    assert names.index(row.server) < names.index(row.keeper)
                if kind == "one":
                    assert len(rows) <= 1
                    victims.setdefault(view.history, set()).update(gone)
            for row in answers.rows("evict", answering, view):
                assert view.origin
                assert living >> names.index(row.server) & 1
    # A history that is asked again, whatever happened since, asks for the same copy.
    assert {len(some) for some in victims.values()} <= {0, 1}
    assert {names[bits(history)[0]] for history, some in victims.items() if some} == set(names[:-1])
    assert all(some <= {names[bits(history)[0]]} for history, some in victims.items() if history)


def test_planners_treat_files_one_by_one() -> None:
    answers, random = table(4), Random(7)
    for _ in range(300):
        together, alone = planned_together(answers, random)
        assert sorted(together, key=str) == sorted(alone, key=str)
