"""The data of the atlas's pages says what the index answers when it is asked in another way."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from other_models import GATED, MODELS, index_of
from PIL import Image
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.columns import SHOWN
from vitdex.query.atlas.files import data_file
from vitdex.query.index import Index
from vitdex.query.lookups.class_images import class_images
from vitdex.query.notes.database import writing
from vitdex.schemas.errors import QueryError
from vitdex.schemas.run_spec import Side

NEURONS = 50


@pytest.fixture(scope="module")
def atlas(effects_path: Path) -> Iterator[Atlas]:
    with Index(effects_path) as index:
        yield Atlas(index)


def page(atlas: Atlas, address: str) -> Any:
    return json.loads(data_file(atlas, f"data/{address}.json").content)


def array(text: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind)


def pictures(content: bytes) -> list[NDArray[np.uint8]]:
    (count,) = struct.unpack_from("<I", content)
    lengths = struct.unpack_from(f"<{count}I", content, 4)
    ends = 4 * (count + 1) + np.cumsum(lengths)
    assert ends[-1] == len(content)
    return [
        np.asarray(Image.open(BytesIO(content[end - n : end]))) for end, n in zip(ends.tolist(), lengths, strict=True)
    ]


@pytest.fixture(scope="module")
def chosen(atlas: Atlas) -> list[tuple[int, str, int]]:
    """Random neurons: the place of the layer, its name, the unit."""
    layers = atlas.index.spec.layers
    random = np.random.default_rng(18)
    places = random.integers(0, len(layers), NEURONS).tolist()
    return [(place, layers[place].name, int(random.integers(0, layers[place].units))) for place in places]


def test_a_neurons_numbers_are_the_indexs(atlas: Atlas, chosen: list[tuple[int, str, int]]) -> None:
    index = atlas.index
    for place, layer, unit in chosen:
        found = page(atlas, f"neuron/{place}/{unit}")
        row = index.sql("SELECT * FROM neurons WHERE layer = ? AND unit = ?", [layer, unit]).iloc[0]
        for name, value in {**found["statistics"], **found["thresholds"]}.items():
            assert np.float32(value) == row[name], name
        maxima = np.asarray(index.arrays[f"{layer}/max"][:, unit])
        counts, edges = np.histogram(maxima, len(found["histogram"]["counts"]))
        assert found["histogram"]["counts"] == counts.tolist()
        assert [found["histogram"]["low"], found["histogram"]["high"]] == pytest.approx([edges[0], edges[-1]])
        assert ("dead" in found["flags"]) == row.dead


def test_a_neurons_exemplars_and_maps_are_the_indexs(atlas: Atlas, chosen: list[tuple[int, str, int]]) -> None:
    index = atlas.index
    sides: dict[Side, int] = SHOWN
    for place, layer, unit in chosen:
        found = page(atlas, f"neuron/{place}/{unit}")
        for side, k in sides.items():
            rows, told = index.exemplars(layer, unit, k, side), found["exemplars"][side]
            for name, column in (("image", "image_id"), ("patch", "patch")):
                assert told[name] == rows[column].tolist()
            for name in ("pre", "post"):
                assert np.array_equal(np.array(told[name], np.float32), rows[name].to_numpy(np.float32))
            assert index.effects is not None
            own_effects = index.effects.of_neuron(layer, unit)  # of all images, a row each
            assert np.array_equal(np.float32(told["effect"]), own_effects[told["image"]])
            for image_id, coded in zip(told["image"], told["map"], strict=True):
                low, high = np.float32(coded["min"]), np.float32(coded["max"])
                share = array(coded["codes"], "u1").astype(np.float32) / 255
                own = index.map(layer, unit, image_id).ravel()
                np.testing.assert_allclose(low * (1 - share) + high * share, own, atol=1e-6 * float(high - low))
                assert found["images"][str(image_id)]["path"] == index.sql("FROM images").path[image_id]


def test_a_neurons_classes_are_the_indexs(atlas: Atlas, chosen: list[tuple[int, str, int]]) -> None:
    index = atlas.index
    for place, layer, unit in chosen:
        found = page(atlas, f"neuron/{place}/{unit}")
        rows = index.sql("FROM key_neurons WHERE layer = ? AND unit = ? ORDER BY class_id", [layer, unit])
        assert set(found["classes"]) == {"score", "probability", "cosine", "folded", "contribution", "auroc", "effect"}
        for by, told in found["classes"].items():
            values = rows[by].to_numpy(np.float32)
            order = np.argsort(-values, kind="stable")
            assert [c for c, _ in told["for"]] + [c for c, _ in told["against"]][::-1] == order.tolist()
            for class_id, value in told["for"] + told["against"]:
                assert np.float32(value) == values[class_id]
        loudest = Index(index.layout.root).classes_of(layer, unit, 1)
        assert found["says"] == loudest.class_id[0]


def test_the_nearest_neurons_are_those_of_a_plain_search(atlas: Atlas) -> None:
    index = atlas.index
    vectors = np.concatenate(list(np.asarray(index.arrays["value_vectors"], np.float64)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [(place, unit) for place, layer in enumerate(index.spec.layers) for unit in range(layer.units)]
    rows = index.sql("FROM exemplars WHERE side = 'top' AND token = 'patch'")
    places = {layer.name: place for place, layer in enumerate(index.spec.layers)}
    sets = rows.groupby([rows.layer.map(places), "unit"]).image_id.agg(set)
    for place, unit in ((4, 473), (0, 5), (5, 16)):
        found, own = page(atlas, f"neuron/{place}/{unit}")["near"], names.index((place, unit))
        cosines = vectors @ vectors[own]
        cosines[own] = -2
        nearest = [names[i] for i in np.argsort(-cosines)[:8]]
        assert [(p, u) for p, u, *_ in found["vectors"]] == nearest
        assert [value for _, _, value, _ in found["vectors"]] == pytest.approx(np.sort(cosines)[::-1][:8], abs=1e-5)
        shared = np.array([len(sets[name] & sets[place, unit]) for name in names])
        shared[own] = -1
        best = np.argsort(-shared, kind="stable")[:8]
        assert [(p, u, n) for p, u, n, _ in found["images"]] == [(*names[i], shared[i]) for i in best]
        assert (found["shared"], found["chance"]) == (100, round(100 * 100 / 480, 1))


def test_a_class_is_the_indexs(atlas: Atlas) -> None:
    index = Index(atlas.index.layout.root)
    for class_id in range(index.spec.classes):
        found = page(atlas, f"class/{class_id}")
        for by, told in found["rankings"].items():
            rows = index.key_neurons(class_id, 100, by)
            layers = [index.spec.layers[place].name for place, _, _ in told["neurons"]]
            assert layers == rows.layer[: len(layers)].tolist()
            assert [unit for _, unit, _ in told["neurons"]] == rows.unit[: len(layers)].tolist()
            assert [np.float32(v) for _, _, v in told["neurons"]] == rows[by][: len(layers)].tolist()
            counts = {index.spec.layers[place].name: n for place, n in told["layers"]}
            assert counts == rows.layer.value_counts().to_dict()
        images = class_images(index, class_id)
        assert found["own"]["image"] == images.image_id.tolist()
        assert dict(map(tuple, found["answers"])) == images.predicted.value_counts().to_dict()
        assert found["name"] == index.class_name(class_id)
    head = np.asarray(index.arrays["head"], np.float64)
    centred = head - head.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = centred @ centred[2]
    near = page(atlas, "class/2")["near"]
    assert [c for c, _ in near] == [c for c in np.argsort(-cosines) if c != 2][:8]
    assert [cosine for _, cosine in near] == pytest.approx([cosines[c] for c, _ in near], abs=1e-6)
    index.close()


def test_an_image_is_the_indexs(atlas: Atlas) -> None:
    index = atlas.index
    for image_id in np.random.default_rng(0).integers(0, index.spec.images, 20).tolist():
        found = page(atlas, f"image/{image_id}")
        logits = np.asarray(index.arrays["logits"][image_id], np.float64)
        shares = np.exp(logits) / np.exp(logits).sum()
        assert [c for c, _ in found["answers"]] == np.argsort(-shares)[:5].tolist()
        assert [p for _, p in found["answers"]] == pytest.approx(np.sort(shares)[::-1][:5], abs=1e-5)
        for layer in found["layers"]:
            name = index.spec.layers[layer["layer"]].name
            units = array(layer["units"], "<u2").reshape(found["tops"])
            assert np.array_equal(units, np.asarray(index.arrays[f"{name}/token_top"][image_id]))
            says = index.sql(
                "SELECT class_id FROM class_scores WHERE layer = ? AND rank_in_unit = 1 ORDER BY unit", [name]
            )
            assert np.array_equal(array(layer["says"], "<u2").reshape(found["tops"]), says.class_id.to_numpy()[units])


def test_a_layer_has_each_neurons_largest_values(atlas: Atlas) -> None:
    found = page(atlas, "layer/3")["neurons"]
    rows = atlas.index.sql("FROM key_neurons WHERE layer = 'blocks.3.mlp.fc1' ORDER BY unit, class_id")
    for by in ("auroc", "effect"):
        best = rows.loc[rows.groupby("unit")[by].idxmax()]
        assert np.array_equal(np.array(found[by], np.float32), best[by].to_numpy(np.float32))
        assert found[f"{by}_class"] == best.class_id.tolist()


def test_pictures_are_those_of_the_page_in_its_order(atlas: Atlas) -> None:
    index = atlas.index
    told = page(atlas, "neuron/4/473")["exemplars"]
    order = list(dict.fromkeys(i for side in ("top", "quantile", "bottom") for i in told[side]["image"]))
    found = pictures(data_file(atlas, "data/neuron/4/473.jpgs").content)
    assert len(found) == len(order)
    for image_id, small in zip(order, found, strict=True):
        own = index.inputs([image_id])[0].astype(int)
        assert small.shape == own.shape  # 96 pixels: they keep their size
        assert np.abs(small.astype(int) - own).mean() < 12
    of_class = page(atlas, "class/2")
    assert len(pictures(data_file(atlas, "data/class/2.jpgs").content)) == len(of_class["images"])
    whole = np.asarray(Image.open(BytesIO(data_file(atlas, "data/image/17.jpg").content)))
    assert np.abs(whole.astype(int) - index.inputs([17])[0]).mean() < 6


def test_notes_are_shown_as_they_are(effects_path: Path, tmp_path: Path) -> None:
    shutil.copytree(effects_path, tmp_path / "own.vitdex")
    with Index(tmp_path / "own.vitdex") as index:
        atlas = Atlas(index)
        assert page(atlas, "neuron/1/7")["descriptions"] == []
        text = "<script>alert(1)</script>\u202e\n"
        rows = {"layer": ["blocks.1.mlp.fc1"], "unit": [7], "source": ["me"], "description": [text]}
        with writing(index.layout) as db:
            db.register("frame", pd.DataFrame(rows))
            db.execute("INSERT INTO descriptions BY NAME FROM frame")
        (said,) = page(atlas, "neuron/1/7")["descriptions"]
        assert said == {"source": "me", "description": text, "note": None}
        assert page(atlas, "search")["descriptions"] == [[1, 7, "me", text]]


@pytest.mark.parametrize(
    "address",
    [
        "neuron/6/0.json", "neuron/0/768.json", "neuron/0/768.jpgs", "class/12.json", "class/12.jpgs",
        "image/480.json", "image/480.jpg", "layer/6.json", "neuron/0/-1.json", "neuron/0/0.json/", "../manifest.json",
        "neuron/٣/0.json", "neuron/0/0.JSON", "start.json\n", "",
    ],
)  # fmt: skip
def test_there_is_nothing_at_other_addresses(address: str, atlas: Atlas) -> None:
    with pytest.raises(QueryError):
        data_file(atlas, f"data/{address}")


@pytest.mark.parametrize("what", ["no pictures, no maps", "exemplars' maps", "no head", "gated"])
def test_pages_of_indexes_that_hold_less(what: str, tmp_path: Path) -> None:
    less: dict[str, dict[str, Any]] = {
        "no pictures, no maps": {"maps": "none", "inputs": False},
        "exemplars' maps": {"maps": "exemplars"},
    }
    more = less.get(what, {})
    name, settings = GATED if what == "gated" else MODELS["LayerScale, registers"]
    if what == "no head":
        settings = {**settings, "num_classes": 0}
    with Index(index_of(name, settings, tmp_path, 56 if what == "gated" else 64, **more)) as index:
        atlas = Atlas(index)
        start = page(atlas, "start")
        for address in ("search", "about", "map", "layer/1", "neuron/1/3", "image/4"):
            page(atlas, address)
        told = page(atlas, "neuron/1/3")
        assert len(told["exemplars"]["top"]["image"]) == 9
        assert all(m is None for m in told["exemplars"]["top"]["map"]) == (what == "no pictures, no maps")
        assert start["pictures"] == ("inputs" not in more)
        if what == "no head":
            assert (set(told["classes"]), told["says"], start["rankings"]) == ({"auroc"}, -1, [])
        else:
            assert page(atlas, "class/0")["name"] == index.class_name(0)
        if not start["pictures"]:
            with pytest.raises(QueryError, match="stores no inputs"):
                data_file(atlas, "data/neuron/1/3.jpgs")
