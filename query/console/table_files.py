"""A table as the file of a kind: what is printed of it, CSV, JSON or Parquet."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd

from ...schemas.database import hearing_ctrl_c, quoted
from .child import Kind
from .table_text import TEXTS


def write_table(table: pd.DataFrame, kind: Kind, path: Path) -> None:
    """Write a table to a file, in place of what is there."""
    if kind == "parquet":
        with hearing_ctrl_c(), duckdb.connect() as db:
            db.register("answer", table)
            db.execute(f"COPY answer TO {quoted(path)} (FORMAT parquet)")
    else:
        path.write_text(TEXTS[kind](table), encoding="utf-8", newline="")
