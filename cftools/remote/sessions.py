"""How many scripts run side by side on one server."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cftools.remote.transport import POLL_SECONDS


class Place:
    """The right to one session, until it is given back; giving it back twice is no fault."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back
        self._turn = threading.Lock()

    def give_back(self) -> None:
        """Frees the place for another session."""
        with self._turn:
            give_back, self._give_back = self._give_back, None
        if give_back:
            give_back()


class Places:
    """``count`` places for sessions on one server, at least 2.

    Sessions that last, such as copies, leave one place to calls, so that a call waits for other calls only, and whoever
    holds such a session may call its server: the two never wait for each other.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()

    def take(self, look: Callable[[], None], *, lasting: bool) -> Place:
        """Waits for a place; ``look`` is called several times a second meanwhile, and what it raises ends the wait."""
        left_to_others = 1 if lasting else 0
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._free > left_to_others, POLL_SECONDS):
                    return self._taken()
            look()

    def take_at_once(self) -> Place:
        """A place beyond the count, if need be, for a call that cannot wait."""
        with self._changed:
            return self._taken()

    def _taken(self) -> Place:
        self._free -= 1
        return Place(self._back)

    def _back(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()
