"""What lies on the background: shares, chance and marks, against the reference's activations and the files of masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SAMPLE, Reference
from numpy.typing import NDArray
from PIL import Image
from vitdex.query.dissect.concepts import mask_drawings
from vitdex.query.dissect.context import _other_masks, _outside, class_context
from vitdex.query.dissect.masks import Masks, open_masks
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError


def direct_covers(reference: Reference) -> NDArray[np.float64]:
    """Every mask's share of every patch, from the files: [image, patch]."""
    files = [SAMPLE / "masks" / Path(path).with_suffix(".png") for path in reference.paths]
    opened = [Image.open(file).convert("L").resize((96, 96), Image.Resampling.NEAREST) for file in files]
    pixels = np.stack([np.asarray(one) for one in opened])
    covers: NDArray[np.float64] = (pixels > 0).reshape(-1, 8, 12, 8, 12).mean((2, 4)).reshape(-1, 64)
    return covers


def test_context_equals_the_model(sample: Index, reference: Reference) -> None:
    masks = open_masks(sample)
    row: Any = class_context(sample, masks, k=3, by="folded", seed=4).set_index("class").loc["bird"]
    covers, ids = direct_covers(reference), [i for i, p in enumerate(reference.paths) if p.startswith("bird/")]
    energy, active, said = np.zeros((40, 64)), np.zeros((40, 1)), np.zeros((40, 64))
    neurons: list[Any] = list(sample.key_neurons("bird", 3, "folded").itertuples())
    for one in neurons:
        values = reference.fc1[str(one.layer)][ids][:, 1:, one.unit]
        positive = values.clip(0)
        some = positive.sum(1) > 0
        energy[some] += positive[some] / positive[some].sum(1, keepdims=True)
        active[some] += 1
        gelu = torch.nn.functional.gelu(torch.from_numpy(values)).numpy()
        said += (gelu * one.folded).clip(0)
    does = active[:, 0] > 0
    assert 2 < does.sum() < 40  # three neurons of bird are silent on most of its images
    assert (row.images, row.silent, row.neurons) == (does.sum(), (~does).sum(), 3)
    where = {"energy": (energy / active.clip(1))[does], "contribution": said[does] / said[does].sum(1, keepdims=True)}
    ids = [i for i, one in zip(ids, does, strict=True) if one]
    background = (1 - covers[ids]).mean(1)
    assert row.background == pytest.approx(background.mean())
    for name, of in where.items():
        shares = (of * (1 - covers[ids])).sum(1)
        assert row[f"{name}_outside"] == pytest.approx(shares.mean(), abs=0.005)  # maps are bytes
        prefix = "energy_" if name == "energy" else ""
        assert row[f"{prefix}se"] == pytest.approx(np.std(shares, ddof=1) / len(ids) ** 0.5, abs=0.002)
        over = []
        for drawing in mask_drawings(masks, 4):
            other = covers[[drawing[i] for i in ids]]
            over.append(((of * (1 - other)).sum(1) - (1 - other).mean(1)).mean())
        assert len(over) == 19
        assert row[f"{prefix}chance"] == pytest.approx(background.mean() + max(over), abs=0.005)
    share, bar = row.contribution_outside, max(row.background, row.chance)
    assert row.lives_from_background == (share > bar)


def test_a_class_on_the_background_lives_from_it(sample: Index) -> None:
    """With what is object and background exchanged, the classes that look at the object live from the background."""
    masks = open_masks(sample)

    class Exchanged(Masks):
        def object(self, image_id: int) -> NDArray[np.bool_] | None:
            seen = super().object(image_id)
            return None if seen is None else ~seen

    own = class_context(sample, masks, k=5)
    other = class_context(sample, Exchanged(sample, masks.folder, None), k=5)
    np.testing.assert_allclose(own.contribution_outside + other.contribution_outside, 1, atol=1e-6)
    np.testing.assert_allclose(own.background + other.background, 1, atol=1e-6)
    assert {*other[other.lives_from_background]["class"]} >= {"building", "fruit", "hand", "letter"}
    assert "sign" in own[own.lives_from_background]["class"].tolist()
    assert not (own.lives_from_background & other.lives_from_background).any()


def test_what_has_nothing_to_do_with_the_masks_seldom_passes() -> None:
    """At most one class in twenty: of 600 no more than 45 (the 0.99 quantile of chance is 43)."""
    draw, passed = np.random.default_rng(3), 0
    for _ in range(30):
        rows, columns = np.indices((8, 8))
        centres, sizes = draw.uniform(1, 7, (200, 2)), draw.uniform(1, 3.5, 200)
        discs = [
            ((rows - y) ** 2 + (columns - x) ** 2 < size**2).reshape(-1)
            for (y, x), size in zip(centres, sizes, strict=True)
        ]
        covers = np.array(discs, np.float32)
        where = draw.gamma(0.3, size=(200, 64)) + 1e-9
        where /= where.sum(1, keepdims=True)
        orders = [draw.permutation(200) for _ in range(19)]
        others = np.array([np.roll(order, 1)[np.argsort(order)] for order in orders])
        for own in np.arange(200).reshape(20, 10):
            row = _outside({"contribution": where[own]}, covers, own, others)
            passed += bool(row["lives_from_background"])
    assert passed <= 45


def test_no_image_gets_its_own_mask(sample: Index) -> None:
    others = _other_masks(open_masks(sample), 1)
    assert others.shape == (19, 480)
    assert (np.sort(others, 1) == np.arange(480)).all()
    assert not (others == np.arange(480)).any()


def test_images_without_anything_positive_are_left_out_and_counted() -> None:
    where = {name: np.array([[1.0, 0.0], [np.nan, np.nan], [0.5, 0.5]]) for name in ("energy", "contribution")}
    covers = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    row = _outside(where, covers, np.array([0, 1, 2]), np.array([[3, 0, 1, 2]]))
    assert (row["images"], row["silent"], row["background"]) == (2, 1, 0.75)
    assert row["contribution_outside"] == pytest.approx((1 + 1) / 2)
    assert row["chance"] == pytest.approx(0.75 + ((0 - 0.5) + (0 - 0)) / 2)
    assert row["lives_from_background"]
    nothing = _outside({"contribution": np.full((1, 2), np.nan)}, covers, np.array([1]), np.zeros((0, 4), int))
    assert np.isnan(nothing["contribution_outside"])
    assert not nothing["lives_from_background"]


def test_classless_masks_are_said(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = open_masks(sample)
    masks.__dict__["images"] = masks.images.assign(class_id=pd.array([pd.NA] * 480, "Int64"))
    with pytest.raises(QueryError, match="^no image with a mask has a class. Name the folders of images by class"):
        class_context(sample, masks)
    monkeypatch.setattr(sample, "spec", replace(sample.spec, classes=0))
    with pytest.raises(QueryError, match="its model has no head"):
        class_context(sample, masks)
