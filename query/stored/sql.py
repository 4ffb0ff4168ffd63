"""The tables of one index in a DuckDB connection that can read them and do nothing else, whatever SQL it is given."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.database import attach_tables, naming_damage, quoted
from ...schemas.errors import QueryError, VitdexError
from ...schemas.layout import Layout
from ..notes.database import copy_notes, notes_stamp

MEMORY = "2GB"
SPILLED = "4GB"  # what a query may put aside on disk
ANSWER_BYTES = 1_000_000_000  # of a result, as Python holds it
CHUNK_VECTORS = 50  # of 2,048 rows
READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}  # MULTI: PIVOT
SPECIAL: Any = "special"  # how a function meets NULL, which ours may answer; the enumeration moves between DuckDBs

StoredMap = Callable[[str, int, int], NDArray[np.float32] | None]


class Tables:
    """The tables of an index and its notes: no writing, no files, no extensions, no local variables, no way back.

    `stored_map` is what SQL calls as activation_map(layer, unit, image_id), FLOAT[] of the patches row by row.
    Raises DamagedIndex where the database is missing or damaged.
    """

    def __init__(self, layout: Layout, stored_map: StoredMap) -> None:
        self._layout, self._stored_map = layout, stored_map
        self._spill = tempfile.TemporaryDirectory(prefix="vitdex-")  # outside the index
        self._raised: VitdexError | None = None  # by our own function inside a query
        self.notes = notes_stamp(layout)  # of the notes that this connection holds
        self.db = self._connect()

    def close(self) -> None:
        self.db.close()
        self._spill.cleanup()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        db = duckdb.connect(":memory:", config={"python_enable_replacements": False, "memory_limit": MEMORY})
        copy_notes(self._layout, db)
        attach_tables(db, self._layout)
        db.create_function(
            "activation_map",
            self._activation_map,
            ["VARCHAR", "BIGINT", "BIGINT"],
            "FLOAT[]",
            null_handling=SPECIAL,
        )
        db.execute("USE vitdex_index")
        for setting in (
            f"temp_directory = {quoted(self._spill.name)}",
            f"max_temp_directory_size = '{SPILLED}'",
            "late_materialization_max_rows = 0",  # planning a second scan costs more than our narrow rows save
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "allow_community_extensions = false",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            db.execute(f"SET {setting}")
        return db

    def _activation_map(self, layer: str | None, unit: int | None, image_id: int | None) -> NDArray[np.float32] | None:
        if layer is None or unit is None or image_id is None:
            return None
        try:
            return self._stored_map(layer, unit, image_id)
        except VitdexError as error:  # DuckDB would pass on its text alone
            self._raised = error
            raise

    def ask(self, query: str, parameters: list[Any], timeout: float | None) -> pd.DataFrame:
        """The rows of one reading statement. `timeout` in seconds, None for no limit.

        Raises QueryError for any other statement, and where the time or the size of an answer goes beyond its limit.
        """
        with self._errors():
            statements = self.db.extract_statements(query)
            if any(statement.type not in READING for statement in statements):
                raise QueryError("an index can only be read", "Ask with SELECT, FROM, WITH, DESCRIBE, SHOW or EXPLAIN.")
            try:
                with _stopped_after(self.db, timeout):
                    return _interruptibly(self.db, lambda: _fetch(self.db.execute(query, python_values(parameters))))
            except duckdb.InterruptException as error:
                raise QueryError(
                    f"stopped after {timeout:g} s", "Ask for less, or give more time (--timeout)."
                ) from error

    def look_up(self, query: str, parameters: list[Any]) -> pd.DataFrame:
        """The rows of a query of our own, known to be small: without the checks of `ask`, in half the time."""
        with self._errors():
            return self.db.execute(query, python_values(parameters)).df()

    def rows(self, query: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        """The same as plain tuples, which is quicker still."""
        with self._errors():
            return self.db.execute(query, python_values(parameters)).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """DuckDB's complaints as ours: what our own function said, damage, or one line about the query."""
        self._raised = None
        try:
            with naming_damage(self._layout):
                yield
        except duckdb.Error as error:
            if self._raised is not None:
                raise self._raised from error
            raise QueryError(str(error).strip().splitlines()[0], "The tables: vitdex info INDEX --tables.") from error


def python_values(parameters: list[Any]) -> list[Any]:
    """Parameters as DuckDB takes them: numbers out of a DataFrame are NumPy's."""
    return [p.item() if isinstance(p, np.generic) else p for p in parameters]


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
