"""What resume trusts: an entry for every finished part, written only when all of the part's files are on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..schemas.errors import BadIndex
from ..schemas.layout import Layout
from ..schemas.records import RunSpec
from .fill import Filled
from .writer import write_file


@dataclass(frozen=True)
class Entry:
    """A finished part: its files with [bytes, checksum], and what was learnt of its images."""

    part: int
    files: dict[str, list[Any]]
    images: list[dict[str, Any]]  # one an image: path, label, width, height, crop, or reason
    seconds: float  # from the part's first image to its last


class Ledger:
    """The `parts/` folder of an index that is being made."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def begin(self, spec: RunSpec) -> int:
        """Start a run or take up an unfinished one. Returns the first part to do.

        Raises BadIndex, naming what differs, where another run stands in the folder.
        """
        if self.layout.run.exists():
            try:
                there = RunSpec.from_json(json.loads(self.layout.run.read_text()))
            except (ValueError, KeyError, TypeError) as error:
                raise BadIndex(f"{self.layout.run} is damaged", "Start again with --overwrite.") from error
            if different := spec.differences(there):
                raise BadIndex(
                    f"{self.layout.root} holds an unfinished index of another run ({'; '.join(different)})",
                    "Repeat that run's command, or give --overwrite.",
                )
        else:
            self.write_run(spec)
        done = 0
        while done < len(spec.parts) and self.layout.entry(done).exists():
            done += 1
        return done

    def write_run(self, spec: RunSpec) -> list[Any]:
        return write_file(self.layout.run, json.dumps(spec.to_json(), indent=1).encode())

    def counted(self) -> int:
        """How many parts the newest counts hold."""
        return max((int(file.stem) + 1 for file in self.layout.parts.glob("*.counts")), default=0)

    def entries(self, parts: int) -> list[Entry]:
        return [Entry(**json.loads(self.layout.entry(i).read_text())) for i in range(parts)]

    def save_state(self, part: int, filled: Filled) -> None:
        """Candidates, then the statistics up to and including this part."""
        for layer, content in filled.kept.items():
            write_file(self.layout.candidates(part, layer), content)
        write_file(self.layout.counts(part), Zstd(level=1, checksum=True).encode(save(filled.state)))

    def load_counts(self, part: int) -> dict[str, NDArray[np.generic]]:
        try:
            state: dict[str, NDArray[np.generic]] = load(Zstd().decode(self.layout.counts(part).read_bytes()))
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise BadIndex(
                f"{self.layout.counts(part)} is missing or damaged", "Repeat the command with --repair."
            ) from error
        return state

    def finish_part(self, entry: Entry) -> None:
        write_file(self.layout.entry(entry.part), json.dumps(asdict(entry), indent=1).encode())
        self.forget_counts(entry.part)

    def forget_counts(self, before: int) -> None:
        """Only the newest counts are kept."""
        if before:
            self.layout.counts(before - 1).unlink(missing_ok=True)
