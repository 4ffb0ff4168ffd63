"""Work that is cheaper for many neurons at once than for each: made ahead for who asks one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BLOCK = 32


class Ahead:
    """What `make(first, end)` gives for rows, one each. Any number of threads may ask.

    A reader goes anywhere, and has the row alone made; an export goes on, and has the next ones made with it.
    """

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        self._make = make
        self._last = -2  # the row that was asked last
        self._held: tuple[int, Any] = (0, ())

    def of(self, row: int, end: int) -> Any:
        """What is made of a row; of others ahead only up to `end`."""
        follows, self._last = row == self._last + 1, row
        first, made = self._held
        if not first <= row < first + len(made):
            first, made = row, self._make(row, min(row + BLOCK, end) if follows else row + 1)
            self._held = (first, made)
        return made[row - first]
