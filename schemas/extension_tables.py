"""The tables of the extension effects, found by their bare names beside those of the index."""

from __future__ import annotations

import duckdb

from .database import check_file, declared, is_newer, newer, other_table, quoted, tables_in, unopened
from .effects import EFFECTS_SQL
from .errors import BadIndex, DamagedIndex
from .extension import ExtensionLayout

VIEWS_SQL = EFFECTS_SQL[EFFECTS_SQL.index("CREATE VIEW") :]


def attach_effects(db: duckdb.DuckDBPyConnection, layout: ExtensionLayout) -> None:
    """Let a connection that is locked in, and has the index's tables, find the extension's, read-only.

    key_neurons has its columns from here on. Raises DamagedIndex where the file is missing or damaged, BadIndex where
    its tables are not those of effects.sql.
    """
    try:
        check_file(layout.database)
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
