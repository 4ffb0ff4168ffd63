"""Arrays and tables as plain data for JSON: numbers as short as they are exact, None where there is none."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Page = dict[str, Any]


def plain(value: Any) -> Any:
    """One value of a table: a float32 as the shortest number that reads back as the same; None for NaN and NULL."""
    if isinstance(value, np.floating | float):
        return float(str(value)) if math.isfinite(value) else None
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


def listed(values: Iterable[Any]) -> list[Any]:
    """A column as a list of plain values."""
    values = values.to_numpy() if isinstance(values, pd.Series) else values  # which keeps float32 what it is
    return [plain(value) for value in values]


def packed(values: NDArray[Any]) -> str:
    """An array's bytes, little-endian, in base64; who reads it knows its type and shape."""
    return b64encode(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()).decode()


def json_bytes(page: Page) -> bytes:
    """A page as JSON in ASCII: half a letter in a file's name stays what it is."""
    return json.dumps(page, separators=(",", ":"), allow_nan=False).encode()
