"""How delete rows are cut into batches."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cftools.model.rows import Delete
from cftools.plans.batches import batches


def deletes(files: str) -> list[Delete]:
    """One row a letter, which is its file."""
    return [Delete(f"dst{n}", name, 1, "duplicate") for n, name in enumerate(files)]


def cut(files: str, size: int) -> list[str]:
    return ["".join(row.name for row in batch) for batch in batches(deletes(files), size)]


@pytest.mark.parametrize(
    ("files", "size", "expected"),
    [
        ("", 3, []),
        ("abc", 3, ["abc"]),
        ("abcd", 3, ["abc", "d"]),
        ("aabb", 3, ["aa", "bb"]),
        ("abbb", 3, ["a", "bbb"]),
        ("aaaab", 3, ["aaa", "ab"]),
        ("baaaa", 3, ["b", "aaa", "a"]),
        ("abab", 3, ["aba", "b"]),
    ],
)
def test_rows_of_one_file_stay_together_where_they_can(files: str, size: int, expected: list[str]) -> None:
    assert cut(files, size) == expected


@given(files=st.text("abc", max_size=30), size=st.integers(1, 6))
def test_every_row_comes_once_in_order_and_no_file_is_split_without_need(files: str, size: int) -> None:
    found = cut(files, size)
    assert "".join(found) == files
    assert all(1 <= len(batch) <= size for batch in found)
    longest = max((len(list(same)) for _, same in groupby(files)), default=0)
    assert longest > size or all(before[-1] != after[0] for before, after in pairwise(found))


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row, not 0"):
        batches([], 0)
