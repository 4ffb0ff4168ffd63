"""The tables of an index as Parquet or CSV files, to be published and queried anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import duckdb

from ...schemas.database import (
    TABLES_SQL,
    attach_tables,
    declared,
    hearing_ctrl_c,
    lock_in,
    naming_damage,
    quoted,
    quoted_name,
)
from ...schemas.effects import EFFECTS_SQL
from ...schemas.errors import QueryError
from ...schemas.extension_tables import attach_effects
from ...schemas.storage.plain_files import replacing
from ...schemas.storage.room import check_room, trouble
from ..notes.database import SCHEMA as NOTES_SQL
from ..notes.database import copy_notes
from ..stored.effects import database_of, naming_damage_in
from ..stored.names import nearest
from ..stored.stored_index import StoredIndex

Format = Literal["parquet", "csv"]
FORMATS: dict[Format, str] = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER"}
IN_PLACE = "USE_TMP_FILE false"  # the file is new, and what DuckDB calls its own may be a link
MEMORY = "1GB"
VIEWS = ("key_neurons",)  # written where they are named
FORMULA = r"'^[=+\-@\t\r]'"  # how a text begins that a spreadsheet evaluates


def export_tables(
    index: StoredIndex,
    out: str | Path,
    form: Format = "parquet",
    tables: Sequence[str] | None = None,
    spreadsheet: bool = False,
) -> dict[str, int]:
    """Write tables to OUT/TABLE.parquet or .csv, sorted by their columns from left to right.

    OUT/schema.sql holds their types, which CSV does not.

    Args:
        out: a folder, made where there is none.
        form: 'parquet' or 'csv'.
        tables: which; by default all. A view such as key_neurons is written where it is named.
        spreadsheet: put an apostrophe before texts that a spreadsheet would take for a formula. Only for CSV.

    Returns:
        The rows of each table.

    Raises:
        QueryError: an unknown table or form, Parquet for a spreadsheet, or no space for the files.

    Example:
        >>> export_tables(index, "published", "csv", ["neurons"])
        {'neurons': 4608}
    """
    if form not in FORMATS:
        raise QueryError(f"no format '{form}'", f"One of {', '.join(FORMATS)}.")
    if spreadsheet and form != "csv":
        raise QueryError("only CSV is written for a spreadsheet", "Give --format csv.")
    out = Path(out)
    check_room(out)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as db, _errors(index):
        db.execute(f"SET memory_limit = '{MEMORY}'")
        db.execute(f"SET temp_directory = {quoted(spill)}")
        effects = index.effects
        lock_in(db, index.layout.database, index.layout.notes, *database_of(effects), folder=out)
        copy_notes(index.layout, db)  # into memory
        attach_tables(db, index.layout, index.spec)
        known = [*declared(TABLES_SQL), *(declared(NOTES_SQL) if index.layout.notes.exists() else ())]
        if effects is not None:
            attach_effects(db, effects.layout, effects.manifest)
            known += declared(EFFECTS_SQL)
        for table in tables or ():
            if table not in (*known, *VIEWS):
                raise QueryError(f"no table '{table}'", nearest(table, [*known, *VIEWS]))
        out.mkdir(parents=True, exist_ok=True)
        chosen = list(tables or known)
        types = [_declaration(db, table) for table in chosen]
        rows = {table: _rows(db, table, spreadsheet) for table in chosen}
        written = {table: _copy(db, rows[table], out / f"{table}.{form}", FORMATS[form]) for table in chosen}
        with replacing(out / "schema.sql") as part:
            part.write_text("\n".join(types), encoding="utf-8")
    return written


@contextmanager
def _errors(index: StoredIndex) -> Iterator[None]:
    """DuckDB's complaints as ours: damage, or one line about the files that are written."""
    try:
        with hearing_ctrl_c(), naming_damage_in(index.effects), naming_damage(index.layout):
            yield
    except duckdb.Error as error:
        fact = f"the tables cannot be written: {trouble(error)}"
        raise QueryError(fact, "Make space, or choose another place.") from error


def _declaration(db: duckdb.DuckDBPyConnection, table: str) -> str:
    columns = db.execute(f"DESCRIBE {table}").fetchall()
    return (
        f"CREATE TABLE {table} (\n"
        + ",\n".join(f"    {quoted_name(name)} {kind}" for name, kind, *_ in columns)
        + "\n);\n"
    )


def _rows(db: duckdb.DuckDBPyConnection, table: str, spreadsheet: bool) -> str:
    """The query for a table's rows in their order."""
    described = db.execute(f"DESCRIBE {table}").fetchall()
    texts = [quoted_name(name) for name, kind, *_ in described if kind == "VARCHAR"] if spreadsheet else []
    if not texts:
        return f"FROM {table} ORDER BY ALL"
    cells = [
        f"CASE WHEN regexp_matches({text}, {FORMULA}) THEN chr(39) || {text} ELSE {text} END AS {text}"
        for text in texts
    ]
    return f"SELECT * REPLACE ({', '.join(cells)}) FROM (FROM {table} ORDER BY ALL)"


def _copy(db: duckdb.DuckDBPyConnection, rows: str, target: Path, options: str) -> int:
    """Write one file."""
    with replacing(target) as part:
        row = db.execute(f"COPY ({rows}) TO {quoted(part)} ({options}, {IN_PLACE})").fetchone()
    assert row is not None
    return int(row[0])
