"""Tables as text for people, and as CSV and JSON text, whole and exact.

There lists are JSON, moments ISO 8601, bytes hexadecimal digits.
JSON has no NaN and no infinity: what is missing or NaN is null, an infinity is the text "inf" or "-inf".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, time
from typing import Any

import numpy as np
import pandas as pd

from ...schemas.shown_text import escaped


def shown_text(table: pd.DataFrame) -> str:
    """What a terminal shows: columns of text, of letters alone."""
    if not len(table):
        return "no rows"
    columns = [_shown_column(table.iloc[:, at]) for at in range(table.shape[1])]
    text = pd.concat(columns, axis=1, keys=range(len(columns)))
    text.columns = pd.Index([escaped(str(name)) for name in table.columns])
    return escaped(text.to_string(index=False, na_rep=""), lines=True)  # what is in lists, too


def _shown_column(column: pd.Series[Any]) -> pd.Series[Any]:
    whole = pd.api.types.is_integer_dtype(column) and column.hasnans  # where a value is missing nothing is shown
    if not whole and (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column)):
        return column
    # to_string leaves NaN out alone: it writes None and NA
    cells = [escaped(c) if isinstance(c, str) else np.nan if c is None or c is pd.NA else c for c in column.tolist()]
    return pd.Series(cells, column.index, dtype=object)


def csv_text(table: pd.DataFrame) -> str:
    """Comma-separated, with a header; a list or struct in a cell is JSON, which pandas would shorten to '...'."""
    columns = [_csv_column(table.iloc[:, at]) for at in range(table.shape[1])]
    text = pd.concat(columns, axis=1, keys=range(len(columns))) if columns else table
    return text.to_csv(index=False, header=table.columns.tolist(), lineterminator="\n")


def json_text(table: pd.DataFrame) -> str:
    """A list of records, a line."""
    columns = [_cells(table.iloc[:, at]) for at in range(table.shape[1])]
    names = [str(name) for name in table.columns]
    records = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return json.dumps(records, ensure_ascii=False, allow_nan=False)


def _csv_column(column: pd.Series[Any]) -> pd.Series[Any]:
    if not pd.api.types.is_object_dtype(column):
        return column
    cells = [json.dumps(c, ensure_ascii=False) if isinstance(c, list | dict) else c for c in _cells(column)]
    return pd.Series(cells, column.index, dtype=object)


def _cells(column: pd.Series[Any]) -> list[Any]:
    """A column's values as JSON has them."""
    if column.dtype == np.float32:
        return _plain(column.to_numpy())  # type: ignore[no-any-return]
    return [_plain(value) for value in column.tolist()]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, np.ma.MaskedArray):  # a list in which some are NULL
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, np.ndarray):  # float32 with the digits it has, not those of a double
        exact = value.astype(str).astype(float) if value.dtype == np.float32 else value
        return [_plain(item) for item in exact.tolist()]
    if isinstance(value, np.generic):
        return _plain(np.asarray(value)[None])[0]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, pd.Timedelta | date | time):  # a Timestamp is a date
        return value.isoformat()
    return value if isinstance(value, str | int) else str(value)  # such as a UUID


TEXTS: dict[str, Callable[[pd.DataFrame], str]] = {"table": shown_text, "csv": csv_text, "json": json_text}
