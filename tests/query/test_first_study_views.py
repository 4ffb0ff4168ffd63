"""The first study's views against the reference model: torch's GELU and interpolate, NumPy's percentile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import SAMPLE, Reference
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import gelu, interpolate
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query import class_focus, class_regions, concept_overlaps, open_masks, region_unions, regions_figure
from vitdex.query.commands.main import cli
from vitdex.query.dissect.region_rules import region_rule
from vitdex.query.drawing.colours import COLOURS, Scale
from vitdex.query.index import Index
from vitdex.query.model.map_source import MapSource
from vitdex.schemas.errors import QueryError

LAYER, LAST = "blocks.4.mlp.fc1", "blocks.5.mlp.fc1"
PAIR = [(LAYER, 473), (LAST, 16)]
COIN, IMAGE = 2, 83

Floats = NDArray[np.float32]


def before(reference: Reference, layer: str, unit: int, image: int) -> Floats:
    return reference.fc1[layer][image, 1:, unit].reshape(8, 8)


def after(reference: Reference, layer: str, unit: int, image: int) -> Floats:
    """max(GELU(a), 0) on the patches of one image."""
    found: Floats = gelu(torch.from_numpy(before(reference, layer, unit, image))).clamp(min=0).numpy()
    return found


def upsampled(values: Floats) -> Floats:
    wide = interpolate(torch.from_numpy(values)[None, None], (96, 96), mode="bilinear", align_corners=False)
    found: Floats = wide[0, 0].numpy()
    return found


def direct_mask(path: str) -> NDArray[np.bool_]:
    mask = Image.open(SAMPLE / "masks" / Path(path).with_suffix(".png")).convert("L")
    side = min(mask.size)
    left, top = ((length - side) // 2 for length in mask.size)
    cut = mask.crop((left, top, left + side, top + side)).resize((96, 96), Image.Resampling.NEAREST)
    return np.asarray(cut) > 0


def byte_error(reference: Reference, layer: str, unit: int, image: int) -> float:
    """Of an activation out of a map in bytes: a 510th of the map's span before GELU, whose slope is at most 1.13."""
    return float(1.13 * np.ptp(before(reference, layer, unit, image)) / 500)


