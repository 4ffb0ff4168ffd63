"""The tables of the extension effects, found by their bare names beside those of the index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from .database import (
    check_file,
    declared,
    is_newer,
    is_of_files,
    is_whole,
    newer,
    other_table,
    quoted,
    tables_in,
    unopened,
)
from .effects import EFFECTS_SQL
from .errors import BadIndex, DamagedIndex
from .extension import ExtensionLayout, ExtensionManifest

VIEWS_SQL = EFFECTS_SQL[EFFECTS_SQL.index("CREATE VIEW") :]


def attach_effects(db: duckdb.DuckDBPyConnection, layout: ExtensionLayout, manifest: ExtensionManifest) -> None:
    """Let a connection that is locked in, and has the index's tables, find the extension's, read-only.

    key_neurons has its columns from here on. Raises DamagedIndex where the file is missing or damaged, BadIndex where
    its tables are not those of effects.sql.
    """
    log = layout.database.with_name(f"{layout.database.name}.wal")
    if log.exists():
        raise BadIndex(f"{log} is not of this extension", "Move it away: DuckDB would read it.")
    try:
        check_file(layout.database)
        with naming_damage_of(layout, manifest):
            db.execute(f"ATTACH {quoted(layout.database)} AS vitdex_effects (TYPE duckdb, READ_ONLY)")
            fault = other_table(tables_in(db, "vitdex_effects"), declared(EFFECTS_SQL))
    except DamagedIndex as error:
        raise DamagedIndex(error.args[0], layout.remedy) from error
    except duckdb.Error as error:
        fact, _ = newer(layout.database) if is_newer(error) else unopened(layout.database, error)
        raise BadIndex(fact, layout.remedy) from error
    if fault:
        raise BadIndex(f"{layout.database} is of no extension: {fault}", layout.remedy)
    db.execute("ALTER VIEW key_neurons RENAME TO scored_neurons")
    db.execute(VIEWS_SQL)


@contextmanager
def naming_damage_of(layout: ExtensionLayout, manifest: ExtensionManifest) -> Iterator[None]:
    """While inside, DuckDB's complaints about the bytes of the extension's tables are DamagedIndex."""
    try:
        yield
    except duckdb.Error as error:
        if is_of_files(error) and not is_whole(layout.database, manifest):
            raise DamagedIndex(f"{layout.database} is damaged", layout.remedy) from error
        raise
