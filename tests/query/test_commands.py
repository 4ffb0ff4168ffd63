"""Wrong use: one line with the remedy, exit status 2, no traceback. And SQL that may only read."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SAMPLE, vitdex
from vitdex.indexer.command import _best_ranking, _with_classes
from vitdex.indexer.tables.class_order import Accuracy
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError
from vitdex.schemas.manifest import seal_manifest

MODEL = f"local-dir:{SAMPLE / 'model'}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "nowhere"], "Error: there is no index at nowhere. Make one with 'vitdex index'."),
        (["index", "x", "--model", "vit_bas_patch16_224", "--images", "."], "Did you mean vit_base_patch16_224"),
        (["index", "x", "--model", MODEL, "--images", "nowhere"], "nowhere"),
        (["index", "x", "--model", MODEL, "--images", "empty"], "empty"),
        (["index", "x", "--model", MODEL, "--weights", "a.pt", "--images", "pics"], "a.pt is not a safetensors file"),
        (["index", "x", "--sample", "--device", "nonsense"], "no device 'nonsense' on this machine"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.jpg").write_bytes(b"x")
    (tmp_path / "a.pt").write_bytes(b"\x80\x04pickled")
    result = vitdex(*words)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.rstrip("\n").endswith((".", "?"))
    assert not result.stderr.rstrip("\n").endswith(("?.", ".."))
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x").exists()


def test_images_none_of_which_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "a.jpg").write_bytes(b"")
    result = vitdex("index", tmp_path / "x", "--model", MODEL, "--images", tmp_path / "pics")
    assert result.returncode == 2
    assert result.stderr.startswith("Warning: 1 image has no label.")
    assert result.stderr.split("\n", 1)[1] == (
        "Error: none of 1 images can be read ('a.jpg': the file is empty). Mend them and give --overwrite.\n"
    )
    again = vitdex("info", tmp_path / "x")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_no_hub_is_told_within_15_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that takes the call and is silent: its own client would go on trying."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        result = vitdex("index", tmp_path / "x", "--model", "vit_small_patch16_224", "--images", SAMPLE / "images")
        assert time.monotonic() - start < 15 + 5, "with what a busy machine needs to import torch"
    assert result.returncode == 2
    assert "no weights for 'vit_small_patch16_224' from timm's hub" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_newer_format_is_told(sample_path: Path, tmp_path: Path) -> None:
    manifest = json.loads((sample_path / "manifest.json").read_text())
    del manifest["sha256"]
    (tmp_path / "manifest.json").write_bytes(seal_manifest({**manifest, "format_version": 99}))
    for words in (["info"], ["verify"], ["sql", "FROM images"]):
        result = vitdex(words[0], tmp_path, *words[1:])
        assert result.returncode == 2
        assert "has format 99, this vitdex reads 1. Install" in result.stderr
        assert result.stderr.count("\n") == 1


def test_sql_as_table_csv_and_json(sample_path: Path) -> None:
    query = "SELECT class_id, class FROM classes ORDER BY class_id LIMIT 2"
    assert vitdex("sql", sample_path, query, "--csv").stdout == "class_id,class\n0,bird\n1,building\n"
    assert json.loads(vitdex("sql", sample_path, query, "--json").stdout)[1] == {"class_id": 1, "class": "building"}
    assert "building" in vitdex("sql", sample_path, query).stdout
    wrong = vitdex("sql", sample_path, "SELEC 1")
    assert wrong.returncode == 2
    assert "syntax error" in wrong.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (x INT)",
        "DELETE FROM images",
        "UPDATE images SET path = 'x'",
        "DROP TABLE images",
        "INSERT INTO failures VALUES ('a', 'b')",
        "COPY images TO 'out.csv'",
        "EXPORT DATABASE 'out'",
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM glob('/*')",
        "ATTACH 'other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "FROM local_frame",
    ],
)
def test_sql_can_only_read(sample_path: Path, statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    local_frame = pd.DataFrame({"x": [1]})
    monkeypatch.chdir(tmp_path)
    before = (sample_path / "index.duckdb").read_bytes()
    with Index(sample_path) as index, pytest.raises(QueryError):
        index.sql(statement)
    assert (sample_path / "index.duckdb").read_bytes() == before
    assert list(tmp_path.iterdir()) == []
    assert len(local_frame) == 1


def test_unknown_names_get_the_nearest(sample: Index) -> None:
    with pytest.raises(QueryError, match=r"no layer 'block.3.mlp.fc1'. Did you mean blocks.3.mlp.fc1"):
        sample.map("block.3.mlp.fc1", 0, 0)
    with pytest.raises(QueryError, match=r"no unit 768 in blocks.3.mlp.fc1. Its units count from 0 to 767"):
        sample.exemplars("blocks.3.mlp.fc1", 768)
    with pytest.raises(QueryError, match=r"no image 480. Images count from 0 to 479"):
        sample.map("blocks.3.mlp.fc1", 0, 480)


@pytest.mark.parametrize(
    ("classes", "readout", "measured", "ranking"),
    [
        (0, "token", False, None),
        (5, "none: why", True, "score"),
        (5, "mean", False, "folded"),
        (5, "mean", True, "contribution"),
    ],
)
def test_what_to_do_next_ranks_by_what_there_is(
    sample: Index, classes: int, readout: str, measured: bool, ranking: str | None
) -> None:
    accuracy = Accuracy(1, 1.0, None, 1.0) if measured else None
    without = _best_ranking(replace(sample.spec, classes=classes, readout=readout))
    assert _with_classes(without, accuracy) == ranking


def test_index_as_a_command_ends_with_what_to_do_next(tmp_path: Path) -> None:
    result = vitdex(
        "index", tmp_path / "a", "--sample", "--limit", "8", "--maps", "none", "--no-inputs", "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr
    assert "4,608 neurons in 6 layers" in result.stdout
    assert "is ready. Next:" in result.stdout
    assert '"FROM key_neurons ORDER BY contribution DESC LIMIT 10"' in result.stdout
    assert "img" not in result.stderr  # no progress bar where there is no terminal
    shown = vitdex("info", tmp_path / "a").stdout
    assert "8 indexed, 0 failed, 0 skipped, 480 found" in shown
    with Index(tmp_path / "a") as index:
        assert "inputs" not in index.arrays
