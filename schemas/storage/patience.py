"""Asking again: who makes an index in a bucket does not give up hours of work for a minute without the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .elsewhere import Unreachable

T = TypeVar("T")

SECONDS = 120.0  # without an answer
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0


class Patience:
    """With one store, whose first answer is not waited for: until then the address may be wrong.

    Only what may be done twice is asked through it. When a store has been silent for too long, everyone who asks
    through the same patience is told at once.
    """

    def __init__(self) -> None:
        self._answered = float("-inf")  # when it has answered last

    def __call__(self, ask: Callable[[], T]) -> T:
        """What `ask` returns, at the first or a later try. Raises what it raises, Unreachable in the end."""
        until, pause = min(time.monotonic(), self._answered) + SECONDS, FIRST_PAUSE
        while True:
            try:
                answer = ask()
            except Unreachable:
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._answered = time.monotonic()
                return answer
