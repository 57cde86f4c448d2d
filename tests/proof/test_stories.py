"""Random stories of two managers, four destinations and two files: each keeps every promise and comes to rest."""

from __future__ import annotations

import os

import pytest
from memory_node import World
from planner_table import table
from stories import DESTINATIONS, Story

CHUNKS = 4
STORIES = 3_000  # a chunk
SWEEP = 250_000


def tell(first: int, count: int) -> int:
    """Tells these stories; how many files were deleted in them."""
    world, answers = World(DESTINATIONS), table(DESTINATIONS)
    deleted = 0
    for seed in range(first, first + count):
        Story(seed, world, answers).tell()
        deleted += len(world.unlinked)
    return deleted


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_stories_end_well(chunk: int) -> None:
    assert tell(chunk * STORIES, STORIES) > STORIES


@pytest.mark.sweep
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_million_stories_end_well(chunk: int) -> None:
    """CFTOOLS_STORIES_FROM begins with another seed, for stories nobody has told yet."""
    first = int(os.environ.get("CFTOOLS_STORIES_FROM", "1000000"))
    assert tell(first + chunk * SWEEP, SWEEP) > SWEEP


def test_the_same_seed_tells_the_same_story() -> None:
    world, answers = World(DESTINATIONS), table(DESTINATIONS)
    told = []
    for _ in range(2):
        Story(11, world, answers).tell()
        told.append((list(world.unlinked), world.database.rows("SELECT server, name, state FROM journal")))
    assert told[0] == told[1]
    assert told[0][1]
