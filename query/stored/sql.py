"""The tables of one index in a DuckDB connection that can read them and do nothing else, whatever SQL it is given."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from ...schemas.database import attach_tables, hearing_ctrl_c, lock_in, look_at_tables, naming_damage, quoted
from ...schemas.errors import QueryError, VitdexError
from ...schemas.extension_tables import attach_effects
from ...schemas.layout import Layout
from ...schemas.run_spec import RunSpec
from ..notes.database import copy_notes, notes_stamp
from .effects import StoredEffects, database_of, naming_damage_in
from .limits import TOO_MUCH, late
from .statements import check_reads

if TYPE_CHECKING:  # it takes long to import: only where an answer is a table
    import pandas as pd

MEMORY = "2GB"
SPILLED = "4GB"  # what a query may put aside on disk
ANSWER_BYTES = 1_000_000_000  # of a result, as Python holds it
CHUNK_VECTORS = 50  # of 2,048 rows
REMEMBERED = 100  # errors of our own function, until the query that met each has ended
SPECIAL: Any = "special"  # how a function meets NULL, which ours may answer; the enumeration moves between DuckDBs

StoredMap = Callable[[str, int, int], NDArray[np.float32] | None]


class Tables:
    """The tables of an index and its notes: no writing, no files, no extensions, no local variables, no way back.

    Any number of threads may ask: a question takes a connection that nobody uses, or makes one. What goes on in other
    threads ends well when the Tables are let go of, and they with the last of it.

    `stored_map` is what SQL calls as activation_map(layer, unit, image_id), FLOAT[] of the patches row by row.
    Raises DamagedIndex where the database is missing or damaged.
    """

    def __init__(
        self, layout: Layout, run: RunSpec, stored_map: StoredMap, effects: StoredEffects | None = None
    ) -> None:
        self._layout, self._run, self._effects = layout, run, effects
        self._spill = tempfile.mkdtemp(prefix="vitdex-")  # outside the index
        self._clean = weakref.finalize(self, _remove_own, self._spill, os.getpid())
        self._raised: deque[VitdexError] = deque(maxlen=REMEMBERED)  # by our own function inside queries
        self.notes = notes_stamp(layout)  # of the notes that are held
        self._first = self._connect(stored_map)
        self._idle = [self._first]  # it answers in half the time that a cursor of it takes
        self.db = self._cursor()  # for whoever asks DuckDB himself: no question of ours runs in it meanwhile

    def close(self) -> None:
        for db in (*self._idle, self.db, self._first):
            db.close()
        self._clean()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own to the same tables."""
        db = self._first.cursor()
        look_at_tables(db)
        return db

    def _connect(self, stored_map: StoredMap) -> duckdb.DuckDBPyConnection:
        db = duckdb.connect(":memory:", config={"python_enable_replacements": False, "memory_limit": MEMORY})
        db.execute(f"SET temp_directory = {quoted(self._spill)}")
        db.execute(f"SET max_temp_directory_size = '{SPILLED}'")
        with suppress(duckdb.InvalidInputException):  # a notebook without widgets, which shows no bar anyway
            db.execute("SET enable_progress_bar = false")  # DuckDB takes a process without a script for a person
        db.execute("SET late_materialization_max_rows = 0")  # a second scan costs more than our narrow rows save
        lock_in(db, self._layout.database, self._layout.notes, *database_of(self._effects))
        db.create_function(
            "activation_map",
            _activation_map(stored_map, self._raised),
            ["VARCHAR", "BIGINT", "BIGINT"],
            "FLOAT[]",
            null_handling=SPECIAL,
        )
        copy_notes(self._layout, db)
        attach_tables(db, self._layout, self._run)
        if self._effects is not None:
            attach_effects(db, self._effects.layout, self._effects.manifest)
        return db

    @contextmanager
    def _connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the same tables that nobody else uses meanwhile. DuckDB's errors come out as ours."""
        try:
            db = self._idle.pop()  # in one step: no other thread gets the same
        except IndexError:
            db = self._cursor()
        with self._errors():
            yield db
        self._idle.append(db)

    def ask(self, query: str, parameters: list[Any], timeout: float | None) -> pd.DataFrame:
        """The rows of one reading statement. `timeout` in seconds, None for no limit.

        It runs in a connection of its own and in a transaction that cannot write: whatever it does to either (a seed
        of random(), a type of PIVOT's, an INSERT inside a WITH) is gone when it ends, and no other question meets it.

        Raises QueryError for any other statement, and where the time or the size of an answer goes beyond its limit.
        """
        with self._errors(), closing(self._cursor()) as db:
            check_reads(db, query)
            db.execute("BEGIN TRANSACTION READ ONLY")
            try:
                with _stopped_after(db, timeout):
                    return _interruptibly(db, lambda: _fetch(db.execute(query, python_values(parameters))))
            except duckdb.InterruptException as error:
                raise QueryError(*late(timeout or 0)) from error

    def look_up(self, query: str, parameters: list[Any]) -> pd.DataFrame:
        """The rows of a query of our own, known to be small: without the checks of `ask`, in half the time."""
        with self._connection() as db:
            return db.execute(query, python_values(parameters)).df()

    def rows(self, query: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
        """The same as plain tuples, which is quicker still."""
        with self._connection() as db:
            return db.execute(query, python_values(parameters)).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """DuckDB's complaints as ours: what our own function said, damage, or one line about the query."""
        try:
            with hearing_ctrl_c(), naming_damage_in(self._effects), naming_damage(self._layout):
                yield
        except duckdb.OutOfMemoryException as error:
            raise QueryError(*TOO_MUCH) from error
        except duckdb.Error as error:
            for raised in list(self._raised):  # DuckDB passes on the text alone
                if str(raised) in str(error):
                    raise raised from error
            raise QueryError(str(error).strip().splitlines()[0], "The tables: vitdex info INDEX --tables.") from error


def _activation_map(
    stored_map: StoredMap, raised: deque[VitdexError]
) -> Callable[[str | None, int | None, int | None], NDArray[np.float32] | None]:
    """The function of SQL, which any thread of DuckDB calls. It holds no index: an index holds it, through DuckDB."""
    method = weakref.WeakMethod(stored_map)

    def activation_map(layer: str | None, unit: int | None, image_id: int | None) -> NDArray[np.float32] | None:
        ask = method()
        if ask is None or layer is None or unit is None or image_id is None:
            return None
        try:
            return ask(layer, unit, image_id)
        except VitdexError as error:
            raised.append(error)
            raise

    return activation_map


def _remove_own(folder: str, process: int) -> None:
    """Remove a folder, but not in a forked child: it is the parent's."""
    if process == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


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
    import pandas as pd

    if not result.description:
        return pd.DataFrame()
    blocks, size = [result.fetch_df_chunk(CHUNK_VECTORS)], 0
    while len(blocks[-1]):
        size += int(blocks[-1].memory_usage(deep=True).sum())
        if size > ANSWER_BYTES:
            raise QueryError(f"the answer is larger than {ANSWER_BYTES // 10**9} GB", "Add LIMIT, or aggregate.")
        blocks.append(result.fetch_df_chunk(CHUNK_VECTORS))
    return pd.concat(blocks[:-1], ignore_index=True) if len(blocks) > 2 else blocks[0]
