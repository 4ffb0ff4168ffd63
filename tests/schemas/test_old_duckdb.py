"""The oldest DuckDB that pyproject allows and the newest read what any of them wrote, and say so where they cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import duckdb
import pytest
from vitdex.query.index import Index
from vitdex.query.notes.database import writing
from vitdex.schemas.facts import file_facts
from vitdex.schemas.layout import Layout
from vitdex.schemas.manifest import read_manifest, seal_manifest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
LOWEST = next(word.split(">=")[1] for word in PROJECT["dependencies"] if word.startswith("duckdb"))
QUESTION = (
    "SELECT * FROM key_neurons WHERE class = 'coin' AND contribution IS NOT NULL "
    "ORDER BY contribution DESC, layer, unit LIMIT 20"
)


@pytest.fixture(scope="module")
def duckdbs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with DuckDB and nothing else, for the lowest allowed version and for the newest."""
    out = {}
    for name, what in (("lowest", f"duckdb=={LOWEST}"), ("newest", "duckdb")):
        out[name] = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(out[name]), what]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = f"pip cannot install {what}: {done.stderr.strip().splitlines()[-1]}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return out


def plain(duckdb_folder: Path, code: str, *words: str | Path) -> str:
    """What Python says that has DuckDB alone: -S leaves out the packages installed here."""
    command = [sys.executable, "-S", "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(duckdb_folder)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(duckdb_folder: Path, code: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """vitdex as it is installed here, with another DuckDB."""
    path = os.pathsep.join([str(duckdb_folder), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})


@pytest.fixture
def copy(sample_path: Path, tmp_path: Path) -> Path:
    """The sample without its arrays' content, in a folder that a test may write into."""
    for name in ("manifest.json", "index.duckdb"):
        shutil.copy(sample_path / name, tmp_path / name)
    shutil.copytree(sample_path / "activations.zarr", tmp_path / "activations.zarr", copy_function=os.link)
    return tmp_path


@pytest.mark.parametrize("which", ["lowest", "newest"])
def test_duckdb_alone_reads_the_tables(which: str, duckdbs: dict[str, Path], sample: Index, copy: Path) -> None:
    with writing(Layout(copy)) as db:
        db.execute("INSERT INTO descriptions (layer, unit, description) VALUES ('blocks.5.mlp.fc1', 16, 'coins')")
    code = (
        "import duckdb, json, sys\n"
        "db = duckdb.connect()\n"
        "for name in ('index', 'notes'):\n"
        "    db.execute(f\"ATTACH '{sys.argv[1]}/{name}.duckdb' AS {name}_ (READ_ONLY)\")\n"
        "notes = db.execute('SELECT unit, description FROM notes_.descriptions').fetchall()\n"
        "db.execute('USE index_')\n"
        "print(json.dumps([duckdb.__version__, notes, db.execute(sys.argv[2]).fetchall()]))"
    )
    version, notes, rows = json.loads(plain(duckdbs[which], code, copy, QUESTION))
    if which == "lowest":
        assert version == LOWEST or version.removesuffix(".0") == LOWEST
    assert notes == [[16, "coins"]]
    expected = sample.db.execute(QUESTION).fetchall()
    assert len(expected) == 20
    assert rows == json.loads(json.dumps(expected))


def test_vitdex_asks_and_writes_with_the_lowest(duckdbs: dict[str, Path], sample: Index, copy: Path) -> None:
    code = (
        "import duckdb, sys; from vitdex.query import Index\n"
        "from vitdex.query.notes.database import writing\n"
        "with Index(sys.argv[1]) as index:\n"
        "    with writing(index.layout) as db: db.execute('INSERT INTO generated (id) VALUES (7)')\n"
        "    print(duckdb.__version__, index.sql('SELECT id FROM generated').id.tolist())\n"
        "    print(index.sql(\"SELECT activation_map('blocks.5.mlp.fc1', 16, 0) AS m\").m[0].tolist())\n"
        "    print(index.key_neurons('coin', 20, 'contribution').unit.tolist())"
    )
    done = ours(duckdbs["lowest"], code, copy)
    assert done.returncode == 0, done.stderr
    version, values, units = done.stdout.splitlines()
    assert re.fullmatch(rf"{re.escape(LOWEST)}[.\d]* \[7\]", version)
    assert json.loads(values) == sample.map("blocks.5.mlp.fc1", 16, 0).ravel().tolist()
    assert json.loads(units) == sample.key_neurons("coin", 20, "contribution").unit.tolist()
    with Index(copy) as index:  # what the lowest wrote, this one reads
        assert index.sql("SELECT id FROM generated").id.tolist() == [7]


def test_a_file_that_is_too_new_says_who_wrote_it(duckdbs: dict[str, Path], copy: Path) -> None:
    version = rewrite(duckdbs["newest"], copy / "index.duckdb")
    layout = Layout(copy)
    manifest = read_manifest(layout)
    files = {**manifest["files"], "index.duckdb": file_facts(layout.database)}
    tables = {"duckdb": version, "storage_version": "latest"}
    layout.manifest.write_bytes(seal_manifest({**manifest, "files": files, "tables": tables}))
    done = ours(duckdbs["lowest"], "from vitdex.query.commands.main import main; main()", "info", copy)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"Error: .*index.duckdb was written by DuckDB {re.escape(version)}, and DuckDB {re.escape(LOWEST)}[.\d]* here "
        r"cannot read it. Install a newer DuckDB: pip install --upgrade duckdb.\n",
        done.stderr,
    )
    damaged = bytearray(layout.database.read_bytes())
    damaged[100_000] ^= 1  # whatever DuckDB says of such a file, it is damaged as well
    layout.database.write_bytes(damaged)
    done = ours(duckdbs["lowest"], "from vitdex.query.commands.main import main; main()", "info", copy)
    assert "index.duckdb is damaged. Repeat the 'vitdex index' command that made it with --repair." in done.stderr


