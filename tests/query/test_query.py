"""Questions to the sample's index against direct computations on the reference."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import Reference
from vitdex.query.index import Index
from vitdex.query.lookups.key_neurons import RANKINGS, Ranking
from vitdex.query.model.live_model import open_model
from vitdex.schemas.errors import QueryError


def test_live_maps_equal_the_model(sample: Index, reference: Reference) -> None:
    live = open_model(sample)
    maps = live.maps("blocks.3.mlp.fc1", [5, 700], [0, 99, 479])
    direct = reference.fc1["blocks.3.mlp.fc1"][[0, 99, 479], 1:][..., [5, 700]].transpose(0, 2, 1)
    np.testing.assert_allclose(maps.reshape(3, 2, -1), direct, rtol=1e-4, atol=1e-5)


def test_key_neurons_are_the_largest(sample: Index) -> None:
    scores = sample.sql("SELECT layer, unit, cosine FROM class_scores WHERE class_id = 3")
    best = scores.sort_values(["cosine", "layer", "unit"], ascending=[False, True, True]).head(7)
    found = sample.key_neurons(3, k=7, by="cosine")
    assert found["rank"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found[["layer", "unit"]].values.tolist() == best[["layer", "unit"]].values.tolist()
    assert set(sample.key_neurons("coin", layer="blocks.2.mlp.fc1").block) == {2}


@pytest.mark.parametrize("by", [by for by in RANKINGS if by != "effect"])  # of which this index has none
@pytest.mark.parametrize("layer", [None, "blocks.1.mlp.fc1"])
def test_key_neurons_are_rows_of_the_view(sample: Index, by: Ranking, layer: str | None) -> None:
    view = sample.sql("FROM key_neurons WHERE class = 'sign' AND (? IS NULL OR layer = ?)", [layer, layer])
    best = view.sort_values([by, "block", "unit"], ascending=[False, True, True]).head(9).reset_index(drop=True)
    found = sample.key_neurons("sign", 9, by, layer)
    pd.testing.assert_frame_equal(found.drop(columns="rank"), best, check_dtype=False)


def test_classes_and_images_by_name_or_number(sample: Index) -> None:
    coin = int(sample.sql("SELECT class_id FROM classes WHERE class = 'coin'").class_id[0])
    assert sample.class_id("Coin") == sample.class_id(coin) == sample.class_id(str(coin)) == coin
    path = sample.sql("SELECT path FROM images WHERE image_id = 17").path[0]
    assert sample.image_id(path) == sample.image_id("17") == sample.image_id(17) == 17


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda i: i.class_id("coyn"), "no class 'coyn'. Did you mean coin"),
        (lambda i: i.class_id(12), "no class 12. Classes count from 0 to 11."),
        (lambda i: i.image_id("nothing.jpg"), "no image 'nothing.jpg'. Did you mean"),
        (lambda i: i.image_id("017.jpg"), "several images end in '017.jpg'"),
        (lambda i: i.image_id(480), "no image 480. Images count from 0 to 479."),
        (lambda i: i.key_neurons("coin", by="size"), "no ranking by 'size'. One of score"),
        (lambda i: i.key_neurons("coin", layer="block.2.mlp.fc1"), "no layer 'block.2.mlp.fc1'. Did you mean"),
    ],
)
def test_unknown_names_get_the_nearest(sample: Index, ask: object, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        ask(sample)  # type: ignore[operator]
