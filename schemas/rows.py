"""Columns into tables, as fast as DuckDB takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .run_spec import LayerSpec

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


def class_keys(layers: Sequence[LayerSpec], class_ids: NDArray[np.int64]) -> dict[str, Column]:
    """layer, unit and class_id of the rows of matrices [class, neuron of all layers]."""
    units = np.concatenate([np.arange(layer.units, dtype=np.uint32) for layer in layers])
    codes = np.repeat(np.arange(len(layers), dtype=np.int16), [layer.units for layer in layers])
    names = pd.Index([layer.name for layer in layers])
    return {
        "layer": pd.Categorical.from_codes(np.tile(codes, len(class_ids)), names),
        "unit": np.tile(units, len(class_ids)),
        "class_id": np.repeat(class_ids.astype(np.uint32), len(units)),
    }
