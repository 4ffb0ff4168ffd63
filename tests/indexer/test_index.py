"""The numbers of an index against direct computations: plain hooks, brute-force rankings, exact quantiles."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
import tensorstore
import torch
import xarray
import zarr
from conftest import Reference
from numpy.typing import NDArray
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query.index import Index
from vitdex.schemas.run_spec import Maps
from vitdex.schemas.storage.map_codes import decode_map


def maps_of(reference: Reference, layer: str) -> NDArray[np.float32]:
    """[image, neuron, patch], CLS left out."""
    return reference.fc1[layer][:, 1:].transpose(0, 2, 1)


def within_uint8(values: NDArray[np.float32], truth: NDArray[np.float32]) -> bool:
    span = truth.max(-1, keepdims=True) - truth.min(-1, keepdims=True)
    ulp = np.spacing(np.abs(truth).max(-1, keepdims=True))
    return bool((np.abs(values - truth) <= span / 510 + 1e-5 * span + 2 * ulp).all())


def test_every_map_of_every_layer_equals_plain_hooks(sample: Index, reference: Reference) -> None:
    assert sample.sql("SELECT path FROM images ORDER BY image_id").path.tolist() == reference.paths
    for layer in reference.fc1:
        truth = maps_of(reference, layer)
        group = sample.arrays[layer]
        assert within_uint8(decode_map(group["map"][:], group["min"][:], group["max"][:]), truth)
        np.testing.assert_allclose(group["max"][:], truth.max(2), atol=2e-5)
        np.testing.assert_allclose(group["min"][:], truth.min(2), atol=2e-5)
        np.testing.assert_allclose(group["mean"][:], truth.mean(2, dtype=np.float64), atol=1e-5)
        np.testing.assert_allclose(group["cls"][:], reference.fc1[layer][:, 0], atol=2e-5)
        post = torch.nn.functional.gelu(torch.from_numpy(truth)).mean(2).numpy()
        np.testing.assert_allclose(group["post_mean"][:], post, atol=1e-5)
        at_argmax = np.take_along_axis(truth, group["argmax"][:].astype(int)[..., None], 2)[..., 0]
        np.testing.assert_allclose(at_argmax, truth.max(2), atol=2e-5)
        top = np.take_along_axis(reference.fc1[layer], group["token_top"][:].astype(int), 2)
        np.testing.assert_allclose(top, -np.sort(-reference.fc1[layer], 2)[..., :5], atol=2e-5)
        assert (group["max_by_neuron"][:] == group["max"][:].T).all()
    np.testing.assert_allclose(sample.arrays["logits"][:], reference.logits, atol=1e-4)


def test_a_map_by_name_is_the_map_of_the_hooks(sample: Index, reference: Reference) -> None:
    for image, unit in ((0, 0), (137, 5), (479, 767)):
        truth = maps_of(reference, "blocks.3.mlp.fc1")[image, unit]
        assert within_uint8(sample.map("blocks.3.mlp.fc1", unit, image).reshape(-1), truth)


def test_exemplars_are_the_brute_force_ranking_of_every_neuron(sample: Index) -> None:
    for layer in (a.name for a in sample.spec.layers):
        high = sample.arrays[layer]["max"][:]
        patch = sample.arrays[layer]["argmax"][:]
        ids = np.arange(len(high))
        rows = sample.sql(
            "SELECT unit, side, rank, image_id, patch, pre FROM exemplars WHERE layer = ? AND token = 'patch' "
            "ORDER BY side, unit, rank", [layer]
        )  # fmt: skip
        for side, sign, k in (("top", -1, 100), ("bottom", 1, 20)):
            best = np.stack([np.lexsort((ids, sign * column))[:k] for column in high.T])
            found = rows[rows.side == side]
            assert found.image_id.to_numpy().reshape(-1, k).tolist() == best.tolist()
            units = np.arange(high.shape[1])[:, None]
            assert (found.patch.to_numpy().reshape(-1, k) == patch[best, units]).all()
            assert (found.pre.to_numpy().reshape(-1, k) == high[best, units]).all()
        cls = sample.arrays[layer]["cls"][:]
        rows = sample.sql(
            "SELECT image_id FROM exemplars WHERE layer = ? AND token = 'cls' ORDER BY unit, rank", [layer]
        )
        best = np.stack([np.lexsort((ids, -column))[:20] for column in cls.T])
        assert rows.image_id.to_numpy().reshape(-1, 20).tolist() == best.tolist()


def test_thresholds_stand_at_their_rank(sample: Index, reference: Reference) -> None:
    for layer in reference.fc1:
        values = np.sort(maps_of(reference, layer).transpose(1, 0, 2).reshape(768, -1), 1)
        found = sample.sql("SELECT q001, q50, q90, q99, q995, q999 FROM neurons WHERE layer = ? ORDER BY unit", [layer])
        for name, share, allowed in (("q99", 0.99, 5e-5), ("q995", 0.995, 5e-5), ("q999", 0.999, 5e-5),
                                     ("q90", 0.9, 5e-3), ("q50", 0.5, 5e-3), ("q001", 0.001, 1e-3)):  # fmt: skip
            for unit, threshold in enumerate(found[name].to_numpy()):
                below = np.searchsorted(values[unit], threshold, "left") / values.shape[1]
                upto = np.searchsorted(values[unit], threshold, "right") / values.shape[1]
                assert max(below - share, share - upto, 0) <= allowed, (layer, unit, name)


def test_moments_and_dead_neurons(sample: Index, reference: Reference) -> None:
    for layer in reference.fc1:
        values = maps_of(reference, layer).transpose(1, 0, 2).reshape(768, -1).astype(np.float64)
        found = sample.sql("FROM neurons WHERE layer = ? ORDER BY unit", [layer])
        np.testing.assert_allclose(found.pre_mean, values.mean(1), atol=1e-5)
        np.testing.assert_allclose(found.pre_std, values.std(1), rtol=1e-4)
        np.testing.assert_allclose(found.positive_share, (values > 0).mean(1), atol=1e-4)
        dead = reference.fc1[layer].max((0, 1)) <= 0
        assert found.dead.tolist() == dead.tolist()


def test_selectivity_and_means_of_a_class(sample: Index, reference: Reference) -> None:
    rows = sample.sql("SELECT * FROM class_activations WHERE layer = 'blocks.5.mlp.fc1' AND class_id = 3 ORDER BY unit")
    label = sample.sql("SELECT class FROM classes WHERE class_id = 3")["class"][0]
    mine = np.array([p.startswith(f"{label}/") for p in reference.paths])
    high = sample.arrays["blocks.5.mlp.fc1/max"][:]
    for unit in range(0, 768, 7):
        a, b = high[mine, unit][:, None], high[~mine, unit][None]
        assert rows.auroc[unit] == pytest.approx(((a > b) + 0.5 * (a == b)).mean(), abs=1e-6)
    np.testing.assert_allclose(rows.mean_max, high[mine].mean(0), atol=1e-5)
    assert set(rows.n) == {int(mine.sum())}


def test_predictions_are_the_models(sample: Index, reference: Reference) -> None:
    images = sample.sql("FROM images ORDER BY image_id")
    assert images.predicted.tolist() == reference.logits.argmax(1).tolist()
    share = torch.from_numpy(reference.logits).softmax(1).numpy()
    np.testing.assert_allclose(images.p_class, share[np.arange(len(share)), images.class_id], atol=1e-4)
    assert (images.predicted == images.class_id).mean() > 0.8  # the sample's model knows the sample


def test_open_formats_agree(sample: Index, sample_path: Path) -> None:
    layer = "blocks.2.mlp.fc1"
    mine = sample.arrays[layer]["map"][:]
    plain = zarr.open_array(sample_path / "activations.zarr" / layer / "map", mode="r")
    assert (plain[:] == mine).all()
    store = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(sample_path / "activations.zarr" / layer / "map")},
        }
    ).result()
    assert (np.asarray(store.read().result()) == mine).all()
    with xarray.open_zarr(sample_path / "activations.zarr", group=layer) as data:
        assert data["map"].dims == ("image", "neuron", "patch")
        assert (data["map"].values == mine).all()
        assert (data["max"].values == sample.arrays[layer]["max"][:]).all()
    query = "SELECT sum(pre), count(*) FROM exemplars WHERE unit = 9"
    with duckdb.connect(str(sample_path / "index.duckdb"), read_only=True) as db:
        assert db.execute(query).fetchall()[0] == tuple(sample.sql(query).iloc[0])


@pytest.mark.parametrize("maps", ["float16", "exemplars", "none"])
def test_other_ways_to_keep_maps(maps: Maps, tmp_path: Path, reference: Reference) -> None:
    out = build(sample_request(tmp_path / "x", maps=maps, limit=120, part_images=50, device="cpu"), Quiet())
    layer = "blocks.4.mlp.fc1"
    truth = maps_of(reference, layer)[:120]
    with Index(out) as index:
        if maps == "none":
            with pytest.raises(Exception, match="stores no maps"):
                index.map(layer, 3, 7)
            return
        if maps == "float16":
            assert (np.abs(index.arrays[layer]["map"][:] - truth) <= np.abs(truth) * 2**-11 + 1e-4).all()
            np.testing.assert_allclose(index.map(layer, 3, 7).reshape(-1), truth[7, 3], rtol=2**-11, atol=1e-4)
            return
        codes = index.arrays[layer]["exemplar_map"][:]
        for unit in range(768):
            ids = index.exemplars(layer, unit, 100).image_id.to_numpy() if unit % 97 == 0 else None
            if ids is not None:
                low, high = truth[ids, unit].min(1), truth[ids, unit].max(1)
                assert within_uint8(decode_map(codes[unit], low, high), truth[ids, unit])
        best, worst = index.exemplars(layer, 5, 100).image_id, set(range(120))
        assert within_uint8(index.map(layer, 5, int(best[0])).reshape(-1), truth[best[0], 5])
        with pytest.raises(Exception, match="is not among them"):
            index.map(layer, 5, min(worst - set(best)))
