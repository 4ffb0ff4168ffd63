"""Machines as people have them: other encodings, names with a colon, python -O, nothing that can be written to."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from vitdex.indexer.from_python import build_index
from vitdex.query import import_descriptions
from vitdex.query.commands.output import save_table
from vitdex.query.console.table_text import csv_text, json_text
from vitdex.query.export.tables import export_tables
from vitdex.query.index import Index
from vitdex.schemas.errors import BadIndex, QueryError

LETTERS = ("犬", "žába", "a")
MAIN = "from vitdex.query.commands.main import main; main()"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
MACHINES = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "cp437": {"PYTHONIOENCODING": "cp437"},
    "ASCII out": {"PYTHONIOENCODING": "ascii"},
    "LC_ALL=C": {"LC_ALL": "C"},
    "LC_ALL=C, no UTF-8": ASCII,
}


def run(words: list[str], environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *options, "-c", MAIN, *words]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a few images in folders with other letters, its weights beside it."""
    folder = tmp_path_factory.mktemp("small")
    for letter, colour in zip(LETTERS, ("red", "green", "blue"), strict=True):
        (folder / "日本" / letter).mkdir(parents=True)
        Image.new("RGB", (160, 160), colour).save(folder / "日本" / letter / "0.png")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False, num_classes=3)
    save_file(model.state_dict(), folder / "weights.safetensors")
    out = folder / "jp.vitdex"
    weights = folder / "weights.safetensors"
    return build_index(out, model="test_vit", images=folder / "日本", weights=weights, device="cpu", workers=0)


WORDS = [
    ["sql", "INDEX", "SELECT image_id AS 犬 FROM images WHERE label = '犬'", "--json"],
    ["sql", "INDEX", "FROM images", "-o", "FOLDER/猫.csv"],
    ["top", "INDEX", "--class", "犬", "-k", "1"],
    ["info", "INDEX"],
    ["sql", "INDEX", "SELECT path, label FROM images"],
    ["export", "clip-dissect", "INDEX", "FOLDER/clip", "--layer", "blocks.0.mlp.fc1"],
]


