"""Insertion and deletion against passes of the reference model over pictures that the tests make themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import Reference
from matplotlib.colors import to_rgba
from matplotlib.text import Text
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query.commands.main import cli
from vitdex.query.drawing.faithfulness_figure import faithfulness_figure
from vitdex.query.heatmaps import faithfulness
from vitdex.query.heatmaps.faithfulness import ORDERINGS, insertion_deletion
from vitdex.query.heatmaps.views import Shown
from vitdex.query.index import Index
from vitdex.query.lookups.class_images import drawn_images
from vitdex.query.model.partial_images import by_patch, patch_of_pixels
from vitdex.schemas.errors import QueryError

COIN, PATCHES, SIDE = 2, 64, 12  # 8 x 8 patches of 12 x 12 pixels
Doubles = NDArray[np.float64]


def input_of(sample: Index, image_id: int) -> Doubles:
    return np.asarray(sample.arrays["inputs"][image_id]).astype(np.float64) / 255


def probability(reference: Reference, image: Doubles) -> float:
    """Of coin, for an image of 0 to 1."""
    pixels = torch.from_numpy(((image - 0.5) / 0.5).transpose(2, 0, 1)[None]).float()
    with torch.no_grad():
        return float(reference.model(pixels)[0].double().softmax(0)[COIN])


def with_patches(image: Doubles, baseline: Doubles, shown: list[int]) -> Doubles:
    """The baseline with some patches of the image."""
    out = baseline.copy()
    for patch in shown:
        y, x = patch // 8 * SIDE, patch % 8 * SIDE
        out[y : y + SIDE, x : x + SIDE] = image[y : y + SIDE, x : x + SIDE]
    return out


def baseline_of(image: Doubles, kind: str) -> Doubles:
    if kind == "grey":
        return np.full_like(image, 0.5)
    blurred: Doubles = gaussian_filter(image, (SIDE, SIDE, 0), mode="nearest", truncate=3.0)
    return blurred


def planted(order: list[int]) -> Any:
    """In place of every view: two neurons whose sum is largest on these patches, in their order."""
    values = np.zeros(PATCHES, np.float32)
    values[order] = np.arange(len(order), 0, -1)
    other = np.random.default_rng(1).normal(size=PATCHES).astype(np.float32)
    both = np.stack([values + other, -other]).reshape(1, 2, 8, 8)
    return lambda *asked: Shown(both, (), "planted")


@pytest.mark.parametrize("kind", ["blur", "grey"])
def test_curves_and_areas_are_those_of_passes_made_by_hand(
    sample: Index, reference: Reference, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """A map that orders known patches, put in from none to all and taken out from all to none."""
    order = np.random.default_rng(4).permutation(PATCHES).tolist()
    monkeypatch.setattr(faithfulness, "compute", planted(order))
    counts = [0, 13, 26, 38, 51, 64]
    found = insertion_deletion(sample, "coin", 2, views=["effect"], images=3, steps=5, baseline=kind, random=0)
    ids = drawn_images(sample, COIN, 3, 0)[0].tolist()
    inserted, deleted = np.empty((3, 6)), np.empty((3, 6))
    for row, image_id in enumerate(ids):
        image = input_of(sample, image_id)
        baseline = baseline_of(image, kind)
        inserted[row] = [probability(reference, with_patches(image, baseline, order[:n])) for n in counts]
        deleted[row] = [probability(reference, with_patches(baseline, image, order[:n])) for n in counts]
    # a pass reads what is deleted from the end: 64 - 51 = 13, 64 - 38 = 26, ...
    for measure, direct in (("insertion", inserted), ("deletion", deleted)):
        curve = found.curves[found.curves.measure == measure]
        np.testing.assert_allclose(curve.probability, direct.mean(0), atol=1e-5)
        np.testing.assert_allclose(curve.se, direct.std(0, ddof=1) / 3**0.5, atol=1e-5)
        np.testing.assert_allclose(curve.share, np.array(counts) / 64)
        area = np.trapezoid(direct, np.array(counts) / 64, axis=1)
        of_view: Any = found.areas[found.areas.measure == measure].iloc[0]
        np.testing.assert_allclose([of_view.area, of_view.se], [area.mean(), area.std(ddof=1) / 3**0.5], atol=1e-5)
        assert (of_view.n, of_view.passes, of_view.flat) == (3, False, 0)
        assert np.isnan(of_view.random)
    stored = sample.sql("SELECT p_class FROM images WHERE list_contains(?, image_id)", [ids]).p_class.mean()
    first, last = found.curves.query("measure == 'insertion'").probability.iloc[[0, -1]]
    assert last == pytest.approx(stored, abs=1e-4)
    assert first == pytest.approx(found.curves.query("measure == 'deletion'").probability.iloc[-1])


def test_every_view_orders_by_its_sum_over_the_neurons(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """On patches as they are, by pixel as the mean over each patch; the centre needs no neuron."""
    asked: dict[str, Doubles] = {}
    run = faithfulness._Run._map

    def kept(self: Any, view: Any, *rest: Any) -> Doubles:
        asked[view] = run(self, view, *rest)
        return asked[view]

    monkeypatch.setattr(faithfulness._Run, "_map", kept)
    found = insertion_deletion(sample, "coin", 2, layer="blocks.4.mlp.fc1", images=1, steps=2, random=0)
    assert found.areas["view"].tolist() == [*ORDERINGS, *ORDERINGS]
    image = drawn_images(sample, COIN, 1, 0)[0].tolist()
    ranked = sample.key_neurons("coin", 2, layer="blocks.4.mlp.fc1")
    neurons = [("blocks.4.mlp.fc1", int(unit)) for unit in ranked.unit]
    for view in ("map", "post", "grad-times-activation", "effect", "contribution"):
        direct = sample.heatmaps(neurons, image, view, "coin").values[0].sum(0).reshape(-1)
        np.testing.assert_allclose(asked[view], direct, rtol=1e-5, atol=1e-7)
    for view in ("neuron-gradient", "logit-gradient"):
        pixels = sample.heatmaps(neurons, image, view, "coin").values[0].sum(0)  # type: ignore[arg-type]
        direct = pixels.reshape(8, SIDE, 8, SIDE).mean((1, 3)).reshape(-1)
        np.testing.assert_allclose(asked[view], direct, rtol=1e-4)
    assert set(np.argsort(-asked["centre"], kind="stable")[:4].tolist()) == {27, 28, 35, 36}
    assert set(np.argsort(asked["centre"], kind="stable")[:4].tolist()) == {0, 7, 56, 63}


def test_pixels_that_do_not_divide_evenly_belong_to_one_patch() -> None:
    patches = patch_of_pixels((2, 3), (5, 7))
    assert patches.shape == (5, 7)
    assert np.bincount(patches.reshape(-1)).tolist() == [9, 6, 6, 6, 4, 4]
    means = by_patch(patches.astype(np.float32), (2, 3))
    assert means.tolist() == [0, 1, 2, 3, 4, 5]


def test_random_orders_are_the_null(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes: better than all of them, larger for insertion and smaller for deletion. The object first is better."""
    order = np.argsort(-_covers(sample)).tolist()
    for planned, passes in ((order, True), (order[::-1], False)):
        monkeypatch.setattr(faithfulness, "compute", planted(planned))
        found = insertion_deletion(sample, "coin", 2, views=["map"], images=6, steps=8, random=5, seed=2)
        assert found.areas.passes.tolist() == [passes, passes]
        for _, row in found.areas.iterrows():
            assert row.random_low < row.random < row.random_high
            beyond = row.area > row.random_high if row.measure == "insertion" else row.area < row.random_low
            assert row.passes == beyond
    inserted, deleted = (found.curves[found.curves.measure == m] for m in ("insertion", "deletion"))
    assert found.areas.random_high[0] == found.areas.random_high[1]
    for column in ("random", "random_low", "random_high"):
        assert inserted[column].tolist() == deleted[column].tolist()[::-1]
    assert inserted.random_low.iloc[3] < inserted.random.iloc[3] < inserted.random_high.iloc[3]
    # a random order lies between the two of the object first and last
    low, high = sorted(found.areas.area)
    assert low < found.areas.random[0] < high


