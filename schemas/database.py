"""How the DuckDB files of an index are written and opened, by whichever DuckDB there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from .errors import BadIndex, DamagedIndex
from .facts import file_facts
from .integrity import listed_files
from .layout import Layout
from .manifest import Manifest, Tables, read_manifest

# Of the file format. DuckDB would write its own newest, which no older DuckDB reads; every version that pyproject
# allows reads this one.
STORAGE_VERSION = "v1.2.0"

# Kinds of errors that a damaged file raises, and other things too; so does plain Error.
OF_FILES = (duckdb.IOException, duckdb.SerializationException, duckdb.InternalException, duckdb.FatalException)


def quoted(text: str | Path) -> str:
    """A text or path as an SQL string; a path from the root on, for DuckDB takes the `a` of `a:b` for a scheme."""
    plain = text if isinstance(text, str) else str(text.absolute())
    return "'" + plain.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """A name of a table or column in SQL."""
    return '"' + name.replace('"', '""') + '"'


def check_name(folder: Path) -> None:
    """Raise BadIndex where DuckDB could not write below a folder: what follows a '?' it takes for a web address's."""
    if "?" in str(folder.absolute()):
        raise BadIndex(f"DuckDB can write nothing below a folder with '?' in its name: {folder}", "Rename it.")


def attach_for_writing(db: duckdb.DuckDBPyConnection, file: Path, name: str) -> None:
    """Make a database file, or open one, as `name` in a connection. One that is there keeps its storage version."""
    check_name(file.parent)
    version = "" if file.exists() else f" (STORAGE_VERSION '{STORAGE_VERSION}')"
    db.execute(f"ATTACH {quoted(file)} AS {name}{version}")


def attach_tables(db: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    """Open the tables of an index as `vitdex_index`, read-only.

    Raises DamagedIndex where the file is missing or damaged, BadIndex where it is whole and does not open: this DuckDB
    is too old for it, or another program is writing it.
    """
    try:
        with naming_damage(layout):
            db.execute(f"ATTACH {quoted(layout.database)} AS vitdex_index (READ_ONLY)")
    except duckdb.Error as error:
        writer = written_by(read_manifest(layout))
        fact, remedy = newer(layout.database, writer) if is_newer(error) else unopened(layout.database, error)
        raise BadIndex(fact, remedy) from error


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """While inside, Ctrl-C in a statement is KeyboardInterrupt, as everywhere; DuckDB makes a RuntimeError of it."""
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


@contextmanager
def naming_damage(layout: Layout) -> Iterator[None]:
    """While inside, DuckDB's complaints about the bytes of an index's tables are DamagedIndex."""
    try:
        yield
    except duckdb.Error as error:
        if is_of_files(error) and not _is_whole(layout):
            raise DamagedIndex(
                f"{layout.database} is {'damaged' if layout.database.exists() else 'missing'}"
            ) from error
        raise


def is_of_files(error: duckdb.Error) -> bool:
    """Whether an error is of a kind that DuckDB raises where it fails to read or write a file.

    Before 1.5, what comes up while rows are fetched is wrapped into another kind.
    """
    return isinstance(error, OF_FILES) or type(error) is duckdb.Error or "pending query result" in str(error)


def _is_whole(layout: Layout) -> bool:
    """Whether the tables have the checksum in the manifest.

    It decides, for DuckDB's words do not: they differ from version to version, a full temporary folder is an
    IOException like a cut file, and a query may raise what a flipped byte raises.
    """
    listed = listed_files(read_manifest(layout), layout.root)
    try:
        return file_facts(layout.database) == listed.get(layout.database.name)
    except PermissionError:
        return True
    except OSError:
        return False


def tables_record() -> Tables:
    """What a manifest says of tables that are written now."""
    return {"duckdb": duckdb.__version__, "storage_version": STORAGE_VERSION}


def written_by(manifest: Manifest) -> str:
    """The DuckDB that wrote the tables; older manifests do not name it."""
    tables = manifest.get("tables")
    return f"DuckDB {tables['duckdb']}" if tables else "a DuckDB that the manifest does not name"


def is_newer(error: duckdb.Error) -> bool:
    """Whether DuckDB complains of a file that a newer DuckDB has written."""
    return "database file with version number" in str(error)


def newer(file: Path, writer: str = "a newer DuckDB") -> tuple[str, str]:
    """Fact and remedy for such a file."""
    return (
        f"{file} was written by {writer}, and DuckDB {duckdb.__version__} here cannot read it",
        "Install a newer DuckDB: pip install --upgrade duckdb.",
    )


def unopened(file: Path, error: duckdb.Error) -> tuple[str, str]:
    """Fact and remedy for a file that is whole and does not open."""
    if "set lock" in str(error):
        return f"{file} is open for writing in another program", "Close it there."
    return f"{file} cannot be opened: {str(error).splitlines()[0]}", "Mend it and repeat."
