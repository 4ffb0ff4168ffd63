"""Every kind of statement that DuckDB has, alone and inside others, is refused or has no effect on later answers."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

INTO_MEMORY = "INSERT INTO memory.main.descriptions(layer) VALUES ('evil')"
# By duckdb.StatementType, so that a new kind is noticed. Some of these DuckDB gives to another kind of late.
KINDS = {
    "ALTER": [
        "ALTER TABLE images ADD COLUMN x INT",
        "ALTER TABLE memory.main.descriptions RENAME TO d",
        "COMMENT ON TABLE images IS 'x'",
        "ALTER DATABASE vitdex_index SET ALIAS TO x",
    ],
    "ANALYZE": ["ANALYZE", "ANALYZE images", "VACUUM ANALYZE memory.main.descriptions"],
    "ATTACH": ["ATTACH 'x.duckdb'", "ATTACH ':memory:' AS m", "ATTACH IF NOT EXISTS ':memory:' AS temporary"],
    "CALL": [
        "CALL pragma_version()",
        "CALL enable_logging()",
        "CHECKPOINT",
        "FORCE CHECKPOINT memory",
        "CALL truncate_duckdb_logs()",
    ],
    "COPY": [
        "COPY images TO 'out.csv'",
        "COPY (SELECT 1) TO 'out.parquet'",
        "COPY memory.main.descriptions FROM '/etc/passwd'",
    ],
    "COPY_DATABASE": [
        "COPY FROM DATABASE vitdex_index TO memory",
        "COPY FROM DATABASE vitdex_index TO memory (SCHEMA)",
        "COPY FROM DATABASE memory TO vitdex_index",
    ],
    "CREATE": [
        "CREATE OR REPLACE TEMP VIEW images AS SELECT 1 AS image_id",
        "CREATE TEMP TABLE images AS SELECT 1 AS image_id",
        "CREATE TABLE memory.main.images AS SELECT 1 AS image_id",
        "CREATE VIEW memory.main.key_neurons AS SELECT 1",
        "CREATE SCHEMA memory.s",
        "CREATE TYPE memory.main.t AS ENUM ('a')",
        "CREATE SEQUENCE memory.main.s",
        "CREATE INDEX i ON memory.main.descriptions(layer)",
        "CREATE SECRET s (TYPE s3)",
    ],
    "CREATE_FUNC": [
        "CREATE TEMP MACRO length(x) AS 0",
        "CREATE OR REPLACE MACRO memory.main.count(x) AS 0",
        "CREATE FUNCTION memory.main.f(x) AS TABLE SELECT x",
    ],
    "DELETE": ["DELETE FROM images", "TRUNCATE images", "DELETE FROM memory.main.descriptions"],
    "DETACH": ["DETACH vitdex_index", "DETACH memory", "DETACH DATABASE IF EXISTS vitdex_index"],
    "DROP": ["DROP TABLE images", "DROP TABLE memory.main.descriptions", "DROP SCHEMA memory.main CASCADE"],
    "EXECUTE": ["EXECUTE p", "EXECUTE p(1)", "DEALLOCATE p"],
    "EXPLAIN": ["EXPLAIN FROM images", "EXPLAIN ANALYZE FROM images", "EXPLAIN (ANALYZE, FORMAT json) SELECT 1"],
    "EXPORT": ["EXPORT DATABASE 'out'", "EXPORT DATABASE vitdex_index TO 'out'", "IMPORT DATABASE 'out'"],
    "EXTENSION": ["FORCE INSTALL json", "UPDATE EXTENSIONS", "INSTALL httpfs FROM community"],
    "INSERT": [
        INTO_MEMORY,
        "INSERT INTO failures VALUES ('a', 'b')",
        "INSERT INTO memory.main.generated(id) FROM range(3)",
    ],
    "INVALID": ["SELEC 1", "EXPLAIN", "EXPLAIN ANALYZE EXPLAIN ANALYZE BEGIN"],
    "LOAD": ["LOAD json", "INSTALL httpfs", "LOAD '/tmp/x.duckdb_extension'"],
    "LOGICAL_PLAN": [],  # has no text
    "MERGE_INTO": [
        "MERGE INTO images USING images i USING (image_id) WHEN MATCHED THEN DELETE",
        "MERGE INTO memory.main.descriptions USING images ON false WHEN NOT MATCHED THEN INSERT (layer) VALUES ('e')",
        "MERGE INTO memory.main.generated USING (SELECT 1 AS id) USING (id) WHEN NOT MATCHED THEN INSERT BY NAME",
    ],
    "MULTI": [
        "PIVOT (SELECT label FROM images) ON label USING count(*)",
        "FROM (PIVOT (SELECT label FROM images) ON label USING count(*))",
        "WITH p AS (PIVOT (SELECT label FROM images) ON label USING count(*)) FROM p",
        "EXPLAIN ANALYZE PIVOT (SELECT label FROM images) ON label USING count(*)",
        "CREATE TEMP TABLE images AS PIVOT (SELECT label FROM vitdex_index.images) ON label USING count(*)",
        "INSERT INTO memory.main.descriptions(layer) SELECT 'evil' FROM (PIVOT images ON label USING count(*))",
        "WITH p AS (PIVOT images ON label USING count(*)) "
        "INSERT INTO memory.main.descriptions(layer) SELECT 'evil' FROM p",
    ],
    "PRAGMA": ["PRAGMA enable_profiling", "PRAGMA disable_optimizer", "PRAGMA memory_limit = '9GB'"],
    "PREPARE": ["PREPARE p AS SELECT 1", "PREPARE p AS " + INTO_MEMORY, "PREPARE p AS FROM images WHERE image_id = ?"],
    "RELATION": [],  # has no text
    "SELECT": [
        "SELECT setseed(0.5)",
        "SELECT setseed(0.5), random()",
        "FROM query('SELECT set' || 'seed(0.5)')",
        "FROM json_execute_serialized_sql(json_serialize_sql('SELECT setseed(0.5)'))",
        "SELECT nextval('s')",
        "SELECT write_log('x')",
        "FROM truncate_duckdb_logs()",
        "FROM enable_logging()",
        "FROM enable_profiling()",
        "FROM force_checkpoint('memory')",
        f"WITH c AS ({INTO_MEMORY} RETURNING *) FROM c",
        "WITH c AS (DELETE FROM memory.main.descriptions RETURNING *) SELECT count(*) FROM c",
        "WITH c AS (UPDATE memory.main.descriptions SET layer = 'evil' RETURNING *) FROM c",
        f"FROM query('WITH c AS ({INTO_MEMORY.replace(chr(39), chr(39) * 2)} RETURNING *) FROM c')",
        "SELECT * FROM query_table('images') LIMIT 1",
        "SELECT current_setting('memory_limit'), txid_current()",
        "FROM pg_catalog.pg_tables",
    ],
    "SET": [
        "SET memory_limit = '9GB'",
        "SET threads = 1",
        "SET search_path = 'temp'",
        "RESET search_path",
        "USE memory",
    ],
    "TRANSACTION": ["BEGIN", "START TRANSACTION READ WRITE", "COMMIT", "ROLLBACK"],
    "UPDATE": [
        "UPDATE images SET path = 'x'",
        "UPDATE memory.main.descriptions SET layer = 'evil'",
        "UPDATE vitdex_index.main.classes SET class = 'evil'",
    ],
    "VACUUM": ["VACUUM", "VACUUM images", "VACUUM memory.main.descriptions"],
    "VARIABLE_SET": ["SET VARIABLE x = 1", "RESET VARIABLE x", "SET VARIABLE images = (SELECT max(path) FROM images)"],
}
READING = {"EXPLAIN", "SELECT", "MULTI"}  # in which some have an answer
INSIDE = [
    "{}",
    "/* é */ {} -- é",
    "EXPLAIN {}",
    "EXPLAIN ANALYZE {}",
    "EXPLAIN /* a */ ANALYZE -- b\n {}",
    "EXPLAIN (ANALYZE, FORMAT json) {}",
    "EXPLAIN (FROM images) {}",
    "PREPARE p AS {}",
    "EXPLAIN ANALYZE PREPARE p AS {}",
    "WITH c AS ({}) FROM c",
    "FROM ({})",
    "({})",
    "CREATE TEMP MACRO length(x) AS ({})",
    "CREATE TEMP VIEW images AS {}",
    "SELECT 1; {}",
    "{}; SELECT 1",
]
STATE = [
    "FROM images ORDER BY image_id LIMIT 5",
    "SELECT count(path), max(length(path)) FROM images",
    "FROM key_neurons ORDER BY layer, unit, class_id LIMIT 5",
    "SELECT count(*) FROM descriptions",
    "SELECT count(*) FROM generated",
    "SELECT database_name FROM duckdb_databases() ORDER BY ALL",
    "SELECT database_name, table_name, comment FROM duckdb_tables() ORDER BY ALL",
    "SELECT database_name, view_name FROM duckdb_views() ORDER BY ALL",
    "SELECT count(*) FROM duckdb_functions()",
    "SELECT count(*) FROM duckdb_types()",
    "SELECT count(*) FROM duckdb_sequences()",
    "FROM duckdb_variables()",
    "SELECT name FROM duckdb_prepared_statements()",
    "SELECT name, value FROM duckdb_settings() WHERE name <> 'temp_directory' ORDER BY ALL",
]


def state(index: Index) -> list[str]:
    """What an index answers, to people and to questions of our own."""
    return [repr(ask(query, []).to_dict("list")) for query in STATE for ask in (index.sql, index.look_up)]


@pytest.fixture
def asked(sample: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """An index that leaves its scratch in a folder of the test's."""
    for name in ("work", "spill"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spill"))
    return sample


def test_every_kind_is_here() -> None:
    assert set(KINDS) >= set(duckdb.StatementType.__members__)
    assert all(len(statements) > 2 for kind, statements in KINDS.items() if kind not in ("RELATION", "LOGICAL_PLAN"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_statement_has_an_effect(kind: str, asked: Index, tmp_path: Path) -> None:
    before = state(asked)
    for statement in KINDS[kind]:
        for form in INSIDE:
            query = form.format(statement)
            if kind in READING:
                with suppress(QueryError):
                    asked.sql(query, timeout=20)
            else:
                with pytest.raises(QueryError):
                    asked.sql(query, timeout=20)
        assert asked.look_up("FROM descriptions", []).empty, statement
    assert state(asked) == before
    assert list((tmp_path / "work").iterdir()) == []


def test_a_seed_is_forgotten(sample: Index) -> None:
    seeded = sample.sql("SELECT setseed(0.5), random() AS drawn").drawn[0]
    for ask in (sample.sql, sample.look_up):
        assert ask("SELECT random() AS drawn", []).drawn[0] != seeded


@pytest.mark.parametrize(
    "query",
    [
        "EXPLAIN ANALYZE WITH c AS (SELECT 1 AS a) FROM c",
        "explain (analyze, format json) select 1",
        "EXPLAIN (SELECT 1)",
        "-- é\nEXPLAIN /* é */ FROM images",
        "EXPLAIN PIVOT (SELECT label FROM images) ON label IN ('coin') USING count(*)",
        "EXPLAIN VALUES (1)",
        "EXPLAIN DESCRIBE images",
        "SHOW TABLES",
        "SUMMARIZE images",
        "(SELECT 1)",
    ],
)
def test_what_reads_is_answered(query: str, sample: Index) -> None:
    assert len(sample.sql(query))


def test_bytes_that_are_no_letters(sample: Index) -> None:
    with pytest.raises(QueryError, match="not UTF-8"):
        sample.sql("SELECT '\udcff'")