def same_share(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Pixels in both of the pixels in either."""
    return float((one & other).sum() / (one | other).sum()) if one.any() or other.any() else 1.0


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """The first forty images, fc1 and fc2, without any map."""
    out = tmp_path_factory.mktemp("bare") / "bare.vitdex"
    with Index(
        build(sample_request(out, maps="none", limit=40, layers=("fc1", "fc2"), device="cpu"), Quiet())
    ) as index:
        yield index


def test_post_is_after_gelu_with_negative_values_cut(sample: Index, reference: Reference) -> None:
    found = sample.heatmaps(PAIR, [IMAGE, 7], "post")
    assert found.title == "Activation on the patches, after GELU, negative values cut to 0"
    for column, (layer, unit) in enumerate(PAIR):
        for row, image in enumerate([IMAGE, 7]):
            direct = after(reference, layer, unit, image)
            error = byte_error(reference, layer, unit, image)
            np.testing.assert_allclose(found.values[row, column], direct, atol=error)
        q999 = np.quantile(reference.fc1[layer][:, 1:, unit], 0.999, method="hazen")
        assert found.scales[column].low == 0
        largest = max(gelu(torch.tensor(q999)).item(), float(found.values[:, column].max()))
        assert found.scales[column].high == pytest.approx(largest, rel=0.02)
    assert before(reference, LAYER, 473, IMAGE).min() < -1  # something was cut
    assert found.values.min() == 0


def test_a_neuron_that_is_rarely_positive_ends_at_its_largest_activation(sample: Index, reference: Reference) -> None:
    query = "SELECT layer, unit FROM neurons WHERE q999 < 0 AND dead = ? ORDER BY layer, unit LIMIT 1"
    (layer, unit), never = (tuple(sample.sql(query, [dead]).iloc[0]) for dead in (False, True))
    rarely, nowhere = sample.heatmaps([(layer, unit), never], [IMAGE], "post").scales
    largest = gelu(torch.tensor(reference.fc1[layer][:, 1:, unit].max())).item()
    assert largest > 0
    assert rarely.high == pytest.approx(largest, rel=1e-3)
    assert nowhere == Scale(0.0, 0.0)


def test_post_takes_the_models_own_nonlinearity(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MapSource(sample, device="cpu")
    monkeypatch.setattr(sample, "spec", replace(sample.spec, activation="SiLU"))
    layers = tuple(replace(layer, act=torch.nn.SiLU()) for layer in source.live.anatomy.layers)
    source.__dict__["live"] = replace(source.live, anatomy=replace(source.live.anatomy, layers=layers))
    values = np.linspace(-3, 3, 7, dtype=np.float32)
    silu = values / (1 + np.exp(-values))
    np.testing.assert_allclose(source.activated(LAYER, values), silu, rtol=1e-5, atol=1e-6)


def test_post_without_stored_maps_and_without_a_nonlinearity(bare: Index, sample: Index) -> None:
    stored, anew = sample.heatmaps(PAIR, [11, 39], "post"), bare.heatmaps(PAIR, [11, 39], "post", device="cpu")
    span = np.ptp(sample.heatmaps(PAIR, [11, 39]).values, axis=(2, 3), keepdims=True)
    assert stored.values.any()
    assert (np.abs(stored.values - anew.values) <= 1.13 * span / 500).all()
    with pytest.raises(QueryError, match="blocks.4.mlp.fc2 holds coordinates of the stream: no nonlinearity follows"):
        bare.heatmaps(["blocks.4.mlp.fc2:3"], [11], "post")


def test_a_scale_may_lie_beside_zero() -> None:
    above, below = Scale(2.0, 6.0), Scale(-6.0, -2.0)
    assert above(np.array([0, 2, 4, 6, 9], np.float32)).tolist() == [0, 0, 0.5, 1, 1]
    assert below(np.array([-9, -6, -4, -2, 0], np.float32)).tolist() == [-1, -1, -0.5, 0, 0]
    assert Scale(3.0, 3.0)(np.array([3], np.float32)).tolist() == [0]


@pytest.mark.parametrize("view", ["map", "post"])
def test_each_image_has_its_own_minimum_and_maximum(sample: Index, reference: Reference, view: Any) -> None:
    images = [IMAGE, 7, 103]
    found = sample.heatmaps(PAIR, images, view, scale="image")
    shown = after if view == "post" else before
    for row, image in enumerate(images):
        for column, (layer, unit) in enumerate(PAIR):
            direct = shown(reference, layer, unit, image)
            scale = found.scale(row, column)
            error = byte_error(reference, layer, unit, image)
            np.testing.assert_allclose([scale.low, scale.high], [direct.min(), direct.max()], atol=error)
    assert min(found.scale(row, 1).low for row in range(3)) <= 0 < max(found.scale(row, 1).low for row in range(3))
    assert found.notes[-1] == "Colours: each image's own minimum to maximum; they cannot be compared between images."
    assert found.values.tolist() == sample.heatmaps(PAIR, images, view).values.tolist()


@pytest.mark.parametrize("view", ["contribution", "grad-times-activation"])
def test_an_images_scale_keeps_zero_in_the_middle(sample: Index, view: Any) -> None:
    found = sample.heatmaps([(LAYER, 473)], [IMAGE, 80], view, "coin", "image")
    for row in range(2):
        largest = float(np.abs(found.values[row, 0]).max())
        assert found.scale(row, 0) == Scale(-largest, largest)
    assert found.notes[-1].startswith("Colours: ± each image's own largest value;")


def test_an_images_scale_of_a_gradient_leaves_single_pixels_out(sample: Index) -> None:
    found = sample.heatmaps([], [IMAGE, 80], "logit-gradient", "coin", "image")
    for row in range(2):
        scale = found.scale(row, 0)
        np.testing.assert_allclose([scale.low, scale.high], [0, np.quantile(found.values[row], 0.995)])
    assert "from 0 to the 0.995 quantile of each image's own pixels" in found.notes[-1]


def test_pictures_use_each_images_own_scale(sample: Index) -> None:
    """In both images the largest patch has the colour of the end, and every heatmap stands on its own legend."""
    images = [IMAGE, 87]
    own = sample.heatmaps([(LAST, 391)], images, "post", scale="image")
    shared = sample.heatmaps([(LAST, 391)], images, "post")
    for row in range(2):
        y, x = np.unravel_index(own.values[row, 0].argmax(), (8, 8))
        cell = np.asarray(own.overlay(row, 0, blocks=True))[y * 12 : y * 12 + 12, x * 12 : x * 12 + 12].astype(int)
        grey = 255 - 0.7 * (255 - own.images[row, y * 12 : y * 12 + 12, x * 12 : x * 12 + 12] @ [0.299, 0.587, 0.114])
        np.testing.assert_allclose(cell, 0.25 * grey[..., None] + 0.75 * np.array([178, 24, 43]), atol=1)
    assert own.picture().height > shared.picture().height
    assert np.asarray(own.overlay(1)).tolist() != np.asarray(shared.overlay(1)).tolist()


def test_a_neurons_region_lies_above_the_images_percentile(sample: Index, reference: Reference) -> None:
    table = class_regions(sample, "building", 3, threshold="image:80", masks=open_masks(sample))
    assert len(table) == 3 * 40
    assert not table.negative.any()
    covers = []
    for row in table.itertuples():
        layer, unit, image = str(row.layer), int(row.unit), int(row.image_id)  # type: ignore[arg-type]
        pixels = upsampled(after(reference, layer, unit, image))
        limit = np.percentile(pixels, 80)
        active, mask = pixels > limit, direct_mask(reference.paths[image])
        assert row.threshold == pytest.approx(limit, abs=byte_error(reference, layer, unit, image))
        assert row.cover == pytest.approx(active.mean(), abs=0.01)
        assert row.iou == pytest.approx(same_share(active, mask), abs=0.02)
        covers.append(active.mean())
    assert min(covers) == 0 < np.mean(covers) < 0.2 < max(covers) + 1e-3  # one is positive nowhere, one everywhere


def direct_union(reference: Reference, neurons: Any, top: int, image: int, percent: float) -> NDArray[np.bool_]:
    """The sum of the first neurons' maps above its own percentile."""
    maps = [after(reference, n.layer, n.unit, image) for n in neurons.head(top).itertuples()]
    total = upsampled(np.sum(maps, axis=0, dtype=np.float32))
    region: NDArray[np.bool_] = total > np.percentile(total, percent)
    return region


def test_neurons_together_are_summed(sample: Index, reference: Reference) -> None:
    table = region_unions(sample, "letter", (1, 3, 10), threshold="image:70", masks=open_masks(sample))
    neurons = sample.key_neurons("letter", 10)
    assert len(table) == 3 * 40
    assert (table.neurons == table.top).all()
    for row in table.itertuples():
        image = int(row.image_id)  # type: ignore[arg-type]
        direct = direct_union(reference, neurons, int(row.top), image, 70)  # type: ignore[arg-type]
        assert row.cover == pytest.approx(direct.mean(), abs=0.01)
        assert row.iou == pytest.approx(same_share(direct, direct_mask(reference.paths[image])), abs=0.02)


def test_the_image_is_shown_inside_the_region_alone(sample: Index, reference: Reference) -> None:
    figure = regions_figure(sample, "letter", (1, 10), "score", "image:80", open_masks(sample), 3, "image")
    neurons = sample.key_neurons("letter", 10, "score")
    ids = [i for i, path in enumerate(reference.paths) if path.startswith("letter/")][:3]
    grid = np.array(figure.axes).reshape(3, 3)
    for column, image in enumerate(ids):
        seen = np.asarray(sample.arrays["inputs"][image]) / np.float32(255)
        np.testing.assert_allclose(grid[0, column].images[0].get_array(), seen, atol=1e-6)
        for row, top in ((1, 1), (2, 10)):
            shown = np.asarray(grid[row, column].images[0].get_array())
            inside = np.asarray(shown.any(-1))
            direct = direct_union(reference, neurons, top, image, 80) & np.asarray(seen.any(-1))
            assert same_share(inside, direct) > 0.97
            np.testing.assert_allclose(shown[inside], seen[inside], atol=1e-6)
    title = " ".join(figure.get_suptitle().split())
    assert title.startswith("letter: first neurons by score, summed after GELU, negative values cut to 0, above the ")
    assert "above the image's own 80th percentile. 3 of 40 images, the lowest numbers first; the object's edge" in title
    assert [axis.get_ylabel() for axis in grid[:, 0]] == ["image", "top 1", "top 10"]


def test_a_pixel_has_the_colour_of_the_neuron_that_gives_most(sample: Index, reference: Reference) -> None:
    figure = regions_figure(sample, "letter", (3,), None, "image:80", None, 1)
    image = next(i for i, path in enumerate(reference.paths) if path.startswith("letter/"))
    neurons = sample.key_neurons("letter", 3)
    maps = np.stack([upsampled(after(reference, str(n.layer), int(n.unit), image)) for n in neurons.itertuples()])  # type: ignore[arg-type]
    region = direct_union(reference, neurons, 3, image, 80)
    light = np.asarray(sample.arrays["inputs"][image]).mean(-1, keepdims=True) / 255
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLOURS])[maps.argmax(0)]
    direct = np.where(region[..., None], 0.7 * colours + 0.3 * light, 0.45 * light)
    shown = np.asarray(figure.axes[1].images[0].get_array())
    assert (np.abs(shown - direct).max(-1) < 0.01).mean() > 0.99
    assert len({*maps.argmax(0)[region].tolist()}) > 1


