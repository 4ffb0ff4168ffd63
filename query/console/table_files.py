"""A table as the file of a kind: what is printed of it, CSV, JSON or Parquet."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd

from ...schemas.database import hearing_ctrl_c, quoted
from ...schemas.errors import QueryError
from ...schemas.storage.room import trouble
from .child import Kind
from .table_text import TEXTS


def write_table(table: pd.DataFrame, kind: Kind, path: Path) -> None:
    """Write a table to a file, in place of what is there."""
    if kind == "parquet":
        try:
            _copy(table, path)
        except duckdb.Error as error:
            fact = f"the table cannot be written: {trouble(error)}"
            raise QueryError(fact, "Make space, or choose another place.") from error
    else:
        path.write_text(TEXTS[kind](table), encoding="utf-8", newline="")


def _copy(table: pd.DataFrame, path: Path) -> None:
    with hearing_ctrl_c(), duckdb.connect() as db:
        db.register("answer", table)
        # the file is new, and what DuckDB would call its own may be a link
        db.execute(f"COPY answer TO {quoted(path)} (FORMAT parquet, USE_TMP_FILE false)")
