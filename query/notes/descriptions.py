"""Descriptions of neurons, from any tool that writes a CSV of layer, unit, description. MILAN's own has CRLF ends."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pandas as pd

from ...schemas.errors import QueryError
from ...schemas.layout import Layout
from ...schemas.numbers_shown import number_of
from ...schemas.run_spec import LayerSpec
from ...schemas.shown_text import shortened
from ...schemas.text_files import read_text
from .database import writing

COLUMNS = ["layer", "unit", "description"]
DIGITS = 9  # of a unit's number
NAMED = 3  # wrong rows that an error names


def keep_descriptions(layout: Layout, rows: pd.DataFrame, source: str, note: str | None) -> None:
    """Put rows of layer, unit, description into the table, in place of what the same source said before."""
    frame = rows.assign(source=source, imported=datetime.now(UTC).replace(tzinfo=None), note=note)
    with writing(layout) as db:
        db.execute("DELETE FROM descriptions WHERE source = ?", [source])
        db.register("frame", frame)
        db.execute("INSERT INTO descriptions BY NAME FROM frame")


def read_descriptions(file: str | Path, layers: Sequence[LayerSpec]) -> pd.DataFrame:
    """The rows of a CSV: layer, unit, description.

    Raises QueryError for a file of another form, for neurons that none of the layers has and for ones that come twice.
    """
    try:
        header, *rows = list(csv.reader(StringIO(read_text(file), newline=""), strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QueryError(f"{file} is no readable CSV", f"It needs the columns {', '.join(COLUMNS)}.") from error
    if header != COLUMNS:
        first = shortened(",".join(header))
        raise QueryError(f"{file} begins with '{first}'", f"Its header must be {','.join(COLUMNS)}.")
    for number, row in enumerate(rows, 2):
        if len(row) != len(COLUMNS) or not row[1].isdecimal() or len(row[1]) > DIGITS:
            shown = shortened(",".join(row))
            raise QueryError(f"row {number} of {file} is '{shown}'", "Give layer, unit number, description.")
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"unit": "int64"})
    _check(table, Path(file), layers)
    return table


def _check(rows: pd.DataFrame, file: Path, layers: Sequence[LayerSpec]) -> None:
    units = rows.layer.map({layer.name: layer.units for layer in layers}).fillna(0)
    unknown = rows[rows.unit >= units]
    if len(unknown):
        raise QueryError(
            f"{file} describes {number_of(len(unknown), 'neuron')} that the index does not have: {_names(unknown)}",
            "Nothing was imported.",
        )
    twice = rows[rows.duplicated(["layer", "unit"])]
    if len(twice):
        raise QueryError(f"{file} describes {_names(twice)} more than once", "Nothing was imported.")


def _names(rows: pd.DataFrame) -> str:
    named = [f"{shortened(str(row.layer))}/{row.unit}" for row in rows.head(NAMED).itertuples(index=False)]
    return ", ".join(named) + (", ..." if len(rows) > NAMED else "")
