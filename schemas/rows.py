"""Columns into tables, as fast as DuckDB takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sized

import duckdb
import numpy as np
import pandas as pd

Column = Sized | None  # a value a row; one word: the same in every row; None: NULL


def insert(db: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, Column], what: str = "*") -> None:
    """Add rows from columns."""
    rows = max(len(c) for c in columns.values() if c is not None and not isinstance(c, str))
    full = {k: constant(c, rows) if isinstance(c, str) else c for k, c in columns.items()}
    db.register("rows", pd.DataFrame(full))
    db.execute(f"INSERT INTO {table} BY NAME SELECT {what} FROM rows")
    db.unregister("rows")


def constant(word: str, rows: int) -> pd.Categorical[str]:
    """One word for all rows: DuckDB reads codes many times faster than Python strings."""
    return pd.Categorical.from_codes(np.zeros(rows, np.int8), pd.Index([word]))
