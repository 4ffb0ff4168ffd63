"""People's SQL in a child process: its answers are the index's own, its memory and time are held, nothing stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pytest
from conftest import hear_ctrl_c
from vitdex.query.console import child
from vitdex.query.console.answering import answer
from vitdex.query.console.child import ask_in_child
from vitdex.query.console.table_text import TEXTS
from vitdex.query.index import Index
from vitdex.query.stored.limits import TOO_MUCH, late
from vitdex.schemas.errors import BadIndex, QueryError

MAIN = "from vitdex.query.commands.main import main; main()"
DEAF = "SELECT regexp_replace(repeat('a', 30000000), '(a?){1000}b', 'x')"  # DuckDB hears nothing while it runs
EVERY_TYPE = (
    "SELECT unnest([1, NULL]) AS i, '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::UUID AS u, 1.10::DECIMAL(9, 2) AS d, "
    "TIMESTAMP '2024-01-02 03:04:05.5' AS t, TIMESTAMPTZ '2024-01-02 03:04:05+00' AS z, DATE '2024-01-02' AS day, "
    "INTERVAL 36 HOUR AS v, 'ab'::BLOB AS b, {'x': [1, NULL], 'y': 'é\"'} AS s, map {'k': 0.1::FLOAT} AS m, "
    "0.1::FLOAT AS f, 'inf'::DOUBLE AS e, 18446744073709551615::UBIGINT AS n, NULL AS nothing, true AS b2, '' AS w"
)
ANSWERS = [
    EVERY_TYPE,
    "SELECT *, activation_map(layer, unit, image_id) AS map FROM exemplars LIMIT 3",
    "FROM images WHERE false",
]
TOO_LARGE = ("the answer is larger than 1 GB", "Add LIMIT, or aggregate.")
LARGE = [  # DuckDB itself would let them have 5 GB and more
    "SELECT {'a': repeat('x', 20000), 'b': range} AS s FROM range(1000000)",
    "SELECT list_sort(range(300000000))",
    "SELECT string_agg(repeat('x', 20000) || range) FROM range(1000000)",
]
LARGER = [
    "SELECT [repeat('x', 20000)] AS l FROM range(1000000)",
    "SELECT map {'k': repeat('x', 20000)} AS m FROM range(1000000)",
    "SELECT {'a': {'b': repeat('x', 20000)::BLOB}} AS s FROM range(1000000)",
    "SELECT damerau_levenshtein(repeat('ab', 30000), repeat('ba', 30000))",
    "SELECT damerau_levenshtein(path || repeat('é', 50000), repeat('a', 60000)) FROM images",
    "SELECT unnest(range(500000000))",
    "SELECT list(range) FROM range(200000000)",
    "SELECT histogram(range) FROM range(100000000)",
    "SELECT repeat('x', 900000000) || repeat('y', 900000000)",
    "SELECT list_transform(range(100000000), lambda i: repeat('x', 100))",
]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, here and in the command line."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def nothing_is_left(scratch: Path) -> bool:
    """Neither files nor a process that was to write them."""
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return not list(scratch.iterdir()) and f"main() {scratch}" not in running


@pytest.mark.parametrize("query", ANSWERS, ids=["every type", "maps", "empty"])
def test_answers_are_the_indexs_own(query: str, sample: Index) -> None:
    table = sample.sql(query)
    with ask_in_child(sample.layout.root, query, ["table", "csv", "json", "parquet"], timeout=60) as answered:
        assert answered.rows == len(table)
        for kind, text in TEXTS.items():
            said = answered.files[kind].read_bytes().decode()  # type: ignore[index]
            assert said == text(table), kind
        written = duckdb.read_parquet(str(answered.files["parquet"])).df()
    assert (written.columns.tolist(), len(written)) == (table.columns.tolist(), len(table))


def peak_of(query: str, path: Path) -> tuple[int, str]:
    """The most memory in bytes of a process of `vitdex sql`, and what it said."""
    code = (
        "import resource as r, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
    )
    code += "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss * 1024, done.returncode, done.stderr)"
    words = [sys.executable, "-c", code, sys.executable, "-c", MAIN, "sql", str(path), query]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
    peak, _, rest = said.partition(" ")
    return int(peak), rest.strip()


def needs_too_much(query: str, path: Path, scratch: Path) -> None:
    peak, said = peak_of(query, path)
    assert said in (
        f"2 Error: {'. '.join(TOO_MUCH)}",
        "2 Error: the answer is larger than 1 GB. Add LIMIT, or aggregate.",
    )
    assert peak < 2.4e9, "with the parent below 2.5 GB"
    assert nothing_is_left(scratch)


@pytest.mark.skipif(sys.platform != "linux", reason="the system limits memory on Linux alone")
@pytest.mark.parametrize("query", LARGE)
def test_memory_is_limited(query: str, sample_path: Path, scratch: Path) -> None:
    needs_too_much(query, sample_path, scratch)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="the system limits memory on Linux alone")
@pytest.mark.parametrize("query", LARGER)
def test_memory_is_limited_everywhere(query: str, sample_path: Path, scratch: Path) -> None:
    needs_too_much(query, sample_path, scratch)


def test_time_is_limited(sample_path: Path, scratch: Path) -> None:
    start = time.monotonic()
    with pytest.raises(QueryError) as error, ask_in_child(sample_path, DEAF, ["csv"], timeout=1.5):
        pass
    assert str(error.value) == ". ".join(late(1.5))
    assert time.monotonic() - start < 1.5 + 2
    assert nothing_is_left(scratch)


def begun(path: Path) -> subprocess.Popen[bytes]:
    """A command line in the middle of a query that hears nothing."""
    command = [sys.executable, "-c", MAIN, "sql", str(path), DEAF]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c, start_new_session=True)
    time.sleep(2.5)
    return run


def test_ctrl_c(sample_path: Path, scratch: Path) -> None:
    run = begun(sample_path)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    start = time.monotonic()
    _, said = run.communicate(timeout=30)
    assert time.monotonic() - start < 1
    assert (said.strip(), run.returncode) == (b"Stopped.", 130)
    assert nothing_is_left(scratch)


def test_a_child_ends_with_its_parent(sample_path: Path, scratch: Path) -> None:
    run = begun(sample_path)
    assert not nothing_is_left(scratch)
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 10
    while not nothing_is_left(scratch):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("import os; os.abort()", "signal 6"),
        ("raise ValueError('a bug')", "exit status 1"),
        ("pass", "exit status 0"),
    ],
)
def test_a_child_that_fails(code: str, how: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CODE", code)
    with pytest.raises(QueryError) as error, ask_in_child("any.vitdex", "SELECT 1", ["csv"], timeout=20):
        pass
    assert str(error.value) == (
        f"the query ended its process ({how}): DuckDB failed on it, or there was no memory left. "
        "Ask for less, or in another way."
    )
    assert ("a bug" in code) == ("ValueError: a bug" in error.value.__notes__[0])  # which --debug shows
    assert nothing_is_left(scratch)


@pytest.mark.skipif(shutil.which("ps") is None, reason="no ps")
def test_where_the_system_holds_no_memory(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 20e6 < child.resident(os.getpid()) < 50e9
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(child, "MEMORY_BYTES", 300e6)
    monkeypatch.setattr(child, "CODE", "import time; much = b'x' * 400_000_000; time.sleep(60)")
    with pytest.raises(QueryError) as error, ask_in_child("any.vitdex", "SELECT 1", ["csv"], timeout=50):
        pass
    assert str(error.value) == ". ".join(TOO_MUCH)


def test_errors_keep_their_kind(tmp_path: Path) -> None:
    with (
        pytest.raises(BadIndex, match="is not a vitdex index"),
        ask_in_child(tmp_path, "SELECT 1", ["csv"], timeout=60),
    ):
        pass


def test_no_space_for_the_answer(sample_path: Path, tmp_path: Path) -> None:
    request = {"index": str(sample_path), "query": "SELECT 1", "kinds": ["csv"], "timeout": 60}
    said = answer(tmp_path / "not there", request)
    assert said["fact"] == f"the answer cannot be written below {tmp_path}: No such file or directory"


def test_modules_of_the_folder_are_not_imported(
    sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "duckdb", "numpy", "encodings", "vitdex"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    with ask_in_child(sample_path, "SELECT 1 AS one", ["csv"], timeout=60) as answered:
        assert answered.files["csv"].read_text() == "one\n1\n"
