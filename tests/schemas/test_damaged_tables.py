"""A damaged index.duckdb is DamagedIndex whatever is asked of it; a wrong query, a full disk and a lock are not."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from vitdex.query.export.tables import export_tables
from vitdex.query.index import Index
from vitdex.query.stored import sql
from vitdex.schemas.errors import BadIndex, DamagedIndex, QueryError

BLOCK = 1 << 18
HEADERS = 3 * 4096  # one of the file, two of its content
EVERYTHING = " UNION ALL ".join(
    f"SELECT sum(hash({table}::VARCHAR)) AS h FROM {table}"
    for table in ("layers", "classes", "images", "neurons", "class_scores", "class_activations", "exemplars")
)
DOORS: dict[str, Callable[[Index, Path], Any]] = {
    "sql": lambda index, _: index.sql(EVERYTHING),
    "look_up": lambda index, _: index.look_up(EVERYTHING, []),
    "look_up, bit by bit": lambda index, _: [index.look_up(f"FROM {t}", []) for t in ("exemplars", "class_scores")],
    "rows": lambda index, _: [index.tables.rows(f"FROM {t}", []) for t in ("exemplars", "class_scores")],
    "export_tables": lambda index, out: export_tables(index, out),
}
# Of the file's header: checksum, four letters, version number, the rest; then of both headers of the content.
IN_HEADERS = (0, 8, 12, 2000, 4096, 4096 + 40, 8192 + 8)
# The first block makes opening fail, the others make queries fail; the last hold rows of no table's beginning.
BLOCKS = {"first": slice(0, 1), "all but the first": slice(1, None), "last": slice(-8, None)}


@pytest.fixture
def copy(sample_path: Path, tmp_path: Path) -> Path:
    """The sample's tables alone, in a folder that a test may write into."""
    (tmp_path / "copy").mkdir()
    for name in ("manifest.json", "index.duckdb"):
        shutil.copy(sample_path / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


def is_damaged_through(door: str, folder: Path, out: Path) -> None:
    with Index(folder) as index, pytest.raises(DamagedIndex, match=r"index.duckdb is damaged. Repeat .* --repair.$"):
        DOORS[door](index, out)


def flip(file: Path, places: Iterable[int]) -> None:
    content = bytearray(file.read_bytes())
    for at in places:
        content[at] ^= 0x55
    file.write_bytes(content)


@pytest.mark.parametrize("at", IN_HEADERS)
def test_a_flipped_byte_in_the_headers(at: int, copy: Path, tmp_path: Path) -> None:
    flip(copy / "index.duckdb", [at])
    for door in DOORS:
        is_damaged_through(door, copy, tmp_path / "out")


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("at", [0, 8, BLOCK // 2, BLOCK - 1])
def test_a_flipped_byte_in_blocks(at: int, blocks: str, copy: Path, tmp_path: Path) -> None:
    places = range(HEADERS + at, (copy / "index.duckdb").stat().st_size, BLOCK)
    flip(copy / "index.duckdb", places[BLOCKS[blocks]])
    for door in DOORS:
        is_damaged_through(door, copy, tmp_path / "out")


@pytest.mark.parametrize("size", [0, 100, 4096, HEADERS, HEADERS + BLOCK, 0.5, -BLOCK])
def test_a_file_that_is_cut(size: float, copy: Path, tmp_path: Path) -> None:
    content = (copy / "index.duckdb").read_bytes()
    (copy / "index.duckdb").write_bytes(content[: int(size * len(content)) if size == 0.5 else int(size)])
    for door in DOORS:
        is_damaged_through(door, copy, tmp_path / "out")


def test_damage_that_comes_while_it_is_open(copy: Path, tmp_path: Path) -> None:
    with Index(copy) as index:
        assert len(index.sql("FROM layers")) == 6
        with (copy / "index.duckdb").open("r+b") as file:
            for at in range(HEADERS + 1000, file.seek(0, 2), BLOCK):
                file.seek(at)
                file.write(b"not what was there")
        with pytest.raises(DamagedIndex):
            index.sql(EVERYTHING)


def test_a_file_that_is_missing(copy: Path) -> None:
    (copy / "index.duckdb").unlink()
    with Index(copy) as index, pytest.raises(DamagedIndex, match=r"index.duckdb is missing. Repeat"):
        index.sql("FROM layers")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT CAST(layer AS INTEGER) FROM neurons",
        "SELECT 9223372036854775807::BIGINT + 1",
        "SELECT repeat('a', 5000000000)",
        "SELECT regexp_matches(path, '[') FROM images",
        "SELECT error('Corrupt database file: computed checksum 1')",
        "SELECT error('IO Error: Could not read enough bytes from file index.duckdb')",
        "SELECT list_reduce([], lambda x, y: x + y)",
        "SELECT json_execute_serialized_sql('{}')",
        "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT max(a) FROM r",
        "FROM nothing",
        "FROM read_csv('/etc/passwd')",
    ],
)
def test_a_wrong_query_is_not_damage(query: str, copy: Path) -> None:
    with Index(copy) as index:
        with pytest.raises(QueryError):
            index.sql(query, timeout=2)
        assert len(index.sql("FROM layers")) == 6


@pytest.mark.parametrize("place", ["a file", "too small"])
def test_no_room_for_what_a_query_puts_aside_is_not_damage(
    place: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "MEMORY", "60MB")
    if place == "too small":
        monkeypatch.setattr(sql, "SPILLED", "10MB")
    with Index(copy) as index:
        spill = Path(index.tables._spill)
        if place == "a file":
            shutil.rmtree(spill)
            spill.write_text("where the folder was")
        with pytest.raises(QueryError):
            index.sql(
                "SELECT a.unit, b.unit, a.layer, b.layer FROM neurons a, neurons b ORDER BY hash(a.unit + b.unit)"
            )
        assert len(index.sql("FROM layers")) == 6
        if place == "a file":
            spill.unlink()


def test_tables_that_cannot_be_written_are_not_damage(copy: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # bytes of a file: to DuckDB a full disk
    try:
        with Index(copy) as index, pytest.raises(QueryError, match="cannot be written: IO Error.* Make space"):
            export_tables(index, tmp_path / "out", "csv", ["exemplars"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_open_for_writing_elsewhere_is_not_damage(copy: Path) -> None:
    code = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(copy / "index.duckdb")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with Index(copy) as index, pytest.raises(BadIndex, match="is open for writing in another program") as caught:
            index.sql("FROM layers")
    assert not isinstance(caught.value, DamagedIndex)