def test_focus_takes_the_images_percentile(sample: Index, reference: Reference) -> None:
    masks = open_masks(sample)
    row: Any = class_focus(sample, masks, threshold="image:80", random=1).set_index("class").loc["flower"]
    usual = class_focus(sample, masks, random=1).set_index("class").loc["flower"]
    ids = [i for i, path in enumerate(reference.paths) if path.startswith("flower/")]
    ious = []
    for image in ids:
        pixels = upsampled(after(reference, row.layer, row["unit"], image))
        ious.append(same_share(pixels > np.percentile(pixels, 80), direct_mask(reference.paths[image])))
    assert row.iou == pytest.approx(np.mean(ious), abs=0.01)
    assert np.isnan(row.threshold)
    assert (row.energy, row.pointing) == (usual.energy, usual.pointing)


def test_network_dissection_refuses_it(sample: Index) -> None:
    with pytest.raises(QueryError, match="no threshold 'image:80' here: network dissection is defined by the neuron's"):
        concept_overlaps(sample, open_masks(sample), "image:80")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["q5", "image", "image:", "image:0", "image:100", "image:nan", "mask:80", "80"])
def test_wrong_thresholds_name_the_right_ones(sample: Index, wrong: str) -> None:
    with pytest.raises(QueryError, match=f"no threshold '{wrong}'. One of qNN, .*, or image:P, .*0 < P < 100"):
        region_unions(sample, "coin", threshold=wrong)


