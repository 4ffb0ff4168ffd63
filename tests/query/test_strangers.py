"""SQL from strangers changes nothing, reads nothing outside, and ends. Names and settings of any kind are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pytest
import xxhash
from conftest import hear_ctrl_c, vitdex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vitdex.data.images.sources import open_source
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError
from vitdex.schemas.integrity import verify

FORBIDDEN = [
    "CREATE TABLE mine (x INT)",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE TABLE memory.main.mine AS FROM range(10)",
    "CREATE OR REPLACE VIEW key_neurons AS SELECT 1",
    "CREATE MACRO f(x) AS x",
    "DELETE FROM images",
    "UPDATE images SET path = 'x'",
    "DROP TABLE images",
    "ALTER TABLE images ADD COLUMN x INT",
    "INSERT INTO failures VALUES ('a', 'b')",
    "TRUNCATE images",
    "COPY images TO 'out.csv'",
    "COPY (SELECT 1) TO '/tmp/vitdex-out.parquet'",
    "COPY failures FROM '/etc/passwd'",
    "EXPORT DATABASE 'out'",
    "IMPORT DATABASE 'out'",
    "ATTACH 'other.duckdb'",
    "DETACH vitdex_index",
    "USE memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "SET temp_directory = '.'",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "SET VARIABLE x = 1",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "CALL pragma_version()",
    "CREATE SECRET s (TYPE s3)",
    "PREPARE p AS SELECT 1",
    "SELECT 1; DROP TABLE images",
    "EXPLAIN ANALYZE COPY images TO 'out.csv'",
    "FROM read_csv('/etc/passwd')",
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/etc/passwd')",
    "FROM read_parquet('x.parquet')",
    "FROM read_json('/etc/passwd')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM glob('/*')",
    "FROM '/etc/passwd'",
    "FROM 'https://example.com/x.csv'",
    "SELECT getenv('HOME')",
    "FROM local_frame",
]
if duckdb.__version__ >= "1.4":  # answered before, but with nothing of the outside
    FORBIDDEN += ["PRAGMA database_size", "FROM duckdb_secrets()"]
ENDLESS = [
    "SELECT max(a.range * b.range) FROM range(1000000) a, range(1000000) b",
    "FROM exemplars a, exemplars b, exemplars c",
    "SELECT max(a.pre + b.pre) FROM exemplars a, exemplars b",
    "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT max(a) FROM r",
    "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) FROM r",
    "FROM range(100000000000)",
    "SELECT repeat('x', 1000000) AS x FROM range(1000000)",
    "SELECT list(range) FROM range(100000000000)",
    "SELECT string_agg(range::VARCHAR) FROM range(100000000000)",
    "SELECT range(10000000000)",
    "FROM range(1000000000) ORDER BY hash(range)",
]


def bytes_of(folder: Path) -> dict[str, str]:
    return {str(p): xxhash.xxh3_128_hexdigest(p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("statements", [FORBIDDEN, ENDLESS], ids=["forbidden", "endless"])
def test_strangers_sql_is_refused_or_stopped(
    statements: list[str], sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    local_frame = pd.DataFrame({"x": [1]})
    spill = tmp_path / "spill"
    work = tmp_path / "work"
    for folder in (spill, work):
        folder.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(tempfile, "tempdir", str(spill))
    before = bytes_of(sample_path)
    for statement in statements:
        with Index(sample_path) as index, pytest.raises(QueryError):
            index.sql(statement, timeout=2)
        assert list(spill.iterdir()) == [], statement
    assert list(work.iterdir()) == []
    assert not Path("/tmp/vitdex-out.parquet").exists()
    assert bytes_of(sample_path) == before
    assert len(local_frame) == 1


def test_the_connection_itself_refuses_what_the_statement_check_would_let_by(sample: Index) -> None:
    import duckdb

    for statement in ("COPY images TO 'out.csv'", "SET memory_limit = '9GB'", "ATTACH 'x'", "DROP TABLE images"):
        with pytest.raises(duckdb.Error):
            sample.db.execute(statement)


def test_a_long_answer_comes_whole(sample: Index) -> None:
    rows = sample.sql("SELECT range AS n, CASE WHEN range % 3 = 0 THEN NULL ELSE range END AS m FROM range(300000)")
    assert rows.n.tolist() == list(range(300_000))
    assert rows.m.isna().sum() == 100_000


def test_time_limit_and_ctrl_c(sample_path: Path) -> None:
    endless = ENDLESS[0]
    result = vitdex("sql", sample_path, endless, "--timeout", "0.5")
    assert result.returncode == 2
    assert result.stderr == "Error: stopped after 0.5 s. Ask for less, or give more time (--timeout).\n"
    code = "from vitdex.query.commands.main import main; main()"
    command = [sys.executable, "-c", code, "sql", str(sample_path), endless]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c)
    time.sleep(3)
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert b"Traceback" not in said


NAME = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 240
)


def every_name_is_accounted_for(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / f"{name}.jpg").write_bytes(b"x")
        source = open_source(folder)
        listed = [entry.path for entry in source.entries]
        assert listed == sorted(listed)
        assert sorted(listed + [s.path for s in source.skipped]) == sorted(f"{n}.jpg" for n in names)


@given(st.lists(NAME.map(lambda n: f"a{n}"), min_size=1, max_size=8, unique=True))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_file_name_is_listed(names: list[str]) -> None:
    every_name_is_accounted_for(names)


@pytest.mark.soak
@given(st.lists(NAME.map(lambda n: f"a{n}"), min_size=1, max_size=30, unique=True))
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_file_name_is_listed_at_length(names: list[str]) -> None:
    every_name_is_accounted_for(names)


def test_opening_the_sample_leaves_it_whole(sample_path: Path) -> None:
    assert verify(sample_path) == []
