"""Figures of the benchmarks: each adds its own to one folder of JSON files; `report.py` makes a table and a picture.

And the memory of a process, alone or with its children, which several of them watch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Figure:
    """One measured figure. asked: what it must reach, None where nothing was asked; more: whether more is better."""

    what: str
    value: float
    unit: str = ""
    asked: float | None = None
    more: bool = False

    @property
    def reached(self) -> float | None:
        """How far what was asked is reached: 1 and above is enough."""
        if self.asked is None:
            return None
        return self.value / self.asked if self.more else self.asked / self.value

    @property
    def line(self) -> str:
        asked = "" if self.asked is None else f"{'≥' if self.more else '≤'} {self.asked:g}"
        return f"| {self.what} | {self.value:.3g} {self.unit} | {asked} |"


HEADER = "| what | measured | asked |\n|---|---|---|"


def record(folder: Path | None, name: str, figures: list[Figure]) -> None:
    """Write a benchmark's figures, where a folder is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


def recorded(folder: Path) -> dict[str, list[Figure]]:
    """The figures of every benchmark that has written into the folder."""
    files = sorted(folder.glob("*.json"))
    return {file.stem: [Figure(**figure) for figure in json.loads(file.read_text())] for file in files}


def own_bytes(process: int | str | None = "self") -> int:
    """Bytes of a process, by default this one, in memory that are not pages of files (Linux); 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def tree_bytes(root: int) -> int:
    """Bytes in memory of a process and its children: shared pages once, files' pages as the first has them (Linux)."""
    total = 0
    try:
        for process in (root, *(child.pid for child in psutil.Process(root).children(recursive=True))):
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in rollup if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        files = Path(f"/proc/{root}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in files if line.startswith("RssFile"))
    except (OSError, psutil.Error):  # one of them ends
        return 0
    return 1024 * total
