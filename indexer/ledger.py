"""What resume trusts: an entry for every finished part, written only when all of the part's files are on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from ..schemas.errors import BadIndex
from ..schemas.facts import FileFacts, Files, ImageFacts
from ..schemas.layout import Layout
from ..schemas.run_spec import RunSpec
from ..schemas.storage.atomic_files import write_file, write_voucher
from .statistics.saved_state import unpack_state

if TYPE_CHECKING:
    from .run.part_runner import Filled


@dataclass(frozen=True)
class PartEntry:
    """A finished part: its files, and what was learnt of its images."""

    part: int
    files: Files
    images: list[ImageFacts]
    seconds: float  # from the part's first image to its last

    def to_json(self) -> dict[str, object]:
        return {**vars(self), "images": [image.to_json() for image in self.images]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PartEntry:
        files = {path: FileFacts(*facts) for path, facts in value["files"].items()}
        images = [ImageFacts.from_json(image) for image in value["images"]]
        return cls(value["part"], files, images, value["seconds"])


class Ledger:
    """The `parts/` folder of an index that is being made."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def begin(self, spec: RunSpec) -> int:
        """Start a run or take up an unfinished one. Returns the first part to do: after the newest state.

        Raises BadIndex, naming what differs, where another run stands in the folder.
        """
        if self.layout.run.exists():
            try:
                there = RunSpec.from_json(json.loads(self.layout.run.read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError) as error:
                raise BadIndex(f"{self.layout.run} is damaged", "Start again with --overwrite.") from error
            if different := spec.differences(there):
                raise BadIndex(
                    f"{self.layout.root} holds an unfinished index of another run ({'; '.join(different)})",
                    "Repeat that run's command, or give --overwrite.",
                )
        else:
            self.write_run(spec)
        entered = 0
        while entered < len(spec.parts) and self.layout.entry(entered).exists():
            entered += 1
        if entered == len(spec.parts):  # a state came with the last part; without it this is an index that lost files
            return entered
        return max((counted for counted in self.counted() if counted <= entered), default=0)

    def write_run(self, spec: RunSpec) -> FileFacts:
        return write_file(self.layout.run, json.dumps(spec.to_json(), indent=1).encode())

    def counted(self) -> list[int]:
        """How many parts each state holds that is kept."""
        return [int(file.stem) + 1 for file in self.layout.parts.glob("*.counts")]

    def entries(self, parts: int) -> list[PartEntry]:
        return [PartEntry.from_json(json.loads(self.layout.entry(i).read_text(encoding="utf-8"))) for i in range(parts)]

    def save_state(self, part: int, filled: Filled) -> None:
        """Candidates; the statistics up to and including this part where there are any."""
        for layer, content in filled.candidates.items():
            write_file(self.layout.candidates(part, layer), content)
        if filled.state is not None:
            write_file(self.layout.counts(part), filled.state)

    def load_counts(self, part: int) -> dict[str, NDArray[np.generic]]:
        try:
            state = unpack_state(self.layout.counts(part).read_bytes())
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise BadIndex(
                f"{self.layout.counts(part)} is missing or damaged", "Repeat the command with --repair."
            ) from error
        return state

    def finish_part(self, entry: PartEntry) -> None:
        write_voucher(self.layout.entry(entry.part), json.dumps(entry.to_json(), indent=1).encode())
        self.forget_old_counts(entry.part)

    def forget_old_counts(self, part: int) -> None:
        """Of the counts up to this part only the newest are kept."""
        for counted in sorted(n for n in self.counted() if n <= part + 1)[:-1]:
            self.layout.counts(counted - 1).unlink(missing_ok=True)
