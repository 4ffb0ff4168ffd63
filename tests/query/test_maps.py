"""Upsampling against torch; maps read and maps computed anew against plain hooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Reference
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pad
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query.drawing.upsample import blocky, smooth
from vitdex.query.index import Index
from vitdex.query.model.map_source import MapSource
from vitdex.schemas.errors import QueryError
from vitdex.schemas.run_spec import Maps

LAYER = "blocks.3.mlp.fc1"


@pytest.mark.parametrize(("grid", "patch"), [((8, 8), 12), ((3, 5), 16), ((16, 7), 14)])
def test_smooth_is_torchs_on_a_repeated_border(grid: tuple[int, int], patch: int) -> None:
    maps = np.random.default_rng(0).normal(-3, 1, (2, 4, *grid)).astype(np.float32)
    ringed = pad(torch.from_numpy(maps), (1, 1, 1, 1), mode="replicate")
    larger = interpolate(ringed, scale_factor=patch, mode="bilinear", align_corners=False)
    direct = larger[..., patch:-patch, patch:-patch]
    np.testing.assert_allclose(smooth(maps, grid[0] * patch, grid[1] * patch), direct.numpy(), atol=1e-5)


def test_smooth_at_a_size_of_no_whole_patches() -> None:
    maps = np.random.default_rng(0).normal(-3, 1, (2, 3, 5)).astype(np.float32)
    direct = interpolate(torch.from_numpy(maps)[None], size=(50, 77), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(smooth(maps, 50, 77), direct.numpy(), atol=1e-5)


def test_blocky_is_torchs_nearest() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    direct = interpolate(torch.from_numpy(maps)[None], size=(50, 77), mode="nearest-exact")[0]
    whole = blocky(maps, 48, 80)
    np.testing.assert_array_equal(whole, np.repeat(np.repeat(maps, 16, 1), 16, 2))
    assert (blocky(maps, 50, 77) == direct.numpy()).mean() > 0.95  # a boundary inside a pixel goes to either side


def direct_maps(reference: Reference, layer: str, units: list[int], ids: list[int]) -> NDArray[np.float32]:
    return reference.fc1[layer][ids, 1:][..., units].transpose(0, 2, 1).reshape(len(ids), len(units), 8, 8)


@pytest.fixture(scope="session")
def small_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sample's first images with no maps, with exemplars' maps, and with float16 maps."""
    folder = tmp_path_factory.mktemp("small")
    # more images than a neuron keeps exemplars, for one
    limits: dict[Maps, int] = {"none": 40, "exemplars": 104, "float16": 40}
    return {
        maps: build(sample_request(folder / f"{maps}.vitdex", maps=maps, limit=limit, device="cpu"), Quiet())
        for maps, limit in limits.items()
    }


@pytest.mark.parametrize("maps", ["none", "exemplars", "float16"])
def test_maps_are_the_same_however_they_are_kept(maps: str, small_paths: dict[str, Path], reference: Reference) -> None:
    units, ids = [5, 700, 5, 41], [39, *range(30), 39]
    with Index(small_paths[maps]) as index:
        found = MapSource(index)(LAYER, units, ids)
    direct = direct_maps(reference, LAYER, units, ids)
    span = np.ptp(direct, axis=(2, 3), keepdims=True)
    tolerance = {"none": 1e-4, "exemplars": span / 500, "float16": np.abs(direct) / 1000 + 1e-4}[maps]
    assert (np.abs(found - direct) <= tolerance).all()


def test_stored_maps_are_index_map(sample: Index) -> None:
    units, ids = [700, 5], [479, 3, 101]
    one_by_one = [[sample.map(LAYER, unit, i) for unit in units] for i in ids]
    np.testing.assert_array_equal(MapSource(sample)(LAYER, units, ids), np.array(one_by_one))


def test_a_map_that_is_not_stored(small_paths: dict[str, Path], reference: Reference) -> None:
    rows = "SELECT image_id, activation_map(?, 5, image_id) AS map FROM images"
    maxima = reference.fc1[LAYER][:104, 1:, 5].max(1)
    with Index(small_paths["exemplars"]) as index:
        found = index.sql(rows, [LAYER])
        absent = np.argsort(-maxima, kind="stable")[100:]
        assert found.image_id[found["map"].isna()].tolist() == sorted(absent.tolist())
        kept = found[found["map"].notna()]
        direct = reference.fc1[LAYER][kept.image_id, 1:, 5]
        assert (np.abs(np.stack(kept["map"].tolist()) - direct) <= np.ptp(direct, axis=1, keepdims=True) / 500).all()
        with pytest.raises(QueryError, match=f"top 100 images, and {absent[0]} is not among them. Index again"):
            index.map(LAYER, 5, int(absent[0]))
    with Index(small_paths["none"]) as index:
        for ask in (lambda: index.sql(rows, [LAYER]), lambda: index.map(LAYER, 5, 0)):
            with pytest.raises(QueryError, match=r"^this index stores no maps. Index again with --maps uint8"):
                ask()


def test_only_missing_maps_load_torch(sample_path: Path, small_paths: dict[str, Path]) -> None:
    code = (
        "import sys; from vitdex.query import Index, MapSource; i = Index(sys.argv[1]); "
        "best = i.exemplars('blocks.3.mlp.fc1', 5, k=3); MapSource(i)('blocks.3.mlp.fc1', [5], best.image_id); "
        "assert 'torch' not in sys.modules"
    )
    for path in (sample_path, small_paths["exemplars"]):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
