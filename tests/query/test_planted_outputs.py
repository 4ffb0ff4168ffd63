"""What is written into a folder is written there: never through a link that stands under a temporary name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from vitdex.query.commands.output import save_picture, save_table
from vitdex.query.export.clip_dissect import export_clip_dissect
from vitdex.query.export.milan import export_milan
from vitdex.query.export.tables import export_tables
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError
from vitdex.schemas.storage.atomic_files import write_file

LAYER = "blocks.0.mlp.fc1"
TABLE = pd.DataFrame({"a": [1]})
WRITERS: dict[str, Callable[[Index, Path], object]] = {
    "a.csv": lambda index, out: save_table(TABLE, out / "a.csv"),
    "a.json": lambda index, out: save_table(TABLE, out / "a.json"),
    "a.parquet": lambda index, out: save_table(TABLE, out / "a.parquet"),
    "a.png": lambda index, out: save_picture(Image.new("RGB", (4, 4)), out / "a.png"),
    "a.svg": lambda index, out: save_picture(Figure(), out / "a.svg"),
    "classes.csv": lambda index, out: export_tables(index, out, "csv", ["classes"]),
    "classes.parquet": lambda index, out: export_tables(index, out, "parquet", ["classes"]),
    "schema.sql": lambda index, out: export_tables(index, out, "csv", ["classes"]),
    "images.txt": lambda index, out: export_clip_dissect(index, out, [LAYER], ["mean"], "p", "m"),
    f"mean/p_m_{LAYER}.pt": lambda index, out: export_clip_dissect(index, out, [LAYER], ["mean"], "p", "m"),
    "manifest.json": lambda index, out: write_file(out / "manifest.json", b"{}"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_file_is_written_through_a_link(name: str, sample: Index, tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_bytes(b"precious")
    target = out / name
    target.parent.mkdir(parents=True)
    partial = target.with_name(f".{target.name}.partial")
    for planted in (partial, target.with_name(f"tmp_{partial.name}"), target.with_name(f"tmp_{target.name}")):
        planted.symlink_to(victim)
    if target.suffix in (".sql", ".txt", ".pt"):  # which replace what is there without a look
        target.symlink_to(victim)
    WRITERS[name](sample, out)
    assert victim.read_bytes() == b"precious"
    assert target.stat().st_size > 0
    assert not target.is_symlink()
    assert not partial.is_symlink()


def test_an_exemplar_set_is_not_written_through_a_link(sample: Index, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (tmp_path / "set.unfinished").symlink_to(outside)
    with pytest.raises(QueryError, match=r"set.unfinished is in the way: a link or a file. Move"):
        export_milan(sample, tmp_path / "set", [LAYER], units=[0])
    assert [f.name for f in outside.iterdir()] == ["precious"]
