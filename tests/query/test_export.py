"""Tables as Parquet and CSV, and CLIP-Dissect's tensors, read by others than us."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch
from conftest import Reference, hear_ctrl_c
from vitdex.query.export.clip_dissect import export_clip_dissect
from vitdex.query.export.tables import export_tables
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError


def test_parquet_is_sorted_and_keeps_types(sample: Index, tmp_path: Path) -> None:
    rows = export_tables(sample, tmp_path / "out")
    for table in ("neurons", "exemplars", "images", "class_scores"):
        with duckdb.connect() as db:
            file = db.sql(f"FROM '{tmp_path}/out/{table}.parquet'")
            kept, types = file.fetchall(), [str(t) for t in file.types]
        described = sample.sql(f"DESCRIBE {table}")
        assert types == described.column_type.tolist()
        assert kept == sample.db.execute(f"FROM {table} ORDER BY ALL").fetchall()
        assert len(kept) == rows[table]
    assert "key_neurons" not in rows


def test_csv_with_its_schema_is_the_same_table(sample: Index, tmp_path: Path) -> None:
    export_tables(sample, tmp_path, "csv", ["images", "key_neurons"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images.csv", "key_neurons.csv", "schema.sql"]
    with duckdb.connect() as db:
        db.execute((tmp_path / "schema.sql").read_text())
        for table in ("images", "key_neurons"):
            db.execute(f"COPY {table} FROM '{tmp_path}/{table}.csv' (HEADER)")
            ours = sample.db.execute(f"FROM {table} ORDER BY ALL").fetchall()
            assert db.execute(f"FROM {table}").fetchall() == ours


def test_unknown_tables_are_refused(sample: Index, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="no table 'exemplar'. Did you mean exemplars"):
        export_tables(sample, tmp_path / "out", tables=["exemplar"])
    assert not (tmp_path / "out").exists()


def test_clip_dissect_tensors(sample: Index, reference: Reference, tmp_path: Path) -> None:
    layers = ["blocks.1.mlp.fc1", "blocks.5.mlp.fc1"]
    files = export_clip_dissect(sample, tmp_path, layers, probe="objects", model="vit")
    assert len(files) == 6
    for layer in layers:
        patches = reference.fc1[layer][:, 1:]
        direct = {"cls": reference.fc1[layer][:, 0], "mean": patches.mean(1), "max": patches.max(1)}
        for reading, suffix in (("cls", ""), ("mean", ""), ("max", "_max")):
            found = torch.load(tmp_path / reading / f"objects_vit_{layer}{suffix}.pt", weights_only=True)
            assert found.dtype == torch.float32
            np.testing.assert_allclose(found.numpy(), direct[reading], rtol=1e-4, atol=1e-4)
    assert (tmp_path / "images.txt").read_text().splitlines() == reference.paths


def test_ctrl_c_leaves_nothing(sample: Index, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["export", "tables", str(sample.layout.root), str(out), "--format", "csv"]
    code = "from vitdex.query.commands.main import main; main()"
    run = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c)
    while not list(out.glob(".*.partial")) and run.poll() is None:
        time.sleep(0.002)
    run.send_signal(signal.SIGINT)
    assert (run.communicate()[1].strip(), run.returncode) == (b"Stopped.", 130)
    assert not list(out.glob(".*"))
