"""A folder that is filled part by part, an index or an extension of one, as one worker reads and writes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..layout import FilledFolder
from ..storage.writable import LocalFolder, Writable

ALONE = "run"  # the only worker of a run that fills its folder alone


class Filling:
    """What all workers of a folder know of it: which parts have an entry, and whether it is finished."""

    def __init__(self, layout: FilledFolder, files: Writable | None = None, worker: str = ALONE) -> None:
        self.layout, self.worker = layout, worker
        self.files = files if files is not None else LocalFolder(layout.root)

    def is_finished(self) -> bool:
        """Whether it has its manifest."""
        return self.layout.manifest.name in self.files.names("")

    def entered(self) -> set[int]:
        """The parts that have an entry."""
        names = (name.partition(".") for name in self.files.names(self._key(self.layout.parts)))
        return {int(stem) for stem, _, kind in names if kind == "json" and stem.isdigit()}

    def entry_contents(self, parts: int) -> list[bytes]:
        """The entries of so many parts as they are written, without those that are missing; several read at once."""
        keys = [self._key(self.layout.entry(part)) for part in range(parts)]
        with ThreadPoolExecutor(self.files.at_once) as readers:
            return [content for content in readers.map(self.files.content, keys) if content is not None]

    def _key(self, path: Path) -> str:
        return self.layout.key(path)