def test_notes_that_are_too_new_say_so(duckdbs: dict[str, Path], copy: Path) -> None:
    with writing(Layout(copy)) as db:
        db.execute("INSERT INTO generated (id) VALUES (7)")
    rewrite(duckdbs["newest"], copy / "notes.duckdb")
    said = "notes.duckdb was written by a newer DuckDB, and DuckDB"
    commands: list[list[str | Path]] = [["sql", copy, "FROM generated"], ["generate", copy, "--remove", "7"]]
    for command in commands:
        done = ours(duckdbs["lowest"], "from vitdex.query.commands.main import main; main()", *command)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    code = (
        "import sys; from pathlib import Path; from vitdex.query.notes.database import writing\n"
        "from vitdex.schemas.layout import Layout\n"
        "with writing(Layout(Path(sys.argv[1]))) as db: print(db.execute('SELECT id FROM generated').fetchall())"
    )
    done = ours(duckdbs["newest"], code, copy)  # which goes on writing them
    assert done.stdout == "[(7,)]\n", done.stderr


def rewrite(duckdb_folder: Path, file: Path) -> str:
    """Write a database again in the newest storage version that a DuckDB has. Returns the DuckDB's own version."""
    code = (
        "import duckdb, os, sys\n"
        "db = duckdb.connect()\n"
        "db.execute(f\"ATTACH '{sys.argv[1]}' AS old (READ_ONLY)\")\n"
        "db.execute(f\"ATTACH '{sys.argv[1]}.new' AS new (STORAGE_VERSION 'latest')\")\n"
        "db.execute('COPY FROM DATABASE old TO new')\n"
        "db.close()\n"
        "os.replace(sys.argv[1] + '.new', sys.argv[1])\n"
        "print(duckdb.__version__)"
    )
    return plain(duckdb_folder, code, file).strip()


def test_the_manifest_names_the_duckdb_that_wrote(sample: Index) -> None:
    assert sample.manifest["tables"] == {"duckdb": duckdb.__version__, "storage_version": "v1.2.0"}
    assert "duckdb" not in sample.spec.versions  # it decides nothing of a run