def _covers(sample: Index) -> Doubles:
    """How much of each patch the objects of the drawn images cover, on the mean."""
    from vitdex.query.dissect.masks import open_masks

    covers: Doubles = open_masks(sample).covers(drawn_images(sample, COIN, 6, 2)[0].tolist()).mean(0)
    return covers


def test_a_map_without_order_gets_a_random_one(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the order in which patches are read, which would begin with the background."""
    ask: dict[str, Any] = {"views": ["effect"], "images": 4, "steps": 8, "random": 0}
    monkeypatch.setattr(faithfulness, "compute", planted(list(range(PATCHES))))
    in_order = insertion_deletion(sample, "coin", 2, **ask).areas
    monkeypatch.setattr(faithfulness, "compute", lambda *asked: Shown(np.zeros((1, 2, 8, 8), np.float32), (), "flat"))
    by_chance = insertion_deletion(sample, "coin", 2, **ask).areas
    assert in_order.flat.tolist() == [0, 0]
    assert by_chance.flat.tolist() == [1, 1]
    assert abs(by_chance.area - in_order.area).min() > 0.01


def test_the_last_block_of_a_head_on_cls_is_flat(sample: Index) -> None:
    """Its patches reach no logit."""
    ask: dict[str, Any] = {"layer": "blocks.5.mlp.fc1", "views": ["effect", "map"], "images": 1, "steps": 2}
    assert insertion_deletion(sample, "coin", 1, random=0, **ask).areas.flat.tolist() == [1, 0, 1, 0]


def test_all_classes_are_each_judged_by_their_own_neurons(sample: Index) -> None:
    ask: dict[str, Any] = {"views": ["contribution"], "images": 1, "steps": 2, "random": 1}
    every = insertion_deletion(sample, None, 1, **ask).areas
    single = [insertion_deletion(sample, c, 1, **ask).areas for c in range(12)]
    assert every.n.tolist() == [12, 12]
    np.testing.assert_allclose(every.area, np.mean([one.area for one in single], 0))
    np.testing.assert_allclose(every.random, np.mean([one.random for one in single], 0))


def test_progress_counts_every_pass(sample: Index) -> None:
    told: list[tuple[int, int]] = []
    insertion_deletion(
        sample, "coin", 1, views=["map", "centre"], images=2, steps=4, random=3,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    passes = 2 * (2 + (2 * 2 + 3) * 3)
    assert told[-1] == (passes, passes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"views": ["glow"]}, "no view 'glow'. One of map, post"),
        ({"views": []}, "no view to judge"),
        ({"baseline": "noise"}, "no baseline 'noise'. One of blur, grey"),
        ({"steps": 1}, "steps is 1; at least 2"),
        ({"random": -1}, "random is -1"),
        ({"by": "loud"}, "no ranking by 'loud'"),
        ({"layer": "blocks.9.mlp.fc1"}, "blocks.9.mlp.fc1"),
        ({"class_": "nothing"}, "no class 'nothing'"),
    ],
)
def test_what_cannot_be_asked(sample: Index, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(QueryError, match=told):
        insertion_deletion(sample, **({"class_": "coin"} | asked))


def test_an_index_without_inputs_is_told_so(tmp_path: Path) -> None:
    out = build(sample_request(tmp_path / "bare.vitdex", limit=45, inputs=False, device="cpu", workers=0), Quiet())
    with Index(out) as index, pytest.raises(QueryError, match="this index stores no inputs"):
        insertion_deletion(index, "bird")


def test_the_command(sample_path: Path, tmp_path: Path) -> None:
    words = ["faithfulness", str(sample_path), "--class", "coin", "-k", "1", "--images", "2", "--steps", "4"]
    words += ["--random", "2", "--view", "effect", "--view", "centre", "-o", str(tmp_path / "coin.png")]
    out = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert out.exit_code == 0
    assert "Probability of coin as patches are put into its images, or taken out" in out.stderr
    assert "its first neuron by contribution: n = 2 images, 4 steps." in out.stderr
    assert "Beside 2 random orders of each image. Nothing but the baseline (blur): 0." in out.stderr
    assert (tmp_path / "coin.png").exists()
    out = CliRunner().invoke(cli, [*words[:-2], "--curves", "--csv"], catch_exceptions=False)
    rows = out.stdout.splitlines()
    assert rows[0].startswith("measure,view,step,share,probability,se,random,random_low,random_high,n")
    assert len(rows) == 1 + 2 * 2 * 5


def test_the_figure_has_a_line_a_view_and_a_band() -> None:
    """Dashed where random orders do as well; the legends have the areas."""
    views = ["map", "effect", "centre"]
    areas = pd.DataFrame(
        [{"measure": m, "view": v, "area": 0.25 + i / 8, "random": 0.5, "passes": i == 1}
         for m in ("insertion", "deletion") for i, v in enumerate(views)]
    )  # fmt: skip
    curves = pd.DataFrame(
        [{"measure": m, "view": v, "step": s, "share": s / 4, "probability": s * (i + 1) / 12, "random": s / 4,
          "random_low": s / 5, "random_high": s / 4 + 0.1}
         for m in ("insertion", "deletion") for i, v in enumerate(views) for s in range(5)]
    )  # fmt: skip
    figure = faithfulness_figure(areas, curves, "What is shown.")
    for axis in figure.axes:
        lines = {line.get_label(): line for line in axis.get_lines()}
        assert [*lines] == ["map 0.250", "effect 0.375", "centre 0.500", "random orders 0.500"]
        assert [line.get_linestyle() for line in lines.values()] == ["--", "-", "--", "-"]
        drawn: Any = lines["effect 0.375"].get_ydata()
        np.testing.assert_allclose(drawn, np.arange(5) / 6)
        assert to_rgba(lines["centre 0.500"].get_color()) == to_rgba("black")  # of no neuron
        assert len(axis.collections) == 1
        assert any("solid: better than\nall random orders" in text.get_text() for text in axis.findobj(Text))
    bare = faithfulness_figure(areas, curves.assign(random=np.nan, random_low=np.nan, random_high=np.nan))
    assert all(len(axis.get_lines()) == 3 and not axis.collections for axis in bare.axes)
    assert {line.get_linestyle() for axis in bare.axes for line in axis.get_lines()} == {"-"}
