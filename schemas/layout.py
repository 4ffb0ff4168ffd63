"""Where everything lies in an index: the paths of its folder. FORMAT.md says the same in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .array_specs import ARRAYS


@dataclass(frozen=True)
class FilledFolder:
    """The paths that every folder has which is filled part by part and sealed by a manifest at the end."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    @property
    def run(self) -> Path:
        """What decides its content; it stands from the first moment on."""
        return self.parts / "run.json"

    @property
    def lock(self) -> Path:
        return self.parts / "lock"

    def entry(self, part: int) -> Path:
        """The ledger entry of a finished part: written once all of its files are."""
        return self.parts / f"{part:05d}.json"


class Layout(FilledFolder):
    """The paths of an index folder."""

    @property
    def arrays(self) -> Path:
        return self.root / ARRAYS

    @property
    def database(self) -> Path:
        return self.root / "index.duckdb"

    @property
    def notes(self) -> Path:
        """What users add later; neither it nor `notes_folder` is in the manifest."""
        return self.root / "notes.duckdb"

    @property
    def notes_folder(self) -> Path:
        """Pictures that belong to the notes."""
        return self.root / "notes"

    @property
    def head_run(self) -> Path:
        """Stands while `vitdex head` fills this folder."""
        return self.parts / "head.partial"

    def counts(self, part: int) -> Path:
        """The threshold counts up to and including this part; only the newest is kept."""
        return self.parts / f"{part:05d}.counts"

    @property
    def statistics(self) -> Path:
        """The columns of `neurons` that no array holds: with them the tables can be made again."""
        return self.parts / "statistics.safetensors"

    def candidates(self, part: int, layer: str) -> Path:
        """Maps of this part's images that are in a running top 100 (`--maps exemplars` only)."""
        return self.parts / f"{part:05d}.{layer}.candidates"

    def leftovers(self) -> list[Path]:
        """What a finished index no longer needs: counts, candidates, and files that a stopped run did not finish."""
        working = [*self.parts.glob("*.counts"), *self.parts.glob("*.candidates")]
        return working + [p for p in self.root.rglob("*.partial*") if p.is_file()]
