"""Regions above any quantile, empty ones, and whose masks come first; focus against chance."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLE, Reference
from numpy.typing import NDArray
from PIL import Image
from vitdex.query import class_focus, class_regions, open_masks, region_unions, regions_figure
from vitdex.query.dissect.captions import of_regions
from vitdex.query.dissect.catalogue import ANALYSES
from vitdex.query.dissect.focus import _focus, _Measured, _of_other_masks, _of_random_neurons
from vitdex.query.drawing.upsample import smooth
from vitdex.query.index import Index
from vitdex.query.model.map_quantiles import map_quantiles
from vitdex.query.stored.maps import stored_maps
from vitdex.schemas.errors import QueryError

LAST, BEFORE = "blocks.5.mlp.fc1", "blocks.4.mlp.fc1"
REGIONS = next(analysis.ask for analysis in ANALYSES if analysis.name == "regions")


def all_values(index: Index, layer: str, unit: int) -> NDArray[np.float64]:
    """A neuron's values on all patches of all images, as the maps hold them."""
    ids = list(range(index.spec.images))
    return stored_maps(index.reader, index.spec, layer, [unit], ids).reshape(-1).astype(np.float64)


@pytest.mark.parametrize("share", [0.95, 0.9999, 0.5, 0.3, 0.002, 0.99999, 0.000001])
def test_a_quantile_that_is_not_stored_is_exact(share: float, sample: Index, reference: Reference) -> None:
    units = {BEFORE: np.array([473]), LAST: np.array([16, 3, 700])}
    found = map_quantiles(sample, units, share)
    for layer, chosen in units.items():
        for unit, value in zip(chosen, found[layer], strict=True):
            direct = np.quantile(all_values(sample, layer, unit), share, method="hazen")
            assert value == pytest.approx(direct, rel=1e-5)
            model = np.quantile(reference.fc1[layer][:, 1:, unit], share, method="hazen")
            assert value == pytest.approx(model, abs=0.03)  # maps are bytes