@pytest.mark.parametrize(
    ("percent", "words"), [("80", "80th"), ("91", "91st"), ("12", "12th"), ("22", "22nd"), ("2.5", "2.5th")]
)
def test_a_title_says_the_percentile(sample: Index, percent: str, words: str) -> None:
    assert region_rule(MapSource(sample), f"image:{percent}").words.endswith(f"image's own {words} percentile")


def test_wrong_choices_name_the_right_ones(sample: Index) -> None:
    with pytest.raises(QueryError, match="no scale 'class'. One of neuron, image"):
        sample.class_heatmaps("coin", 1, 1, "post", "class")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="regions cannot be shown as 'mask'. One of colours, image"):
        regions_figure(sample, "coin", show="mask")  # type: ignore[arg-type]


def test_the_commands_of_the_first_study(sample: Index, sample_path: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    picture, regions = str(tmp_path / "post.png"), str(tmp_path / "regions.png")
    words = ["--class", "coin", "-k", "2", "--images", "2", "--by", "score", "--view", "post", "--scale", "image"]
    assert run(cli, ["heatmap", str(sample_path), *words, "-o", picture], catch_exceptions=False).exit_code == 0
    same = sample.class_heatmaps("coin", 2, 2, "post", "image", "score").picture()
    np.testing.assert_array_equal(np.asarray(Image.open(picture))[:500], np.asarray(same)[:500])
    words = ["dissect", "regions", str(sample_path), "coin", "--quantile", "image:80", "--show", "image"]
    found = run(cli, [*words, "--csv", "-o", regions], catch_exceptions=False)
    assert found.output.splitlines()[1].startswith("80,coin/000.jpg,1,1,0,0.19")
    drawn = np.asarray(Image.open(regions).convert("L"))
    assert drawn.shape[1] > 500
    assert (drawn == 0).mean() > 0.2  # black outside the regions
