"""Where answers go: a table on the terminal, a table or picture in a file; what is said about them on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import duckdb
import pandas as pd

from ...schemas.database import hearing_ctrl_c, quoted
from ...schemas.errors import QueryError
from ...schemas.progress import Progress
from ...schemas.shown_text import escaped
from ...schemas.storage.atomic_files import replacing
from ...schemas.storage.room import check_room, trouble
from .table_text import csv_text, json_text, shown_text
from .terminal import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    Picture = Figure | Image.Image

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


def answer(
    table: pd.DataFrame,
    form: str,
    outputs: Sequence[Path] = (),
    draw: Callable[[], Picture] | None = None,
    pictures: Sequence[str] = FIGURES,
) -> None:
    """Print a table, and write it or its picture to files; the suffix says which. Files are checked first."""
    for path in outputs:
        check_output(path, (*(pictures if draw is not None else ()), *TABLES))
    show(table, form)
    if table.attrs.get("by"):
        say(f"ranked by {table.attrs['by']}")
    for path in outputs:
        if path.suffix.lower() in TABLES:
            save_table(table, path)
        elif draw is not None:
            save_picture(draw(), path)


def show(table: pd.DataFrame, form: str) -> None:
    """Print a table as text, CSV or JSON. A program gets CSV and JSON as they are, a terminal what it can show."""
    if form == "table":
        click.echo(shown_text(table) if len(table) else "no rows")
        return
    text = csv_text(table) if form == "csv" else f"{json_text(table)}\n"
    click.echo(escaped(text, lines=True) if sys.stdout.isatty() else text, nl=False)


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


def save_picture(picture: Picture, path: Path) -> None:
    """Write a figure, or a picture of pixels, and say so. Raises QueryError for a kind that it cannot be."""
    from PIL import Image

    check_output(path, PIXELS if isinstance(picture, Image.Image) else FIGURES)
    kind = path.suffix.lower().removeprefix(".").replace("jpg", "jpeg")
    if isinstance(picture, Image.Image):
        with replacing(path) as part:
            picture.save(part, format=kind.upper())
        say(f"{path}: {picture.width} x {picture.height} pixels")
        return
    with replacing(path) as part:
        picture.savefig(part, format=kind)
    inches = picture.get_size_inches()
    say(f"{path}: a figure of {inches[0]:.1f} x {inches[1]:.1f} inches")


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table and say so."""
    write: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda part: part.write_text(csv_text(table), encoding="utf-8", newline=""),
        ".json": lambda part: part.write_text(json_text(table), encoding="utf-8"),
        ".parquet": lambda part: _parquet(table, part),
    }
    with replacing(path) as part:
        write[path.suffix.lower()](part)
    say(f"{path}: {len(table):,} rows")


def _parquet(table: pd.DataFrame, path: Path) -> None:
    try:
        _copy(table, path)
    except duckdb.Error as error:
        raise QueryError(
            f"the table cannot be written: {trouble(error)}", "Make space, or choose another place."
        ) from error


def _copy(table: pd.DataFrame, path: Path) -> None:
    with hearing_ctrl_c(), duckdb.connect() as db:
        db.register("answer", table)
        db.execute(f"COPY answer TO {quoted(path)} (FORMAT parquet, USE_TMP_FILE false)")


@contextmanager
def progress_bar(what: str, unit: str = "it") -> Iterator[Progress]:
    """A bar on stderr for long work, where that is a terminal; given to it as `progress`."""
    from tqdm import tqdm

    with tqdm(
        desc=escaped(what), unit=unit, unit_scale=unit == "B", disable=not sys.stderr.isatty(), leave=False
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
