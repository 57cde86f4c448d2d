"""Delete rows cut into batches, each of which is one turn of the deletion lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from cftools.model.rows import Delete


def batches(rows: Sequence[Delete], size: int) -> Iterator[list[Delete]]:
    """The rows in their order, at most ``size`` at a time.

    Rows of one file that stand together stay in one batch, so that its keeper is verified once, unless they alone are
    more than ``size``. Raises ValueError when ``size`` is under 1.
    """
    if size < 1:
        raise ValueError(f"a batch has at least one row, not {size}")
    return _cut(rows, size)


def _cut(rows: Sequence[Delete], size: int) -> Iterator[list[Delete]]:
    batch: list[Delete] = []
    for _, group in groupby(rows, key=lambda row: row.name):
        same = list(group)
        if batch and len(batch) + len(same) > size:
            yield batch
            batch = []
        batch += same
        while len(batch) > size:
            yield batch[:size]
            batch = batch[size:]
    if batch:
        yield batch
