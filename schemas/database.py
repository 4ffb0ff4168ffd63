"""How the DuckDB files of an index are written and opened, by whichever DuckDB there is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from .errors import STRANGE, BadIndex, DamagedIndex
from .extension import ExtensionManifest
from .facts import file_facts
from .integrity import listed_files
from .layout import Layout
from .manifest import Manifest, Tables, read_manifest
from .run_spec import RunSpec
from .storage.plain_files import open_plain, plain_size

# Of the file format. DuckDB would write its own newest, which no older DuckDB reads; every version that pyproject
# allows reads this one.
STORAGE_VERSION = "v1.2.0"
TABLES_MEMORY = 500_000_000  # bytes that DuckDB may hold of tables while they are written

TABLES_SQL = resources.files("vitdex.schemas").joinpath("tables.sql").read_text(encoding="utf-8")
VIEWS_SQL = TABLES_SQL[TABLES_SQL.index("CREATE VIEW") :]
MAGIC = b"DUCK"  # from the ninth byte of a database on
COMPANIONS = (".wal", ".wal.checkpoint", ".wal.recovery")  # DuckDB's, beside it

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


@contextmanager
def filling(temporary: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in which a new database at `temporary` is to be made by attach_for_writing; it is whole at the end.

    What a stopped run left there goes first. Raises BadIndex where it cannot be written, as on a full disk.
    """
    for leftover in (temporary, temporary.with_name(f"{temporary.name}.wal")):
        leftover.unlink(missing_ok=True)
    config: dict[str, Any] = {"memory_limit": f"{TABLES_MEMORY}B", "temp_directory": f"{temporary.absolute()}.tmp"}
    try:
        with hearing_ctrl_c(), duckdb.connect(config=config) as db:
            yield db
            db.execute("CHECKPOINT")
    except duckdb.Error as error:
        temporary.unlink(missing_ok=True)
        fact = f"the tables cannot be written: {str(error).strip().splitlines()[0]}"
        raise BadIndex(fact, "Make space and repeat the command.") from error


