"""SIGINT and SIGTERM: end in order, with the current step finished or undone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cftools.model.errors import Stopped


class StopFlag:
    """Set by the first signal. While no step is under way it raises Stopped at once; inside `step` it waits. Later
    signals change nothing: raised while the first one unwinds, they would cut the tidying up short."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._number = 0
        self._steps = 0
        self._raised = False

    def install(self) -> None:
        """Takes over SIGINT and SIGTERM; call it in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def is_set(self) -> bool:
        """Whether a signal arrived."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits that long, or until a signal; tells whether one arrived."""
        return self._event.wait(seconds)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step that is finished before a signal takes effect. Raises Stopped at its end when one arrived."""
        self._steps += 1
        try:
            yield
        except GeneratorExit:
            self._steps -= 1
            raise
        except BaseException:
            self._steps -= 1
            self.check()  # what went wrong may have gone wrong because of the signal
            raise
        self._steps -= 1
        self.check()

    def check(self) -> None:
        """Raises Stopped when a signal arrived and no step is under way."""
        if self._event.is_set() and not self._steps:
            self._raised = True
            raise Stopped(self._number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._number = self._number or number
        self._event.set()
        if not self._raised:
            self.check()
