"""Descriptions of neurons, from any tool that writes a CSV of layer, unit, description. MILAN's own has CRLF ends."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ..schemas.errors import QueryError
from .index import Index
from .notes import writing

COLUMNS = ["layer", "unit", "description"]
NAMED = 3  # wrong rows that an error names


def import_descriptions(index: Index, file: str | Path, source: str, note: str | None = None) -> int:
    """Put a CSV's descriptions into the table `descriptions` and return how many; all of them or none.

    They replace what the same source said before. note: what made them, such as the tool's version and settings.
    An index that has already been asked sees them when opened again. Raises QueryError for a file of another form, for
    neurons that the index does not have and for neurons that come twice.
    """
    rows = read_descriptions(file)
    _check(index, rows, Path(file))
    frame = rows.assign(source=source, imported=datetime.now(UTC).replace(tzinfo=None), note=note)
    with writing(index.layout) as db:
        db.execute("DELETE FROM descriptions WHERE source = ?", [source])
        db.register("frame", frame)
        db.execute("INSERT INTO descriptions BY NAME FROM frame")
    return len(frame)


def read_descriptions(file: str | Path) -> pd.DataFrame:
    """The rows of a CSV: layer, unit, description. Raises QueryError for a file of another form."""
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as opened:
            header, *rows = list(csv.reader(opened, strict=True)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise QueryError(f"{file} is no readable CSV", f"It needs the columns {', '.join(COLUMNS)}.") from error
    if header != COLUMNS:
        raise QueryError(f"{file} begins with '{','.join(header)}'", f"Its header must be {','.join(COLUMNS)}.")
    for number, row in enumerate(rows, 2):
        if len(row) != len(COLUMNS) or not row[1].isdecimal():
            raise QueryError(f"row {number} of {file} is '{','.join(row)}'", "Give layer, unit number, description.")
    return pd.DataFrame(rows, columns=COLUMNS).astype({"unit": "int64"})


def _check(index: Index, rows: pd.DataFrame, file: Path) -> None:
    units = rows.layer.map({layer.name: layer.units for layer in index.spec.layers}).fillna(0)
    unknown = rows[rows.unit >= units]
    if len(unknown):
        raise QueryError(
            f"{file} describes {len(unknown)} neurons that the index does not have: {_names(unknown)}",
            "Nothing was imported.",
        )
    twice = rows[rows.duplicated(["layer", "unit"])]
    if len(twice):
        raise QueryError(f"{file} describes {_names(twice)} more than once", "Nothing was imported.")


def _names(rows: pd.DataFrame) -> str:
    named = [f"{row.layer}/{row.unit}" for row in rows.head(NAMED).itertuples(index=False)]
    return ", ".join(named) + (", ..." if len(rows) > NAMED else "")