def answers_in_other_letters(machine: str, words: list[str], small: Path, folder: Path) -> None:
    words = [word.replace("INDEX", str(small)).replace("FOLDER", str(folder)) for word in words]
    done = run(words, MACHINES[machine])
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode()  # what is piped is UTF-8 everywhere
    assert "Warning" not in done.stderr.decode()
    if words[0] == "sql" and "-o" not in words:
        assert "犬" in said
    if "-o" in words:
        assert "žába" in (folder / "猫.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("machine", ["cp1252", "LC_ALL=C, no UTF-8"])
def test_other_letters(machine: str, small: Path, tmp_path: Path) -> None:
    for words in WORDS[:3]:
        answers_in_other_letters(machine, words, small, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("words", WORDS, ids=lambda words: "-".join(words[:2]))
def test_other_letters_everywhere(machine: str, words: list[str], small: Path, tmp_path: Path) -> None:
    answers_in_other_letters(machine, words, small, tmp_path)


def test_arrays_without_asserts(sample: Index) -> None:
    code = "import sys; from vitdex.query import Index; print(Index(sys.argv[1]).arrays['blocks.0.mlp.fc1/max'].shape)"
    done = subprocess.run([sys.executable, "-O", "-c", code, str(sample.layout.root)], capture_output=True)
    assert done.stdout.decode().startswith("(480, "), done.stderr.decode()


@pytest.mark.soak
def test_python_without_asserts(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.vitdex"
    weights = small.parent / "weights.safetensors"
    words = [
        "index",
        str(out),
        "--model",
        "test_vit",
        "--images",
        str(small.parent / "日本"),
        "--weights",
        str(weights),
    ]
    done = run([*words, "--device", "cpu", "--workers", "1"], {}, "-O")
    assert done.returncode == 0, done.stderr.decode()
    arrays = small / "activations.zarr"
    for file in (path for path in arrays.rglob("*") if path.is_file()):
        assert (out / "activations.zarr" / file.relative_to(arrays)).read_bytes() == file.read_bytes()


def test_no_folder_for_what_numba_compiles(tmp_path: Path) -> None:
    """Of an installation and a home where nothing can be made: files lie where the folders would be."""
    for name in ("data", "query", "schemas"):
        (tmp_path / "vitdex").mkdir(exist_ok=True)
        (tmp_path / "vitdex" / name).symlink_to(str(files(f"vitdex.{name}").joinpath("")))
    own = tmp_path / "vitdex/indexer"
    shutil.copytree(str(files("vitdex.indexer").joinpath("")), own, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("statistics", "run"):
        (own / folder / "__pycache__").write_bytes(b"")
    code = (
        "import numpy as np; from vitdex.indexer.statistics.sorting import _keys; "
        "import vitdex.indexer.run.kernels, vitdex.indexer.statistics.count_kernels; "
        "keys = np.empty(2, np.uint32); _keys(np.array([1, 2], np.float32), keys); print(keys[0] > keys[1])"
    )
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONPATH": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | nowhere
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("name", ["my:set.vitdex", "s3:x", 'it\'s "one".vitdex', "two words", "a#b", "100%20", "~"])
def test_names_of_an_index(name: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(small, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("layer,unit,description\nblocks.0.mlp.fc1,1,a thing\n", encoding="utf-8")
    with Index(name) as index:
        import_descriptions(index, "d.csv", "me")
        save_table(index.sql("FROM descriptions"), Path("x:y.parquet"))
        assert export_tables(index, "out:1", "csv", ["images"]) == {"images": 3}
    assert Path("x:y.parquet").read_bytes().startswith(b"PAR1")
    assert sorted(path.name for path in Path("out:1").iterdir()) == ["images.csv", "schema.sql"]


def test_a_question_mark_in_a_name_is_said(small: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("layer,unit,description\nblocks.0.mlp.fc1,1,a thing\n", encoding="utf-8")
    said = "DuckDB can write nothing below a folder with '?' in its name"
    with Index(shutil.copytree(small, tmp_path / "what?")) as index:
        assert len(index.sql("FROM images")) == 3
        with pytest.raises(BadIndex, match=re.escape(said)):
            import_descriptions(index, tmp_path / "d.csv", "me")
    with pytest.raises(BadIndex, match=re.escape(said)):  # before the run, not after it
        build_index(tmp_path / "why?", sample=True)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("SELECT '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::UUID AS a", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("SELECT DATE '2024-01-02' AS a", "2024-01-02T00:00:00"),
        ("SELECT TIMESTAMP '2024-01-02 03:04:05.5' AS a", "2024-01-02T03:04:05.500000"),
        ("SELECT INTERVAL 36 HOUR AS a", "P1DT12H0M0S"),
        ("SELECT 'ab'::BLOB AS a", "6162"),
        ("SELECT 18446744073709551615::UBIGINT AS a", 18446744073709551615),
        ("SELECT '-inf'::FLOAT AS a", "-inf"),
        ("SELECT 'nan'::FLOAT AS a", None),
        ("SELECT 0.1::FLOAT AS a", 0.1),
        ("SELECT [1, NULL, 3] AS a", [1, None, 3]),
        ("SELECT [0.1::FLOAT, 'inf'::FLOAT] AS a", [0.1, "inf"]),
        ("SELECT {'x': uuid() IS NULL, 'y': [DATE '2024-01-02']} AS a", {"x": False, "y": ["2024-01-02"]}),
        ("SELECT map {'k': 1} AS a", {"k": 1}),
        ("SELECT list(range) AS a FROM range(3000)", list(range(3000))),
    ],
)
def test_json_and_csv_are_whole(query: str, wanted: object, sample: Index) -> None:
    table = sample.sql(query)
    assert json.loads(json_text(table)) == [{"a": wanted}]
    if isinstance(wanted, list | dict):
        assert json.loads(pd.read_csv(io.StringIO(csv_text(table))).a[0]) == wanted


def test_maps_are_whole_in_csv(sample: Index, tmp_path: Path) -> None:
    query = "SELECT flatten([activation_map('blocks.0.mlp.fc1', 1, i) FOR i IN range(20)]) AS pre"
    out = tmp_path / "maps.csv"
    done = run(["sql", str(sample.layout.root), query, "--csv", "-o", str(out)], {})
    assert done.returncode == 0, done.stderr
    for text in (done.stdout.decode(), out.read_text(encoding="utf-8")):
        values = json.loads(pd.read_csv(io.StringIO(text))["pre"][0])
        assert len(values) == 20 * 64


@pytest.mark.parametrize("query", ["", "   ", "-- a comment", ";", "SELECT 1; SELECT 2"])
def test_one_statement_is_asked_for(query: str, sample: Index) -> None:
    with pytest.raises(QueryError, match=r"^(no|2) statements in the query. Ask with one: SELECT, .*EXPLAIN.$"):
        sample.sql(query)


@pytest.mark.parametrize(
    "query", ["SELECT 1 AS a;", "SELECT 1 AS a ;; ", "-- note\nSELECT 1 AS a", "SELECT 1 AS a -- end"]
)
def test_semicolons_and_comments(query: str, sample: Index) -> None:
    assert sample.sql(query).a.tolist() == [1]
