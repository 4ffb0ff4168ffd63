"""How the DuckDB files of an index are written and opened, by whichever DuckDB there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from .errors import BadIndex, DamagedIndex
from .layout import Layout

# Of the file format. DuckDB would write its own newest, which no older DuckDB reads; every version that pyproject
# allows reads this one.
STORAGE_VERSION = "v1.2.0"


def quoted(text: str | Path) -> str:
    """A text or path as an SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """A name of a table or column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def attach_new(db: duckdb.DuckDBPyConnection, file: Path, name: str) -> None:
    """Make a database file, or open it for writing, as `name` in a connection."""
    db.execute(f"ATTACH {quoted(file)} AS {name} (STORAGE_VERSION '{STORAGE_VERSION}')")


def attach_tables(db: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    """Open the tables of an index as `vitdex_index`, read-only.

    Raises BadIndex where this DuckDB is too old for the file, DamagedIndex where the file is missing or damaged.
    """
    try:
        db.execute(f"ATTACH {quoted(layout.database)} AS vitdex_index (READ_ONLY)")
    except duckdb.Error as error:
        if is_newer(error):
            raise BadIndex(*newer(layout.database)) from error
        fact = f"{layout.database} cannot be opened: {str(error).splitlines()[0]}"
        raise DamagedIndex(fact) from error


@contextmanager
def naming_damage(layout: Layout) -> Iterator[None]:
    """While inside, DuckDB's complaints about the bytes of an index's tables are DamagedIndex."""
    try:
        yield
    except duckdb.Error as error:
        if is_damage(error):
            raise DamagedIndex(f"{layout.database} is damaged") from error
        raise


def is_newer(error: duckdb.Error) -> bool:
    """Whether DuckDB complains of a file that a newer DuckDB has written."""
    return "database file with version number" in str(error)


def newer(file: Path) -> tuple[str, str]:
    """What to say of such a file."""
    return (
        f"{file} was written by a newer DuckDB than {duckdb.__version__}, which cannot read it",
        "Install a newer one: pip install --upgrade duckdb.",
    )


def is_damage(error: duckdb.Error) -> bool:
    """Whether DuckDB complains of the bytes of a file, and not of a query."""
    kinds = (duckdb.IOException, duckdb.FatalException, duckdb.SerializationException, duckdb.InternalException)
    return isinstance(error, kinds)
