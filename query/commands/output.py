"""Where answers go: a table on the terminal, a table or picture in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...schemas.numbers_shown import number_of
from ...schemas.storage.plain_files import replacing
from ..console.readable import readable
from ..console.table_files import write_table
from ..console.table_text import TEXTS
from .files import FIGURES, PIXELS, TABLES, check_output, kind_of
from .terminal import hand_out, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    Picture = Figure | Image.Image


def answer(
    table: pd.DataFrame,
    form: str,
    outputs: Sequence[Path] = (),
    draw: Callable[[], Picture] | None = None,
    pictures: Sequence[str] = FIGURES,
    question: str = "",
    caption: str = "",
) -> None:
    """Print a table, and write it or its picture to files; the suffix says which. Files are checked first.

    question: whose answer it is, which decides what people see of it; caption: what the table shows, said below it.
    """
    for path in outputs:
        check_output(path, (*(pictures if draw is not None else ()), *TABLES))
    show(table, form, question)
    for line in caption.splitlines():
        say(line)
    for path in outputs:
        if path.suffix.lower() in TABLES:
            save_table(table, path)
        elif draw is not None:
            save_picture(draw(), path)


def show(table: pd.DataFrame, form: str, question: str = "") -> None:
    """Print a table: 'table' and 'wide' for people, 'csv' and 'json' whole, for programs."""
    if form in TEXTS and form != "table":
        hand_out(TEXTS[form](table), end=form != "csv")
        return
    text, left_out = readable(table, question, wide=form == "wide")
    hand_out(text)
    if left_out:
        say(left_out)


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
    with replacing(path) as part:
        write_table(table, kind_of(path), part)
    say(f"{path}: {number_of(len(table), 'row')}")
