"""What resume trusts: an entry for every finished part, and of its statistics a tally that counts it.

An entry is written when all of the part's files are there, and names the worker that wrote it. Workers keep the counts
of all their parts together, in one file now and then, and a tally beside it that says which parts those are: hundreds
of MB, dear beside a part that takes seconds. So a part is done where its entry and its own worker's tally say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ..schemas.errors import BadIndex
from ..schemas.facts import FileFacts, Files, ImageFacts
from ..schemas.layout import Layout
from ..schemas.run_spec import RunSpec
from ..schemas.storage.writable import Writable
from ..schemas.workers.filling import ALONE, Filling
from .statistics.saved_state import merge_state, pack_by_layer, sums_in_order, unpack_by_layer

if TYPE_CHECKING:
    from torch import Tensor

    from .run.part_runner import Filled
    from .statistics.threshold_counts import Statistics


@dataclass(frozen=True)
class PartEntry:
    """A finished part: its files, and what was learnt of its images."""

    part: int
    files: Files
    images: list[ImageFacts]
    seconds: float  # from the part's first image to its last
    worker: str = ALONE

    def to_json(self) -> dict[str, object]:
        value = {**vars(self), "images": [image.to_json() for image in self.images]}
        if self.worker == ALONE:
            del value["worker"]
        return value

    @classmethod
    def parsed(cls, content: bytes) -> PartEntry:
        value: dict[str, Any] = json.loads(content)
        files = {path: FileFacts(*facts) for path, facts in value["files"].items()}
        images = [ImageFacts.from_json(image) for image in value["images"]]
        return cls(value["part"], files, images, value["seconds"], value.get("worker", ALONE))


@dataclass(frozen=True)
class Tally:
    """The parts that a worker has counted; `number` is that of the file of these counts."""

    worker: str
    parts: frozenset[int] = frozenset()
    number: int = 0


class Ledger(Filling):
    """The `parts/` folder of an index that is being made, as one worker reads and writes it."""

    layout: Layout

    def __init__(self, layout: Layout, files: Writable | None = None, worker: str = ALONE) -> None:
        super().__init__(layout, files, worker)
        self.tally = Tally(worker)

    def begin(self, spec: RunSpec) -> None:
        """Start a run or take up an unfinished one.

        Raises BadIndex, naming what differs, where another run stands in the folder.
        """
        key = self._key(self.layout.run)
        if self.files.create(key, _run_content(spec)):
            return
        try:
            there = RunSpec.from_json(json.loads(self.files.content(key) or b""))
        except (ValueError, KeyError, TypeError) as error:
            raise BadIndex(f"{self.files.shown(key)} is damaged", "Start again with --overwrite.") from error
        if different := spec.differences(there):
            raise BadIndex(
                f"{self.files.shown('')} holds an unfinished index of another run ({'; '.join(different)})",
                "Repeat that run's command, or give --overwrite.",
            )
        working = self.files.names(self._key(self.layout.working))
        if len(self.entered()) == len(spec.parts) and not working and not self.is_finished():
            raise BadIndex(
                f"{self.files.shown(self.layout.manifest.name)} is missing", "Repeat the command with --repair."
            )

    def write_run(self, spec: RunSpec) -> FileFacts:
        return self.files.write(self._key(self.layout.run), _run_content(spec))

    def entry(self, part: int) -> PartEntry | None:
        content = self.files.content(self._key(self.layout.entry(part)))
        return None if content is None else PartEntry.parsed(content)

    def entries(self, parts: int) -> list[PartEntry]:
        """Those of so many parts, without those that are missing."""
        return [PartEntry.parsed(content) for content in self.entry_contents(parts)]

    def finish_part(self, entry: PartEntry) -> FileFacts:
        return self.files.vouch(self._key(self.layout.entry(entry.part)), self._content(entry))

    def create_entry(self, entry: PartEntry) -> bool:
        """Write an entry where there is none; whether there was none."""
        return self.files.create(self._key(self.layout.entry(entry.part)), self._content(entry))

    def _content(self, entry: PartEntry) -> bytes:
        return json.dumps(replace(entry, worker=self.worker).to_json(), indent=1).encode()

    def settle_bins(self, bins: dict[str, Tensor]) -> dict[str, Tensor]:
        """Where the bins lie for all workers: as the first of them has found."""
        self.files.create(self._key(self.layout.bins), pack_by_layer(bins))
        settled = self.bins()
        assert settled is not None
        return settled

    def bins(self) -> dict[str, Tensor] | None:
        content = self.files.content(self._key(self.layout.bins))
        return None if content is None else unpack_by_layer(content)

    def save_statistics(self, part: int, filled: Filled) -> None:
        """What a part leaves for the end beside its arrays: sums, candidates."""
        for layer, packed in filled.candidates.items():
            self.files.write(self._key(self.layout.candidates(part, layer)), packed())
        if filled.sums is not None:
            self.files.write(self._key(self.layout.sums(part)), pack_by_layer(filled.sums.result()))

    def save_counts(self, parts: Iterable[int], state: bytes) -> None:
        """The counts of all parts of this worker, in place of those before."""
        before, self.tally = self.tally, Tally(self.worker, frozenset(parts), self.tally.number + 1)
        self.files.write(self._key(self.layout.counts(self.worker, self.tally.number)), state)
        said = {"parts": sorted(self.tally.parts), "number": self.tally.number}
        self.files.vouch(self._key(self.layout.tally(self.worker)), json.dumps(said).encode())
        self.files.remove(self._key(self.layout.counts(self.worker, before.number)))

    def tallies(self) -> list[Tally]:
        """Those of all workers."""
        names = sorted(self.files.names(self._key(self.layout.working)))
        return [self.tally_of(name.removesuffix(".tally")) for name in names if name.endswith(".tally")]

    def tally_of(self, worker: str) -> Tally:
        content = self.files.content(self._key(self.layout.tally(worker)))
        if content is None:
            return Tally(worker)
        said = json.loads(content)
        return Tally(worker, frozenset(said["parts"]), said["number"])

    def drop_tally(self, tally: Tally) -> None:
        """Remove a tally, and the counts with it."""
        self.files.remove(self._key(self.layout.tally(tally.worker)))
        self.files.remove(self._key(self.layout.counts(tally.worker, tally.number)))

    def take_up(self, statistics: Statistics) -> frozenset[int]:
        """Go on with what this worker has counted: its parts, which are added to fresh statistics."""
        self.tally = self.tally_of(self.worker)
        if not self.tally.parts <= self.entered():  # counts cannot be taken back: those of lost parts spoil the others
            self.tally = replace(self.tally, parts=frozenset())
        return self._merged(statistics, self.tally)

    def merge_all(self, statistics: Statistics, tallies: Iterable[Tally], parts: int) -> None:
        """Add what other workers have counted to this one's, and the sums of all parts in their order."""
        for tally in tallies:
            if tally.worker != self.worker:
                self._merged(statistics, tally)
        files = (self._key(self.layout.sums(part)) for part in range(parts))
        statistics.add_sums(sums_in_order(self._needed(file) for file in files))

    def candidates(self, layer: str, parts: int) -> Iterator[bytes]:
        """What every part has kept of the maps of a layer, part by part."""
        return (self._needed(self._key(self.layout.candidates(part, layer))) for part in range(parts))

    def _merged(self, statistics: Statistics, tally: Tally) -> frozenset[int]:
        if tally.parts:
            key = self._key(self.layout.counts(tally.worker, tally.number))
            try:
                merge_state(statistics, self._needed(key))
            except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
                raise self._lost(key) from error
        return tally.parts

    def _needed(self, key: str) -> bytes:
        content = self.files.content(key)
        if content is None:
            raise self._lost(key)
        return content

    def _lost(self, key: str) -> BadIndex:
        return BadIndex(f"{self.files.shown(key)} is missing or damaged", "Repeat the command with --overwrite.")


def _run_content(spec: RunSpec) -> bytes:
    return json.dumps(spec.to_json(), indent=1).encode()
