"""The Parquet file for Embedding Atlas holds what the index says, computed here in another way."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import vitdex
from numpy.typing import NDArray
from PIL import Image
from vitdex.query import export_embedding_atlas
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.placing import points_of
from vitdex.query.drawing.colours import Scale
from vitdex.query.drawing.overlay import overlay
from vitdex.query.drawing.upsample import smooth
from vitdex.query.export.descriptions import import_descriptions
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

UNITS = 768  # of a layer of the sample
LAYERS = 6


@pytest.fixture(scope="module")
def written(effects_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedding") / "neurons.parquet"
    with Index(effects_path) as index:
        told: list[tuple[int, int]] = []
        assert export_embedding_atlas(index, out, progress=lambda *of: told.append(of)) == LAYERS * UNITS
        assert told[-1][0] == told[-1][1]
        assert len(told) > LAYERS
    return out


@pytest.fixture(scope="module")
def rows(written: Path) -> pd.DataFrame:
    return read(f"FROM read_parquet('{written}')")


def read(query: str) -> pd.DataFrame:
    with duckdb.connect() as db:
        return db.execute(query).df()


def directions(index: Index) -> NDArray[np.float64]:
    vectors = [index.reader.chunk("value_vectors", place)[0] for place in range(LAYERS)]
    found: NDArray[np.float64] = np.concatenate(vectors).astype(np.float64)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def test_a_row_for_every_neuron_in_its_place(rows: pd.DataFrame, effects_path: Path, written: Path) -> None:
    assert rows.id.tolist() == [f"blocks.{b}.mlp.fc1:{u}" for b in range(LAYERS) for u in range(UNITS)]
    assert (rows.id == rows.layer + ":" + rows.unit.astype(str)).all()
    with Index(effects_path) as index:
        held = index.sql("FROM neurons ORDER BY layer, unit")
        for name in ("positive_share", "post_mean", "value_norm", "dead"):
            assert (rows[name] == held[name]).all(), name
        said = index.sql(
            "SELECT class, score FROM class_scores JOIN classes USING (class_id) WHERE rank_in_unit = 1 "
            "ORDER BY layer, unit"
        )
        assert rows.says.tolist() == said["class"].tolist()
        assert rows.text.tolist() == said["class"].tolist()
        assert (rows.score == said.score).all()
        for name, table in (("auroc", "class_activations"), ("effect", "class_effects")):
            values = index.sql(f"SELECT layer, unit, class, {name} FROM {table} JOIN classes USING (class_id)")
            best = values.groupby(["layer", "unit"])[name].max().to_numpy()
            assert (rows[name].to_numpy() == best).all()
            own = values.set_index(["layer", "unit", "class"])[name]
            keys = list(zip(rows.layer, rows.unit, rows[f"{name}_class"], strict=True))
            assert (own.loc[keys].to_numpy() == best).all()
    groups = read(f"SELECT DISTINCT row_group_id, row_group_num_rows FROM parquet_metadata('{written}')")
    assert len(groups) == 3
    assert groups.row_group_num_rows.max() == 2048


@pytest.mark.parametrize("space", ["vectors", "scores"])
def test_places_are_those_of_the_atlass_map(
    space: Literal["vectors", "scores"], rows: pd.DataFrame, effects_path: Path, tmp_path: Path
) -> None:
    with Index(effects_path) as index:
        shown = points_of(Atlas(index), space)
        if space == "scores":
            export_embedding_atlas(index, tmp_path / "scores.parquet", "scores")
            rows = read(f"SELECT x, y FROM '{tmp_path}/scores.parquet'")
    assert np.array_equal(rows[["x", "y"]].to_numpy(np.float32), shown)


def test_neighbours_are_the_nearest_by_cosine(rows: pd.DataFrame, effects_path: Path) -> None:
    with Index(effects_path) as index:
        unit = directions(index)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    for row in range(0, len(rows), 37):
        found = rows.neighbors[row]
        assert len(set(found["ids"])) == 10
        nearest = np.sort(cosines[row])[::-1][:10]
        np.testing.assert_allclose(found["distances"], 1 - nearest, atol=1e-5)
        np.testing.assert_allclose(cosines[row, found["ids"]], nearest, atol=1e-5)


def test_images_are_the_first_exemplar_under_its_map(rows: pd.DataFrame, effects_path: Path) -> None:
    with Index(effects_path) as index:
        for row in (0, 473, 16 + 5 * UNITS, len(rows) - 1):
            layer, unit = str(rows.layer[row]), int(rows.unit[row])
            first = index.exemplars(layer, unit, k=1).iloc[0]
            assert rows.image[row]["path"] == first.path
            values = index.map(layer, unit, int(first.image_id))
            low, high = index.sql("SELECT q001, q999 FROM neurons WHERE layer = ? AND unit = ?", [layer, unit]).iloc[0]
            scale = Scale(min(low, values.min(), 0), max(high, values.max(), 0))
            pixels = index.inputs([int(first.image_id)])[0]
            side = min(112, pixels.shape[0])
            small = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
            expected = overlay(small, smooth(values, side, side), scale).astype(float)
            shown = np.asarray(Image.open(BytesIO(rows.image[row]["bytes"]))).astype(float)
            assert shown.shape == expected.shape
            assert np.abs(shown - expected).mean() < 4  # what JPEG changes
            assert np.abs(shown - small).mean() > 8  # which the image alone would not be


def test_descriptions_are_the_text(sample_path: Path, tmp_path: Path) -> None:
    with Index(shutil.copytree(sample_path, tmp_path / "own.vitdex")) as index:
        for source, text in (("me", "coins, <b>round</b>"), ("milan", "edges")):
            (tmp_path / "said.csv").write_text(f'layer,unit,description\nblocks.5.mlp.fc1,16,"{text}"\n')
            import_descriptions(index, tmp_path / "said.csv", source)
        export_embedding_atlas(index, tmp_path / "n.parquet")
    found = read(f"SELECT text, says, * EXCLUDE (text, says) FROM '{tmp_path}/n.parquet'")
    assert "effect" not in found
    at = found.id == "blocks.5.mlp.fc1:16"
    assert found.text[at].tolist() == ["coins, <b>round</b>; edges"]
    assert (found.text[~at] == found.says[~at]).all()


def test_the_command_and_what_it_refuses(sample_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "neurons.parquet"
    ended = vitdex("export", "embedding-atlas", sample_path, out)
    assert ended.returncode == 0, ended.stderr
    assert "4,608 rows" in ended.stderr + ended.stdout
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
    for wrong in (tmp_path / "neurons.csv", tmp_path / "no" / "neurons.parquet", tmp_path):
        ended = vitdex("export", "embedding-atlas", sample_path, wrong)
        assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    with Index(sample_path) as index, pytest.raises(QueryError, match="no space 'image'"):
        export_embedding_atlas(index, out, "image")  # type: ignore[arg-type]
    assert len(read(f"SELECT id FROM '{out}'")) == 4608


def test_a_stopped_export_leaves_what_was_there(sample_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "neurons.parquet"
    out.write_bytes(b"PAR1 of yesterday")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with Index(sample_path) as index, pytest.raises(KeyboardInterrupt):
        export_embedding_atlas(index, out, progress=stop)
    assert out.read_bytes() == b"PAR1 of yesterday"
    assert [file.name for file in tmp_path.iterdir()] == [out.name]
