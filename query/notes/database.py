"""What users add to a finished index: descriptions of neurons, generated images. Not vouched for by the manifest.

with writing(index.layout) as db:                                     # one transaction on notes.duckdb
    db.execute("DELETE FROM descriptions WHERE source = ?", [source])
    db.register("frame", rows)                                        # a DataFrame
    db.execute("INSERT INTO descriptions BY NAME FROM frame")

SQL finds the tables as `descriptions` and `generated`, empty where there are no notes. An index copies them into
memory, so that no reader keeps anybody from writing, and again when the file has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import duckdb

from ...schemas.database import (
    attach_for_writing,
    check_file,
    declared,
    hearing_ctrl_c,
    is_newer,
    is_of_files,
    lock_in,
    newer,
    other_table,
    quoted,
    tables_in,
)
from ...schemas.errors import BadIndex, DamagedIndex, QueryError
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
MOST_ROWS = 5_000_000  # a hundred descriptions of every neuron of ViT-B/16
ASIDE = "Move it away: the index itself is whole."
PATIENCE = 2.0  # seconds that readers and writers wait for each other


@contextmanager
def writing(layout: Layout) -> Iterator[duckdb.DuckDBPyConnection]:
    """notes.duckdb, made where there is none, in one transaction: kept at the end, undone if anything raises.

    Keep it short: nobody else can open the index meanwhile. Raises QueryError where another process is writing, and
    where the file cannot be read or written, or is a link.
    """
    check_place(layout)
    with hearing_ctrl_c(), duckdb.connect(":memory:") as db:
        lock_in(db, layout.notes)
        _attach(layout, db)
        made_now = not tables_in(db, "notes")
        db.execute("USE notes")
        db.execute("BEGIN")
        try:
            _make_tables(layout, db)
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            with suppress(duckdb.Error):  # an error in SQL may have ended it
                db.execute("ROLLBACK")
            if made_now:  # while it is ours alone: a full disk may have left a file that nobody could open
                _remove(layout)
            if isinstance(error, duckdb.TransactionException) or (
                isinstance(error, duckdb.Error) and is_of_files(error)
            ):
                raise QueryError(*_complaint(layout, error)) from error
            raise


def _attach(layout: Layout, db: duckdb.DuckDBPyConnection) -> None:
    """Open notes.duckdb for writing, or make it. What could not be made does not stay. Raises QueryError."""
    was_there = layout.notes.exists()
    try:
        if was_there:
            check_file(layout.notes)
        _once_free(lambda: attach_for_writing(db, layout.notes, "notes"))
    except DamagedIndex as error:
        raise QueryError(error.args[0], ASIDE) from error
    except duckdb.Error as error:
        if not was_there and not _in_use(error):
            _remove(layout)
        raise QueryError(*_complaint(layout, error)) from error


def _remove(layout: Layout) -> None:
    with suppress(OSError):  # Windows keeps what is open
        for file in (layout.notes, log_of(layout)):
            file.unlink(missing_ok=True)


def _make_tables(layout: Layout, db: duckdb.DuckDBPyConnection) -> None:
    """The tables, where they are not there yet. Raises QueryError where something else is in their place."""
    try:
        db.execute(SCHEMA)
        fault = other_table(tables_in(db, "notes"), declared(SCHEMA))
    except duckdb.CatalogException as error:
        fault = str(error).splitlines()[0]
    if fault:
        raise QueryError(f"{layout.notes} holds no notes of vitdex: {fault}", ASIDE)
    db.execute("SET search_path = 'memory.main,system.main,notes.main'")  # no function of the file's own is found first


def notes_stamp(layout: Layout) -> tuple[int, int, int] | None:
    """What changes when notes are written: a look at the file that costs a microsecond. None where there are none."""
    try:
        status = layout.notes.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def copy_notes(layout: Layout, db: duckdb.DuckDBPyConnection) -> None:
    """Give a connection that is locked in the tables of notes.duckdb, copied. Raises BadIndex where it cannot be read.

    A view or a table of the same name with other columns, or columns that compute, is not looked at.
    """
    db.execute(SCHEMA)
    if layout.notes.exists():
        try:
            check_file(layout.notes)
            _once_free(lambda: db.execute(f"ATTACH {quoted(layout.notes)} AS notes (TYPE duckdb, READ_ONLY)"))
            there = tables_in(db, "notes")
            held = {name: made for name, made in declared(SCHEMA).items() if name in there}
            fault = other_table(there, held) or _too_much(db, list(held))
            for table in held if fault is None else ():
                db.execute(f"INSERT INTO memory.main.{table} FROM notes.main.{table}")
        except DamagedIndex as error:
            raise BadIndex(error.args[0], ASIDE) from error
        except duckdb.Error as error:
            raise BadIndex(*_complaint(layout, error)) from error
        db.execute("DETACH notes")
        if fault:
            raise BadIndex(f"{layout.notes} holds no notes of vitdex: {fault}", ASIDE)


def _too_much(db: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> str | None:
    """What is more in the notes than an index may copy into memory."""
    for table in tables:
        query = f"SELECT count(*) FROM notes.main.{table}"
        rows = db.execute(query).fetchone()
        if rows and rows[0] > MOST_ROWS:
            return f"{rows[0]:,} rows of {table}, more than {MOST_ROWS:,}"
    return None


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
        f"Make space, or {ASIDE[0].lower()}{ASIDE[1:]}",
    )


def _in_use(error: duckdb.Error) -> bool:
    return any(sign in str(error) for sign in ("set lock", "already attached", "different configuration"))
