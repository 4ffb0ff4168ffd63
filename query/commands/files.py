"""The files that answers go to: their kinds, and how they come in place of what was there. Light to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import click

from ...schemas.errors import QueryError
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


def say(line: str) -> None:
    """A line about the answer, where it does not mix with it."""
    click.echo(line, err=True)


def check_output(path: Path, kinds: Sequence[str] = (*FIGURES, *TABLES)) -> None:
    """Raise QueryError where a file cannot be written: of no kind that is known, or in place of another kind."""
    suffix = path.suffix.lower()
    if suffix not in kinds:
        raise QueryError(f"'{path}' is of no kind that can be written here", f"One of {', '.join(kinds)}.")
    if not path.absolute().parent.is_dir():
        raise QueryError(f"there is no folder {path.parent}", "Make it, or choose another name.")
    if path.is_dir():
        raise QueryError(f"{path} is a folder", "Choose another name.")
    if path.exists() and path.stat().st_size and suffix in BEGINNINGS:
        with path.open("rb") as file:
            if not file.read(8).startswith(BEGINNINGS[suffix]):
                raise QueryError(f"{path} is there and is no {suffix} file", "Choose another name.")


def kind_of(path: Path) -> Kind:
    """What a file of TABLES is, by its suffix."""
    return cast(Kind, path.suffix.lower().removeprefix("."))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name, then give it its own: what was there stays until the new one is whole."""
    part = path.with_name(f".{path.name}.partial")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