def test_neurons_take_turns_and_say_how_far_they_are(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    units = {BEFORE: np.array([473, 9, 12]), LAST: np.array([16, 3])}
    whole = map_quantiles(sample, units, 0.97)
    monkeypatch.setattr("vitdex.query.model.map_quantiles.TAIL_VALUES", 2_000)  # two neurons' largest values
    monkeypatch.setattr("vitdex.query.model.map_quantiles.MAPS_AT_ONCE", 64 * 50)
    told: list[tuple[int, int]] = []
    some = map_quantiles(sample, units, 0.97, lambda done, total: told.append((done, total)))
    assert told == [(done, 3 * len(sample.spec.parts)) for done in range(1, 3 * len(sample.spec.parts) + 1)]
    for layer, values in whole.items():
        assert np.array_equal(values, some[layer])


def test_unreadable_images_count_in_no_quantile(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    valid = np.ones(sample.spec.images, bool)
    valid[100:] = False
    monkeypatch.setattr(sample.reader, "whole", lambda name: valid)
    found = map_quantiles(sample, {LAST: np.array([16])}, 0.95)[LAST]
    direct = np.quantile(all_values(sample, LAST, 16)[: 100 * 64], 0.95, method="hazen")
    assert found[0] == pytest.approx(direct, rel=1e-5)


def test_regions_above_any_quantile_are_pixel_exact(sample: Index) -> None:
    told: list[tuple[int, int]] = []
    found = class_regions(sample, "coin", 2, threshold="q93", progress=lambda *at: told.append(at))
    assert told[-1] == (len(sample.spec.parts), len(sample.spec.parts))
    for row in found.itertuples():
        values: Any = row
        limit = np.quantile(all_values(sample, values.layer, values.unit), 0.93, method="hazen")
        assert values.threshold == pytest.approx(limit, rel=1e-5)
        active = smooth(sample.map(values.layer, values.unit, values.image_id)[None], 96, 96)[0] > values.threshold
        assert values.cover == active.mean()


@pytest.mark.parametrize(("one", "other"), [("q99.5", "q995"), ("q990", "q99"), ("q9300", "q93"), ("q500", "q50")])
def test_digits_after_the_first_two_are_decimals(one: str, other: str, sample: Index) -> None:
    ours, theirs = (class_regions(sample, "coin", 2, threshold=name) for name in (one, other))
    assert ours.equals(theirs)


def test_what_is_stored_is_not_computed(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("vitdex.query.dissect.region_rules.map_quantiles")
    stored = class_regions(sample, "coin", 3, threshold="q90")
    first = stored.iloc[0]
    limits = sample.sql("SELECT q90 FROM neurons WHERE layer = ? AND unit = ?", [str(first.layer), int(first.unit)])
    assert first.threshold == np.float32(limits.q90[0])


@pytest.mark.parametrize("wrong", ["q", "q9", "q00", "q000", "q9x", "q99.5.1", "q-95", "q٩٩", "Q99"])
def test_what_is_no_quantile_is_refused(wrong: str, sample: Index) -> None:
    with pytest.raises(QueryError, match=r"no threshold '.*'. One of qNN, .*q95 is 0.95.*, or image:P"):
        class_regions(sample, "coin", threshold=wrong)


@pytest.mark.parametrize("maps", ["none", "exemplars"])
def test_without_all_maps_it_says_what_is_missing(maps: Any, sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "spec", replace(sample.spec, maps=maps))
    with pytest.raises(QueryError, match=r"no quantile 0.95 here: .* maps of all images. Take q001, .*--maps uint8"):
        class_regions(sample, "coin", threshold="q95")


@pytest.mark.parametrize("threshold", ["q99", "q97", "image:80"])
def test_empty_regions_are_counted(threshold: str, sample: Index) -> None:
    single = class_regions(sample, "fruit", 10, "score", threshold)
    together = region_unions(sample, "fruit", by="score", threshold=threshold)
    assert (single["empty"] == ((single.cover == 0) | single.negative)).all()
    for top in (1, 3, 10):
        direct = single[single["rank"] <= top].groupby("image_id")["empty"].sum()
        rows = together[together.top == top].set_index("image_id")
        assert rows["empty"].to_dict() == direct.to_dict()
        assert ((rows.cover == 0) >= (rows["empty"] == top)).all()
    text = " ".join(of_regions(sample, "fruit", "score", threshold, False, together).split())
    none = [int((together[together.top == top].cover == 0).sum()) for top in (1, 3, 10)]
    words = f"Empty regions: {none[0]} of the top 1, {none[1]} of the top 3, {none[2]} of the top 10; "
    assert f"{words}{single['empty'].sum()} of 400 of one neuron on one image." in text
    text = of_regions(sample, "fruit", "score", threshold, True, single)
    assert f"{single['empty'].sum()} of 400 regions of one neuron on one image are empty." in text
    negative = single[single["rank"] <= 10].groupby("rank").negative.first().sum()
    assert (f"{negative} of 10 neurons have a negative threshold" in text) == (negative > 0)
    assert 0 < single["empty"].sum() < 400


def test_images_with_a_mask_come_first(sample: Index, tmp_path: Path) -> None:
    for number in ("031", "007"):
        file = tmp_path / "coin" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        shutil.copy(SAMPLE / "masks" / "coin" / f"{number}.png", file)
    figure = regions_figure(sample, "coin", (1, 10), masks=open_masks(sample, tmp_path), images=4)
    grid = np.array(figure.axes[:12]).reshape(3, 4)
    for axis, name in zip(grid[0], ("007", "031", "000", "001"), strict=True):
        image_id = sample.image_id(f"coin/{name}.jpg")
        shown = np.asarray(axis.images[0].get_array())
        np.testing.assert_allclose(shown, np.asarray(sample.arrays["inputs"][image_id]) / 255, atol=1e-6)
    assert [len(axis.collections) > 0 for axis in grid[2]] == [True, True, False, False]  # the object's edge
    title = " ".join(figure.get_suptitle().split())
    assert "4 of 40 images, those with a mask first (2), then the lowest numbers first" in title
    blank = sum(bool((np.asarray(a.images[0].get_array()).std(-1) < 1e-6).all()) for a in grid[1:].reshape(-1))
    assert f"; {blank} of 8 regions are empty." in title
    assert blank > 0


def test_the_command_takes_any_quantile(sample: Index, tmp_path: Path) -> None:
    answer = REGIONS(sample, "coin", threshold="q95")
    assert "above q95" in answer.caption
    answer.draw().savefig(tmp_path / "regions.png")
    assert Image.open(tmp_path / "regions.png").width > 500


def test_chance_of_focus_is_that_of_other_masks_and_of_shuffled_heads(sample: Index, reference: Reference) -> None:
    masks = open_masks(sample)
    row: Any = class_focus(sample, masks, random=39, seed=4, threshold="q95").set_index("class").loc["tool"]
    ids = [i for i, path in enumerate(reference.paths) if path.startswith("tool/")]
    covers = []
    for i in ids:
        mask = masks.object(i)
        assert mask is not None
        covers.append(mask.reshape(8, 12, 8, 12).mean((1, 3)).reshape(-1))

    def energy(unit: int, order: list[int], layer: str) -> float:
        shares = []
        for image, other in zip(ids, order, strict=True):
            positive = reference.fc1[layer][image, 1:, unit].clip(0)
            if positive.sum() > 0:
                shares.append((positive * covers[other]).sum() / positive.sum())
        return float(np.mean(shares)) if shares else float("nan")

    own = list(range(len(ids)))
    assert row.energy == pytest.approx(energy(row.unit, own, row.layer), abs=0.01)
    class_id, drawn = int(row.class_id), []
    draw = np.random.default_rng((4, class_id, 1))
    for _ in range(19):
        ring = draw.permutation(len(ids)).tolist()
        other = dict(zip(ring, [*ring[-1:], *ring[:-1]], strict=True))
        assert all(other[i] != i for i in own)
        drawn.append(energy(row.unit, [other[i] for i in own], row.layer))
    assert row.chance_masks == pytest.approx(max(drawn), abs=0.01)
    head, shuffle, energies = sample.reader.whole("head"), np.random.default_rng(4), []
    key = sample.sql("SELECT block, unit, contribution, folded FROM key_neurons WHERE class = 'tool'")
    folded = sample.reader.whole("folded_vectors")[key.block, key.unit]
    np.testing.assert_allclose(folded @ head[class_id], key.folded, atol=1e-4)
    for _ in range(19):
        other_row = head[class_id][shuffle.permutation(192)]
        found = key.iloc[int(np.argmax(folded @ other_row * key.contribution / key.folded))]
        energies.append(energy(int(found.unit), own, f"blocks.{int(found.block)}.mlp.fc1"))
    assert row.chance_neurons == pytest.approx(max(energies), abs=0.01)
    assert row.chance == max(row.chance_masks, row.chance_neurons)
    limit = np.quantile(all_values(sample, row.layer, row.unit), 0.95, method="hazen")
    regions = [smooth(sample.map(row.layer, row.unit, i)[None], 96, 96)[0] > limit for i in ids]
    assert row["empty"] == (40 if limit < 0 else sum(not region.any() for region in regions))


def test_what_passes_is_above_chance_and_the_masks_share(sample: Index) -> None:
    passed = set()
    for by in ("contribution", "score"):
        table = class_focus(sample, open_masks(sample), by, random=2)
        assert (table.passes == ((table.energy > table.chance) & (table.energy > table.mask_share))).all()
        passed |= {*table.passes}
    assert passed == {True, False}
    few = class_focus(sample, open_masks(sample), "auroc", random=18)
    assert few.chance_neurons.isna().all()
    assert few.chance.isna().all()
    assert not few.passes.any()


@pytest.mark.parametrize(("share", "passes"), [(0.3, True), (0.6, False)])
def test_what_is_below_the_masks_share_does_not_pass(share: float, passes: bool) -> None:
    energy = np.array([[0.5, 0.1], [0.5, 0.2]])  # [image, neuron]: the first, and one found by chance
    none, own, cover = np.zeros((2, 2)), np.eye(2) + 1e-3, np.eye(2)  # other masks lie elsewhere
    measured = _Measured(none, energy, none, none > 0, own, cover, np.full(2, share))
    row = _focus(measured, np.array(["first", "found"], object), np.random.default_rng(0))
    assert (row["chance_masks"], row["chance_neurons"]) == pytest.approx((1e-3, 0.15))
    assert (row["energy"], row["passes"]) == (0.5, passes)


def test_one_image_has_no_other_mask(sample: Index, tmp_path: Path) -> None:
    (tmp_path / "coin").mkdir()
    shutil.copy(SAMPLE / "masks" / "coin" / "000.png", tmp_path / "coin")
    row = class_focus(sample, open_masks(sample, tmp_path)).iloc[0]
    assert (row["class"], row.images) == ("coin", 1)
    assert np.isnan(row.chance_masks)
    assert not row.passes


@pytest.mark.parametrize(("count", "some"), [(18, 0), (19, 1), (38, 1), (39, 2), (50, 2), (99, 5)])
def test_one_in_twenty_equal_neurons_is_above_the_others(count: int, some: int) -> None:
    values = np.random.default_rng(count).uniform(size=count + 1)
    above = [value > _of_random_neurons(np.delete(values, i)) for i, value in enumerate(values)]
    assert sum(above) == some <= (count + 1) / 20
    assert _of_random_neurons(np.append(values, np.nan)) == _of_random_neurons(values) or some == 0


def test_maps_that_follow_no_mask_pass_once_in_twenty() -> None:
    draw, passed = np.random.default_rng(8), 0
    for _ in range(200):
        maps, covers = draw.dirichlet(np.ones(16), 12), draw.uniform(size=(12, 16))
        energy = maps @ covers.T
        passed += np.diag(energy).mean() > _of_other_masks(energy, draw) + 1e-9
    assert 1 <= passed <= 20  # of 200 at 1 in 20: more in one of 500 such tests
