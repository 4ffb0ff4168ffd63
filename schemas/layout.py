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

    @property
    def working(self) -> Path:
        """What only a folder that is being filled has."""
        return self.parts / "working"

    @property
    def joined(self) -> Path:
        """Stands where several workers fill it."""
        return self.working / "joined"

    def lease(self, what: str, number: int) -> Path:
        """Who works on a part, or on the end of the run; of several leases the one of the highest number holds."""
        return self.working / f"{what}.{number}.lease"

    def beat(self, worker: str) -> Path:
        """Changes as long as a worker lives."""
        return self.working / f"{worker}.beat"

    def leftovers(self) -> list[Path]:
        """Files that are not needed once it is finished: what it worked with, and what a stopped run did not finish."""
        working = [path for path in self.working.glob("*") if not path.is_dir()]
        return working + [p for p in self.root.rglob("*.partial*") if p.is_file()]

    def key(self, path: Path) -> str:
        """A path of this layout as the key of a store."""
        return path.relative_to(self.root).as_posix()


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

    @property
    def publishing(self) -> Path:
        """Stands while `vitdex publish` fills this folder."""
        return self.parts / "publish.partial"

    @property
    def filling(self) -> dict[str, Path]:
        """What stands while a command fills this folder: of several the first says which."""
        return {"publish": self.publishing, "head": self.head_run, "index": self.run}

    @property
    def bins(self) -> Path:
        """Where the bins of all neurons lie in which thresholds are counted."""
        return self.working / "bins"

    def sums(self, part: int) -> Path:
        """The sums of a part's values and of their squares."""
        return self.working / f"{part:05d}.sums"

    def tally(self, worker: str) -> Path:
        """Which parts a worker has counted, and the name of the file of its counts."""
        return self.working / f"{worker}.tally"

    def counts(self, worker: str, number: int) -> Path:
        """A worker's counts for the thresholds; of several only the one that its tally names holds."""
        return self.working / f"{worker}.{number}.counts"

    @property
    def statistics(self) -> Path:
        """The columns of `neurons` that no array holds: with them the tables can be made again."""
        return self.parts / "statistics.safetensors"

    def candidates(self, part: int, layer: str) -> Path:
        """Maps of this part's images that are in a running top 100 (`--maps exemplars` only)."""
        return self.working / f"{part:05d}.{layer}.candidates"
