"""Notes: what users add is seen by SQL once the index is opened again, and never half of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from vitdex.query.index import Index
from vitdex.query.notes import database as notes_module
from vitdex.query.notes.database import writing
from vitdex.schemas.errors import BadIndex, QueryError
from vitdex.schemas.layout import Layout


@pytest.fixture
def copy(sample_path: Path, tmp_path: Path) -> Path:
    """The sample's tables alone, in a folder that a test may write into."""
    for name in ("manifest.json", "index.duckdb"):
        shutil.copy(sample_path / name, tmp_path / name)
    return tmp_path


def test_notes_are_joined_once_the_index_is_opened_again(copy: Path) -> None:
    with Index(copy) as index:
        assert index.sql("FROM descriptions").empty
        assert index.sql("FROM generated").columns.tolist()[:3] == ["id", "layer", "unit"]
        frame = pd.DataFrame(
            {"layer": ["blocks.1.mlp.fc1"], "unit": [7], "source": ["me"], "description": ["round, red"]}
        )
        with writing(index.layout) as db:  # while an index is open
            db.register("frame", frame)
            db.execute("INSERT INTO descriptions BY NAME FROM frame")
        assert len(frame)
    with Index(copy) as index:
        found = index.sql("SELECT unit, description, pre_mean FROM descriptions JOIN neurons USING (layer, unit)")
        assert found.iloc[0, :2].tolist() == [7, "round, red"]
        with pytest.raises(QueryError):
            index.sql("INSERT INTO descriptions VALUES ('a', 1, 'b', 'c', NULL, NULL)")
    assert Index(copy).sql("SELECT count(*) AS n FROM descriptions").n[0] == 1


def test_what_raises_leaves_nothing(copy: Path) -> None:
    with suppress(RuntimeError), writing(Layout(copy)) as db:
        db.execute("INSERT INTO generated (id) VALUES (1)")
        raise RuntimeError
    assert Index(copy).sql("FROM generated").empty
    with writing(Layout(copy)) as db:
        db.execute("INSERT INTO generated (id) VALUES (2)")
    assert Index(copy).sql("FROM generated").id.tolist() == [2]


def test_two_writers_and_a_damaged_file_are_one_line(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "PATIENCE", 0.1)
    code = (
        "import sys; from pathlib import Path; from vitdex.query.notes.database import writing; "
        "from vitdex.schemas.layout import Layout\n"
        "with writing(Layout(Path(sys.argv[1]))): pass"
    )
    with writing(Layout(copy)):
        other = subprocess.run([sys.executable, "-c", code, str(copy)], capture_output=True, text=True)
        assert "notes.duckdb is being written. Try again" in other.stderr.splitlines()[-1]
        ask = "import sys; from vitdex.query import Index; Index(sys.argv[1]).sql('FROM classes')"
        reader = subprocess.run([sys.executable, "-c", ask, str(copy)], capture_output=True, text=True)
        assert "notes.duckdb is being written. Try again" in reader.stderr.splitlines()[-1]
    Layout(copy).notes.write_bytes(b"x" * 5000)
    with pytest.raises(BadIndex, match=r"notes.duckdb is damaged. Move it away"):
        Index(copy).sql("FROM classes")
