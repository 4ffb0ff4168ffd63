"""The headers of a tar at a distance: each says where the next lies, and every one is a journey.

So several walks begin all over the tar, each at the first block that looks like a header, and note what they meet. Who
then reads the tar from its begin finds their steps, and makes those himself that nobody has made; steps that lead
nowhere, as from a tar inside the tar, he never comes to.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import pairwise

from .tar_headers import BLOCK, Read, Step, first_header, step_at

LEAST, MOST = 4096, 262_144  # bytes of a request: a member's headers; those of many small members
SMALL = 16_384  # bytes of a member that is rather read than passed over
SEARCHED = 2_097_152  # bytes in which a header is looked for: of larger members there are few
SHORTEST = 4_194_304  # bytes of a tar for which a walk is worth its search


class Window:
    """Bytes of a tar of which the last that came are held. It asks for more the longer nothing is passed over."""

    def __init__(self, ask: Read, end: int) -> None:
        self.ask, self.end = ask, end
        self.held, self.at = b"", 0
        self.length, self.passed = LEAST, 0

    def read(self, size: int, at: int) -> bytes:
        """So many bytes from a place on; fewer at the end."""
        size = min(size, self.end - at)
        if size <= 0:
            return b""
        if at - self.passed > SMALL:
            self.length = LEAST
        self.passed = at + size
        if not self.at <= at <= at + size <= self.at + len(self.held):
            self.held, self.at = self.ask(min(max(size, self.length), self.end - at), at), at
            self.length = min(2 * self.length, MOST)
        return self.held[at - self.at : at - self.at + size]


def walks(end: int, most: int) -> Iterator[tuple[int, int]]:
    """Where walks through a tar of `end` bytes begin and stop: at most so many, but one."""
    count = max(1, min(most, end // SHORTEST))
    places = [end * i // count // BLOCK * BLOCK for i in range(count)] + [end]
    return pairwise(places)


def walk(window: Window, begin: int, stop: int) -> dict[int, Step]:
    """The steps that begin between two places, by where; none from where what is said of all members goes for them."""
    found: dict[int, Step] = {}
    for_all: dict[str, str] = {}
    at = begin if begin == 0 else _search(window, begin, stop)
    try:
        while at < stop and (step := step_at(window.read, at, window.end, for_all)) and not for_all:
            found[at] = step
            at = step.after
    except tarfile.ReadError:
        pass  # who reads from the begin comes there, and says it, or never does
    return found


def _search(window: Window, begin: int, stop: int) -> int:
    """Where the first header from a place on is; `stop` where none is near."""
    for at in range(begin, min(begin + SEARCHED, stop), MOST):
        if (found := first_header(window.read(MOST, at))) is not None:
            return at + found
    return stop
