"""A DuckDB connection that can read one index and do nothing else, whatever SQL it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from duckdb.func import FunctionNullHandling
from numpy.typing import NDArray

from ..schemas.errors import DamagedIndex, QueryError
from ..schemas.layout import Layout
from ..schemas.manifest import REPAIR
from .notes import copy_notes

MEMORY = "2GB"
ANSWER_BYTES = 1_000_000_000  # of a result, as Python holds it
CHUNK_VECTORS = 50  # of 2,048 rows
READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}  # MULTI: PIVOT

IN_FUNCTION = "occurred while executing the UDF: "

StoredMap = Callable[[str, int, int], NDArray[np.float32] | None]


def connect(layout: Layout, spill: Path, stored_map: StoredMap) -> duckdb.DuckDBPyConnection:
    """Open the tables of an index read-only: no writing, no files, no extensions, no local variables, no way back.

    `spill` is a folder of this connection's own, outside the index, for what does not fit into memory. `stored_map` is
    what SQL calls as activation_map(layer, unit, image_id), FLOAT[] of the patches row by row.
    """

    def activation_map(layer: str | None, unit: int | None, image_id: int | None) -> NDArray[np.float32] | None:
        return None if layer is None or unit is None or image_id is None else stored_map(layer, unit, image_id)

    db = duckdb.connect(":memory:", config={"python_enable_replacements": False, "memory_limit": MEMORY})
    copy_notes(layout, db)
    try:
        db.execute(f"ATTACH '{quote(layout.database)}' AS vitdex_index (READ_ONLY)")
    except duckdb.Error as error:
        fact = f"{layout.database} cannot be opened: {str(error).splitlines()[0]}"
        raise DamagedIndex(fact, REPAIR) from error
    db.create_function(
        "activation_map",
        activation_map,
        ["VARCHAR", "BIGINT", "BIGINT"],
        "FLOAT[]",
        null_handling=FunctionNullHandling.SPECIAL,  # the answer may be NULL where no argument is
    )
    db.execute("USE vitdex_index")
    for setting in (
        f"temp_directory = '{quote(spill)}'",
        "max_temp_directory_size = '4GB'",
        "late_materialization_max_rows = 0",  # planning a second scan costs more than our narrow rows save
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        db.execute(f"SET {setting}")
    return db


def python_values(parameters: list[Any]) -> list[Any]:
    """Parameters as DuckDB takes them: numbers out of a DataFrame are NumPy's."""
    return [p.item() if isinstance(p, np.generic) else p for p in parameters]


def quote(path: Path) -> str:
    """A path inside an SQL string."""
    return str(path).replace("'", "''")


def ask(db: duckdb.DuckDBPyConnection, query: str, parameters: list[Any], timeout: float | None) -> pd.DataFrame:
    """The rows of one reading statement. `timeout` in seconds, None for no limit.

    Raises QueryError for any other statement, and where the time or the size of an answer goes beyond its limit.
    """
    try:
        statements = db.extract_statements(query)
        if any(statement.type not in READING for statement in statements):
            raise QueryError("an index can only be read", "Ask with SELECT, FROM, WITH, DESCRIBE, SHOW or EXPLAIN.")
        with _stopped_after(db, timeout):
            return _interruptibly(db, lambda: _fetch(db.execute(query, parameters)))
    except duckdb.InterruptException as error:
        raise QueryError(f"stopped after {timeout:g} s", "Ask for less, or give more time (--timeout).") from error
    except duckdb.Error as error:
        complaint = str(error).strip().splitlines()[0]
        if IN_FUNCTION in complaint:  # ours, with its remedy, behind its class
            raise QueryError(complaint.partition(IN_FUNCTION)[2].partition(": ")[2]) from error
        raise QueryError(complaint, "The tables: vitdex info OUT --tables.") from error


def _interruptibly(db: duckdb.DuckDBPyConnection, run: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """What `run` returns. Ctrl-C stops it, which DuckDB does not see by itself once it knows a Python function."""
    with ThreadPoolExecutor(1) as worker:
        answer = worker.submit(run)
        try:
            return answer.result()
        except KeyboardInterrupt:
            db.interrupt()
            raise


@contextmanager
def _stopped_after(db: duckdb.DuckDBPyConnection, timeout: float | None) -> Iterator[None]:
    if timeout is None:
        yield
        return
    timer = threading.Timer(timeout, db.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _fetch(result: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """A result's rows, block by block: an endless one is refused before it fills the memory."""
    if not result.description:
        return pd.DataFrame()
    blocks, size = [result.fetch_df_chunk(CHUNK_VECTORS)], 0
    while len(blocks[-1]):
        size += int(blocks[-1].memory_usage(deep=True).sum())
        if size > ANSWER_BYTES:
            raise QueryError(f"the answer is larger than {ANSWER_BYTES // 10**9} GB", "Add LIMIT, or aggregate.")
        blocks.append(result.fetch_df_chunk(CHUNK_VECTORS))
    return pd.concat(blocks[:-1], ignore_index=True) if len(blocks) > 2 else blocks[0]
