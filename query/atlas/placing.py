"""Where neurons lie on the map: on principal components at once, and arranged by nearness when that has been made."""

from __future__ import annotations

import threading

from ...schemas.manifest import content_sha256
from ...schemas.progress import Progress, silent
from .apart import arranged_apart
from .arrangement import Points, arranged, recalled, why_not
from .atlas import Atlas
from .nearness import Near
from .spaces import Space, plane, rows_of, spaces_of


class Placing:
    """The arrangements of an atlas, one a space. Any number of threads may ask; each is made once."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.spaces = spaces_of(atlas)
        self.why_not = why_not(self._points)  # arranged; None where they can be
        self.made = {space: found for space in self.spaces if (found := recalled(self._key(space), self._points))}
        self.fault: str | None = None  # what went wrong beside the pages
        self._making, self._starting = threading.Lock(), threading.Lock()
        self._beside: threading.Thread | None = None

    @property
    def _points(self) -> int:
        return len(self.atlas.nearness.unit)

    def _key(self, space: Space) -> str:
        return f"{content_sha256(self.atlas.index.manifest)}-{space}"

    @property
    def missing(self) -> list[Space]:
        """The spaces that could be arranged and are not yet."""
        return [space for space in self.spaces if self.why_not is None and space not in self.made]

    def make(self, progress: Progress | None = None) -> None:
        """Make what is not there yet, and wait for it. Without openTSNE, or of few neurons, nothing is made."""
        tell = progress or silent
        with self._making:
            missing = self.missing
            for number, space in enumerate(missing):

                def of_all(done: int, total: int, before: int = number) -> None:
                    tell(before * total + done, len(missing) * total)

                self.made[space] = arranged(rows_of(self.atlas, space), self._key(space), of_all)

    def begin(self) -> None:
        """Make them beside the pages, once: in a process of its own, which gives way to whoever asks for pages."""
        with self._starting:
            if self._beside is None and self.missing:
                self._beside = threading.Thread(target=self._make_beside, name="arranging", daemon=True)
                self._beside.start()

    def _make_beside(self) -> None:
        try:
            with self._making:
                for space in self.missing:
                    self.made[space] = arranged_apart(rows_of(self.atlas, space), self._key(space))
        except Exception as error:  # it is said on the map's page, and the thread has nobody else to tell
            self.fault = f"{type(error).__name__}: {error}"
            raise


def placing(atlas: Atlas) -> Placing:
    """The one of an atlas."""
    found: Placing = atlas.once("placing", lambda: Placing(atlas))
    return found


def points_of(atlas: Atlas, space: Space) -> Points:
    """Every neuron with a value vector in two dimensions, float32 [neuron, 2]: arranged, or on principal components."""
    held = placing(atlas).made.get(space)
    return plane(rows_of(atlas, space))[0] if held is None else held.points


def nearest_of(atlas: Atlas, row: int, k: int) -> Near:
    """As Nearness.by_vectors: from what arranging has found, where that has been made."""
    held = placing(atlas).made.get("vectors")
    return atlas.nearness.by_vectors(row, k, None if held is None else held.nearest[row])
