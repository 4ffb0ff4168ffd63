"""What users add to a finished index: descriptions of neurons, generated images. Not vouched for by the manifest.

with writing(index.layout) as db:                                     # one transaction on notes.duckdb
    db.execute("DELETE FROM descriptions WHERE source = ?", [source])
    db.execute("INSERT INTO descriptions BY NAME FROM frame")         # frame: a local DataFrame

SQL finds the tables as `descriptions` and `generated`, empty where there are no notes. An index copies them into
memory, so that no reader keeps anybody from writing, and again when the file has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import duckdb

from ...schemas.database import attach_for_writing, hearing_ctrl_c, is_newer, is_of_files, newer, quoted
from ...schemas.errors import BadIndex, QueryError
from ...schemas.layout import Layout
from ...schemas.storage.room import trouble
from .place import check_place, log_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS descriptions (  -- what a neuron was called, and by whom (MILAN, a person, ...)
    layer VARCHAR, unit UINTEGER, source VARCHAR, description VARCHAR, imported TIMESTAMP, note VARCHAR
);
CREATE TABLE IF NOT EXISTS generated (     -- images made to excite a neuron; file: in notes/, of the id
    id UINTEGER, layer VARCHAR, unit UINTEGER, class_id UINTEGER, recipe VARCHAR, seed BIGINT, step UINTEGER,
    objective VARCHAR, pre_mean FLOAT, pre_max FLOAT, post_mean FLOAT, post_max FLOAT, ratio FLOAT, percentile FLOAT,
    p_class FLOAT, predicted UINTEGER, diversity FLOAT, file VARCHAR, created TIMESTAMP
);
"""
TABLES = ("descriptions", "generated")
PATIENCE = 2.0  # seconds that readers and writers wait for each other


@contextmanager
def writing(layout: Layout) -> Iterator[duckdb.DuckDBPyConnection]:
    """notes.duckdb, made where there is none, in one transaction: kept at the end, undone if anything raises.

    Keep it short: nobody else can open the index meanwhile. Raises QueryError where another process is writing, and
    where the file cannot be read or written, or is a link.
    """
    check_place(layout)
    was_there = layout.notes.exists()
    try:
        with _transaction(layout) as db:
            yield db
    except BaseException:
        if not was_there:  # then what is there now is nobody's: this transaction alone could write it
            for file in (layout.notes, log_of(layout)):
                file.unlink(missing_ok=True)
        raise


@contextmanager
def _transaction(layout: Layout) -> Iterator[duckdb.DuckDBPyConnection]:
    with hearing_ctrl_c(), duckdb.connect(":memory:") as db:
        try:
            _once_free(lambda: attach_for_writing(db, layout.notes, "notes"))
        except duckdb.Error as error:
            raise QueryError(*_complaint(layout, error)) from error
        db.execute("USE notes")
        db.execute("BEGIN")
        try:
            db.execute(SCHEMA)
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            with suppress(duckdb.Error):  # an error in SQL may have ended it
                db.execute("ROLLBACK")
            if isinstance(error, duckdb.TransactionException) or (
                isinstance(error, duckdb.Error) and is_of_files(error)
            ):
                raise QueryError(*_complaint(layout, error)) from error
            raise


def notes_stamp(layout: Layout) -> tuple[int, int, int] | None:
    """What changes when notes are written: a look at the file that costs a microsecond. None where there are none."""
    try:
        status = layout.notes.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def copy_notes(layout: Layout, db: duckdb.DuckDBPyConnection) -> None:
    """Give a connection's SQL the tables of notes.duckdb, copied. Raises BadIndex where it cannot be read."""
    db.execute(SCHEMA)
    if layout.notes.exists():
        try:
            _once_free(lambda: db.execute(f"ATTACH {quoted(layout.notes)} AS notes (READ_ONLY)"))
            held = db.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'notes'").fetchall()
            for table in TABLES:
                if (table,) in held:
                    db.execute(f"INSERT INTO {table} BY NAME FROM notes.{table}")
        except duckdb.Error as error:
            raise BadIndex(*_complaint(layout, error)) from error
        db.execute("DETACH notes")


def show_notes(db: duckdb.DuckDBPyConnection) -> None:
    """Let a connection find the copied tables by their bare names. A view cannot be inserted into by mistake."""
    for table in TABLES:
        db.execute(f"CREATE TEMP VIEW {table} AS FROM memory.main.{table}")


def _once_free(attach: Callable[[], object]) -> None:
    """Open the notes, once no other thread or process has them open; that is milliseconds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            attach()
            return
        except duckdb.Error as error:
            if not _in_use(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)


def _complaint(layout: Layout, error: duckdb.Error) -> tuple[str, str]:
    if _in_use(error):
        return f"{layout.notes} is being written", "Try again when that has ended."
    if is_newer(error):
        return newer(layout.notes)
    return (
        f"{layout.notes} cannot be read or written: {trouble(error)}",
        "Make space, or move it away: the index itself is whole.",
    )


def _in_use(error: duckdb.Error) -> bool:
    return any(sign in str(error) for sign in ("set lock", "already attached", "different configuration"))
