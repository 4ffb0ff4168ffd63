"""The files that answers go to: their kinds, and what they may replace. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ...schemas.errors import QueryError
from ...schemas.storage.room import check_room
from ..console.child import Kind

TABLES = (".csv", ".json", ".parquet")
PIXELS = (".png", ".jpg", ".jpeg", ".pdf")  # what a picture of pixels can be
FIGURES = (*PIXELS, ".svg")  # and a figure, which is drawn of lines
BEGINNINGS = {  # of files that a picture or table of this kind may replace
    ".png": b"\x89PNG",
    ".jpg": b"\xff\xd8",
    ".jpeg": b"\xff\xd8",
    ".pdf": b"%PDF",
    ".svg": b"<?xml",
    ".json": b"[",
    ".parquet": b"PAR1",
}


def check_output(path: Path, kinds: Sequence[str] = (*FIGURES, *TABLES)) -> None:
    """Raise QueryError where a file cannot be written: of no kind that is known, or in place of another kind."""
    suffix = path.suffix.lower()
    if suffix not in kinds:
        raise QueryError(f"'{path}' is of no kind that can be written here", f"One of {', '.join(kinds)}.")
    if not path.absolute().parent.is_dir():
        raise QueryError(f"there is no folder {path.parent}", "Make it, or choose another name.")
    if path.is_dir():
        raise QueryError(f"{path} is a folder", "Choose another name.")
    check_room(path.absolute().parent)
    if path.exists() and path.stat().st_size and suffix in BEGINNINGS:
        with path.open("rb") as file:
            if not file.read(8).startswith(BEGINNINGS[suffix]):
                raise QueryError(f"{path} is there and is no {suffix} file", "Choose another name.")


def kind_of(path: Path) -> Kind:
    """What a file of TABLES is, by its suffix."""
    return cast(Kind, path.suffix.lower().removeprefix("."))
