"""The tables of an index as Parquet or CSV files, to be published and queried anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb

from ..schemas.errors import QueryError
from .index import Index, nearest

FORMATS = {"parquet": "FORMAT parquet, COMPRESSION zstd", "csv": "FORMAT csv, HEADER"}
MEMORY = "1GB"


def export_tables(
    index: Index, out: str | Path, form: str = "parquet", tables: Sequence[str] | None = None
) -> dict[str, int]:
    """Write tables (by default all) to OUT/TABLE.parquet or .csv, sorted by their columns from left to right.

    OUT/schema.sql holds their types, which CSV does not. Returns the rows of each. A view such as key_neurons is
    written where it is named. Raises QueryError for an unknown table or form.
    """
    if form not in FORMATS:
        raise QueryError(f"no format '{form}'", f"One of {', '.join(FORMATS)}.")
    out = Path(out)
    with tempfile.TemporaryDirectory() as spill, duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{MEMORY}'")
        db.execute(f"SET temp_directory = {_quoted(spill)}")
        places = _attach(index, db)
        for table in tables or ():
            if table not in places:
                raise QueryError(f"no table '{table}'", nearest(table, list(places)))
        out.mkdir(parents=True, exist_ok=True)
        views = db.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        chosen = list(tables or [name for name in places if (name,) not in views])
        types = [_declaration(db, table, places[table]) for table in chosen]
        written = {table: _copy(db, places[table], out / f"{table}.{form}", FORMATS[form]) for table in chosen}
        (out / "schema.sql").write_text("\n".join(types))
    return written


def _attach(index: Index, db: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Tables and views of the index and its notes, by name, as a query finds them."""
    files = {"main_tables": index.layout.database, "notes": index.layout.notes}
    for name, file in files.items():
        if file.exists():
            db.execute(f"ATTACH {_quoted(file)} AS {name} (READ_ONLY)")
    rows = db.execute(
        "SELECT table_name, table_catalog FROM information_schema.tables "
        "WHERE table_catalog IN ('main_tables', 'notes') ORDER BY table_catalog, table_name"
    ).fetchall()
    db.execute("USE main_tables")
    return {table: f'{catalog}."{table}"' for table, catalog in rows}


def _declaration(db: duckdb.DuckDBPyConnection, table: str, place: str) -> str:
    columns = db.execute(f"DESCRIBE {place}").fetchall()
    return f"CREATE TABLE {table} (\n" + ",\n".join(f'    "{name}" {kind}' for name, kind, *_ in columns) + "\n);\n"


def _copy(db: duckdb.DuckDBPyConnection, place: str, target: Path, options: str) -> int:
    """Write one file under a temporary name, then give it its own."""
    temporary = target.with_name(f".{target.name}.partial")
    row = db.execute(f"COPY (FROM {place} ORDER BY ALL) TO {_quoted(temporary)} ({options})").fetchone()
    temporary.replace(target)
    assert row is not None
    return int(row[0])


def _quoted(path: str | Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
