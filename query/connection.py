"""A DuckDB connection that can read one index and do nothing else, whatever SQL it is given."""

from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb

from ..schemas.errors import BadIndex

MEMORY = "2GB"


def connect(database: Path) -> duckdb.DuckDBPyConnection:
    """Open the tables of an index read-only: no writing, no files, no extensions, no local variables, no way back."""
    db = duckdb.connect(":memory:", config={"python_enable_replacements": False, "memory_limit": MEMORY})
    quoted = str(database).replace("'", "''")
    try:
        db.execute(f"ATTACH '{quoted}' AS vitdex_index (READ_ONLY)")
    except duckdb.Error as error:
        raise BadIndex(f"{database} cannot be opened: {str(error).splitlines()[0]}", "Make the index again.") from error
    db.execute("USE vitdex_index")
    spill = Path(tempfile.gettempdir()) / "vitdex-spill"
    for setting in (
        f"temp_directory = '{spill}'",
        "max_temp_directory_size = '4GB'",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        db.execute(f"SET {setting}")
    return db
