"""The questions all planners ask, where an answer could go wrong unseen."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning import NAMES, SERVERS, changed, node

from cftools.model import names, rows
from cftools.plans import known
from cftools.plans.dedup import plan_dedup
from cftools.plans.distribute import plan_copies
from cftools.plans.evict import plan_evict
from cftools.plans.values import CopyPolicy, EvictPolicy, df_percent

ODD = [
    *NAMES,
    "",
    ".",
    "..",
    "a/",
    "a//b",
    "a/.",
    "a/..b",
    "a/../b",
    ".a",
    "a\0b",
    "/a",
    "a\n",
    "x/.cftools-y",
    ".cftools",
]
PARTS = st.sampled_from(["a", ".", "..", "/", "\0", ".cftools-", "\n", "é", "\uf780", "x" * 100, "y" * 255])


@settings(deadline=None)
@given(some=st.lists(st.one_of(st.sampled_from(ODD), st.lists(PARTS, max_size=40).map("".join)), max_size=20))
def test_unsafe_names_are_those_that_the_name_rules_refuse(some: list[str]) -> None:
    assert known.unsafe(known.names_frame(some)).to_list() == [bool(names.unsafe(name)) for name in some]


def test_names_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(name, rank, 10, "dst1 dst2" if rank % 2 else "") for rank, name in enumerate("abcdef", 1)]
    held = [("src1", name, 10) for name in "abcd"] + [("dst2", name, 10) for name in "abe"]
    facts = node(files, held, changed(SERVERS, "dst2", used=950, available=50), {"b": 7})

    def plans() -> list[object]:
        taken = [rows.Delete("dst2", "e", 10, "duplicate")]
        return [
            plan_dedup(facts, "one"),
            plan_evict(facts, EvictPolicy(90, 88, 10.0), taken, {("dst2", "b"): facts.now}),
            plan_copies(facts, CopyPolicy(88)),
            known.still_there(facts.holdings, {"dst2"}, [rows.Delete("dst2", name, 10, "disk") for name in "abcdef"]),
        ]

    expected = plans()
    monkeypatch.setattr(known, "key", lambda *_: pl.lit(0, pl.UInt64).alias("key"))
    assert plans() == expected


def test_deletes_that_find_nothing_are_told_from_those_that_do() -> None:
    facts = node([], [("dst1", "a", 10)])
    asked = [rows.Delete(server, "a", 10, "disk") for server in ("dst1", "dst2", "dst3", "dst9")]
    assert [row.server for row in known.still_there(facts.holdings, {"dst1", "dst2"}, asked)] == [
        "dst1",
        "dst3",
        "dst9",
    ]


@pytest.mark.parametrize(
    ("used", "capacity", "percent"), [(0, 10, 0), (1, 1000, 1), (900, 1000, 90), (901, 1000, 91), (5, 0, 0)]
)
def test_percents_are_rounded_up_as_df_does(used: int, capacity: int, percent: int) -> None:
    assert df_percent(used, capacity) == percent


def test_empty_frames_give_empty_plans() -> None:
    facts = node([], [])
    for plan in (
        plan_dedup(facts, "one"),
        plan_evict(facts, EvictPolicy(90, 88, 10.0)),
        plan_copies(facts, CopyPolicy(88)),
    ):
        assert (plan.rows, plan.refused) == ([], {})


def test_planners_load_nothing_that_reaches_a_server_or_the_state() -> None:
    code = (
        "import sys, cftools.plans.dedup, cftools.plans.evict, cftools.plans.distribute, cftools.plans.guards,"
        " cftools.plans.batches; print([name for name in sys.modules if name.startswith(('cftools.remote',"
        " 'cftools.state', 'cftools.facts', 'cftools.config', 'paramiko', 'sqlite3'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
