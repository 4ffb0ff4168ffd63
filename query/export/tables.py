"""The tables of an index as Parquet or CSV files, to be published and queried anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import duckdb

from ...schemas.database import attach_tables, hearing_ctrl_c, naming_damage, quoted, quoted_name
from ...schemas.errors import QueryError
from ...schemas.storage.atomic_files import replacing
from ...schemas.storage.room import check_room, trouble
from ..notes.database import copy_notes
from ..stored.names import nearest
from ..stored.stored_index import StoredIndex

Format = Literal["parquet", "csv"]
FORMATS: dict[Format, str] = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER"}
IN_PLACE = "USE_TMP_FILE false"  # the file is new, and what DuckDB calls its own may be a link
MEMORY = "1GB"
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
        places = _attach(index, db)
        for table in tables or ():
            if table not in places:
                raise QueryError(f"no table '{table}'", nearest(table, list(places)))
        out.mkdir(parents=True, exist_ok=True)
        views = db.execute("SELECT view_name FROM duckdb_views() WHERE database_name = 'vitdex_index'").fetchall()
        chosen = list(tables or [name for name in places if (name,) not in views])
        types = [_declaration(db, table, places[table]) for table in chosen]
        rows = {table: _rows(db, places[table], spreadsheet) for table in chosen}
        written = {table: _copy(db, rows[table], out / f"{table}.{form}", FORMATS[form]) for table in chosen}
        with replacing(out / "schema.sql") as part:
            part.write_text("\n".join(types), encoding="utf-8")
    return written


@contextmanager
def _errors(index: StoredIndex) -> Iterator[None]:
    """DuckDB's complaints as ours: damage, or one line about the files that are written."""
    try:
        with hearing_ctrl_c(), naming_damage(index.layout):
            yield
    except duckdb.Error as error:
        fact = f"the tables cannot be written: {trouble(error)}"
        raise QueryError(fact, "Make space, or choose another place.") from error


def _attach(index: StoredIndex, db: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Tables and views of the index and its notes, by name, as a query finds them."""
    copy_notes(index.layout, db)  # into memory
    attach_tables(db, index.layout)
    catalogs = ["memory", "vitdex_index"] if index.layout.notes.exists() else ["vitdex_index"]
    rows = db.execute(
        "SELECT table_name, table_catalog FROM information_schema.tables "
        "WHERE list_contains(?, table_catalog) ORDER BY table_catalog, table_name",
        [catalogs],
    ).fetchall()
    db.execute("USE vitdex_index")
    return {table: f"{catalog}.{quoted_name(table)}" for table, catalog in rows}


def _declaration(db: duckdb.DuckDBPyConnection, table: str, place: str) -> str:
    columns = db.execute(f"DESCRIBE {place}").fetchall()
    return (
        f"CREATE TABLE {table} (\n"
        + ",\n".join(f"    {quoted_name(name)} {kind}" for name, kind, *_ in columns)
        + "\n);\n"
    )


def _rows(db: duckdb.DuckDBPyConnection, place: str, spreadsheet: bool) -> str:
    """The query for a table's rows in their order."""
    described = db.execute(f"DESCRIBE {place}").fetchall()
    texts = [quoted_name(name) for name, kind, *_ in described if kind == "VARCHAR"] if spreadsheet else []
    if not texts:
        return f"FROM {place} ORDER BY ALL"
    cells = [
        f"CASE WHEN regexp_matches({text}, {FORMULA}) THEN chr(39) || {text} ELSE {text} END AS {text}"
        for text in texts
    ]
    return f"SELECT * REPLACE ({', '.join(cells)}) FROM (FROM {place} ORDER BY ALL)"


def _copy(db: duckdb.DuckDBPyConnection, rows: str, target: Path, options: str) -> int:
    """Write one file."""
    with replacing(target) as part:
        row = db.execute(f"COPY ({rows}) TO {quoted(part)} ({options}, {IN_PLACE})").fetchone()
    assert row is not None
    return int(row[0])
