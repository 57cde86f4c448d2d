"""Sets of places in a block of names, as text: ``0-499,503``."""

from __future__ import annotations

from collections.abc import Sequence


def text(places: Sequence[int]) -> str:
    """The text of ascending places."""
    if places and places[-1] - places[0] == len(places) - 1:
        return f"{places[0]}-{places[-1]}" if len(places) > 1 else f"{places[0]}"
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def parse(written: str) -> list[int]:
    """The places of a text."""
    found: list[int] = []
    for run in written.split(",") if written else []:
        first, _, last = run.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found
