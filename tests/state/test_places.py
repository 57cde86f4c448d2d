"""Sets of places as text: short, and the same when they are read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftools.state import places


@pytest.mark.parametrize(
    ("some", "written"),
    [
        ([], ""),
        ([0], "0"),
        ([7], "7"),
        ([0, 1], "0-1"),
        ([0, 2], "0,2"),
        (range(500), "0-499"),
        ([0, 1, 2, 3, 5, 7, 8], "0-3,5,7-8"),
        ([9, 10, 11, 100], "9-11,100"),
    ],
)
def test_runs_of_places_are_written_by_their_ends(some: list[int], written: str) -> None:
    assert places.text(some) == written
    assert places.parse(written) == list(some)


@given(st.sets(st.integers(0, 60) | st.integers(0, 10_000)))
def test_any_set_comes_back_in_order(some: set[int]) -> None:
    written = places.text(sorted(some))
    assert places.parse(written) == sorted(some)
    assert len(written.split(",")) <= max(1, len(some))