def lock_in(db: duckdb.DuckDBPyConnection, *files: Path, folder: Path | None = None) -> None:
    """From here on a connection reaches no file but these and those in a folder, no network, no extension.

    It comes before a stranger's file is attached: what is defined in there, views, macros, defaults, is then harmless.
    Raises BadIndex where a link stands for one that DuckDB would read or write beside them: it could lead anywhere.
    """
    for file in files:
        for end in COMPANIONS:
            _check_companion(file.with_name(f"{file.name}{end}"))
    parts = [str(file.absolute()).partition("?") for file in files]  # before a '?' DuckDB puts the endings
    allowed = [f"{head}{end}{mark}{tail}" for head, mark, tail in parts for end in ("", *COMPANIONS)]
    db.execute("SET allowed_paths = " + _list(allowed))
    if folder is not None:
        db.execute("SET allowed_directories = " + _list([f"{folder.absolute()}{os.sep}"]))
    for setting in (
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        db.execute(f"SET {setting}")


def _check_companion(file: Path) -> None:
    try:
        plain_size(file.parent, file.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadIndex(f"{file} is {error.strerror}", "Move it away.") from error


def _list(texts: list[str]) -> str:
    return "[" + ", ".join(quoted(text) for text in texts) + "]"


def attach_tables(db: duckdb.DuckDBPyConnection, layout: Layout, run: RunSpec) -> None:
    """Let a connection that is locked in find the tables of an index, read-only, by their bare names.

    Nothing else in the file is found by a bare name: what the connection itself has and what DuckDB brings come first,
    and the tables are proved to be those of tables.sql, column by column, with a row for every neuron, image and class
    of the run. Views are made anew from there.

    Raises DamagedIndex where the file is missing or damaged, BadIndex where it is whole and does not open: this DuckDB
    is too old for it, another program is writing it, or its tables are not those of an index.
    """
    check_file(layout.database)
    if layout.database.with_name(f"{layout.database.name}.wal").exists():
        raise BadIndex(f"{layout.database}.wal is not of this index", "Move it away: DuckDB would read it.")
    try:
        with naming_damage(layout):
            db.execute(f"ATTACH {quoted(layout.database)} AS vitdex_index (TYPE duckdb, READ_ONLY)")
            fault = other_table(tables_in(db, "vitdex_index"), declared(TABLES_SQL)) or _misnumbered(db, run)
    except duckdb.Error as error:
        writer = written_by(read_manifest(layout))
        fact, remedy = newer(layout.database, writer) if is_newer(error) else unopened(layout.database, error)
        raise BadIndex(fact, remedy) from error
    if fault:
        raise BadIndex(f"{layout.database} is of no index: {fault}", STRANGE)
    look_at_tables(db)
    db.execute(VIEWS_SQL)


@contextmanager
def open_tables(layout: Layout, run: RunSpec) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that can read the tables of an index and nothing else. Raises as attach_tables."""
    with hearing_ctrl_c(), duckdb.connect(":memory:") as db:
        lock_in(db, layout.database)
        attach_tables(db, layout, run)
        yield db


def look_at_tables(db: duckdb.DuckDBPyConnection) -> None:
    """The order in which names are found, which each connection must be told by itself."""
    db.execute("SET search_path = 'memory.main,system.main,vitdex_index.main'")


def check_file(file: Path) -> None:
    """Raise DamagedIndex where a file is missing, is a link or device, or is no database of DuckDB's."""
    try:
        with open_plain(file.parent, file.name) as opened:
            head = opened.read(len(MAGIC) + 8)
    except FileNotFoundError as error:
        raise DamagedIndex(f"{file} is missing") from error
    except OSError as error:
        raise DamagedIndex(f"{file} is {error.strerror}") from error
    if head[8:] != MAGIC:
        raise DamagedIndex(f"{file} is damaged")


@cache
def declared(sql: str) -> dict[str, str]:
    """The statement behind every table that SQL text makes, by name, written as DuckDB writes it."""
    text = re.sub(r"--[^\n]*", "", sql)
    found = re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+) (\(.*?\));", text, re.DOTALL)
    return {name: _even(f"CREATE TABLE {name}{columns};") for name, columns in found}


def tables_in(db: duckdb.DuckDBPyConnection, database: str) -> dict[str, str]:
    """The statement behind every table of an attached database, by name, as `declared` has them."""
    query = "SELECT table_name, sql FROM system.main.duckdb_tables() WHERE database_name = ? AND schema_name = 'main'"
    return {name: _even(statement) for name, statement in db.execute(query, [database]).fetchall()}


def other_table(there: dict[str, str], ours: dict[str, str]) -> str | None:
    """The first of our tables that has other columns, types, defaults or rules there, or is missing; None if none."""
    return next((f"its table {name} is not ours" for name in ours if there.get(name) != ours[name]), None)


def _misnumbered(db: duckdb.DuckDBPyConnection, run: RunSpec) -> str | None:
    """The first of neurons, images and classes that are not numbered from 0 as the run has them; None if all are."""
    numbered = "count({name}), max({number}), sum({number}) FROM vitdex_index.main.{table}"
    units = numbered.format(name="unit", number="unit", table="neurons")
    counted = db.execute(f"SELECT layer, {units} GROUP BY layer").fetchall()
    for table, name, number in (("images", "path", "image_id"), ("classes", "class", "class_id")):
        query = f"SELECT '{table}', {numbered.format(name=name, number=number, table=table)}"
        counted += db.execute(query).fetchall()  # one by one: a union of the three takes a millisecond more to plan
    found = {name: tuple(numbers) for name, *numbers in counted}
    sizes = {**{layer.name: layer.units for layer in run.layers}, "images": run.images}
    sizes["classes"] = run.classes or found["classes"][0]  # without a head they are the images' own
    for name, size in sizes.items():
        right = (size, size - 1, size * (size - 1) // 2) if size else (0, None, None)
        if found.get(name) != right:
            return f"it does not number {name} from 0 to {size - 1}"
    return None


def _even(statement: str) -> str:
    """A statement without what DuckDBs write differently: blanks, and quotes around plain names."""
    return re.sub(r"\s*([(),;])\s*", r"\1", re.sub(r"\s+", " ", re.sub(r'"(\w+)"', r"\1", statement)))


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
        if is_of_files(error) and not is_whole(layout.database, read_manifest(layout)):
            raise DamagedIndex(
                f"{layout.database} is {'damaged' if layout.database.exists() else 'missing'}"
            ) from error
        raise


def is_of_files(error: duckdb.Error) -> bool:
    """Whether an error is of a kind that DuckDB raises where it fails to read or write a file.

    Before 1.5, what comes up while rows are fetched is wrapped into another kind.
    """
    return isinstance(error, OF_FILES) or type(error) is duckdb.Error or "pending query result" in str(error)


def is_whole(file: Path, manifest: Manifest | ExtensionManifest) -> bool:
    """Whether a database has the checksum in the manifest beside it.

    It decides, for DuckDB's words do not: they differ from version to version, a full temporary folder is an
    IOException like a cut file, and a query may raise what a flipped byte raises.
    """
    try:
        return file_facts(file) == listed_files(manifest).get(file.name)
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
