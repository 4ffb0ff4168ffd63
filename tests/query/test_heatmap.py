"""Heatmaps and gradient views against the reference model, finite differences and plain autograd."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Reference
from effect_by_hand import effect_by_hand
from PIL import Image
from torch import Tensor
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query.commands.main import cli
from vitdex.query.drawing.colours import Scale
from vitdex.query.drawing.overlay import overlay
from vitdex.query.heatmaps.heatmap import neuron_heatmaps, ranked_heatmaps
from vitdex.query.index import Index
from vitdex.query.lookups.class_images import class_images
from vitdex.query.model.gradients import (
    Smoothing,
    effect_on_tokens,
    gradient_times_activation,
    logit_gradient,
    neuron_gradients,
)
from vitdex.query.model.live_model import LiveModel, open_model
from vitdex.schemas.errors import QueryError

LAYER, LAST = "blocks.4.mlp.fc1", "blocks.5.mlp.fc1"
COIN, IMAGE = 2, 83
PLAIN = Smoothing(copies=1, noise=0)


def test_map_and_scale_are_the_neurons_own(sample: Index, reference: Reference) -> None:
    found = neuron_heatmaps(sample, [(LAYER, 473), (LAST, 16)], [IMAGE, 7])
    for column, (layer, unit) in enumerate([(LAYER, 473), (LAST, 16)]):
        patches = reference.fc1[layer][:, 1:, unit]
        direct = patches[[IMAGE, 7]].reshape(2, 8, 8)
        assert np.abs(found.values[:, column] - direct).max() <= np.ptp(direct, axis=(1, 2)).max() / 500
        q001, q999 = np.quantile(patches, [0.001, 0.999], method="hazen")
        ends = [min(q001, direct.min()), max(q999, direct.max())]
        np.testing.assert_allclose([found.scales[column].low, found.scales[column].high], ends, rtol=0.02)
    assert "red to the largest value shown (at least to the neuron's 0.999 quantile over all images)" in found.notes[-1]
    np.testing.assert_array_equal(found.images[0], np.asarray(sample.arrays["inputs"][IMAGE]))
    assert found.row_headings[0] == ("coin", "predicted coin", f"image {IMAGE}")


def test_overlay_keeps_zero_grey_and_ends_at_the_scale() -> None:
    image = np.full((1, 5, 3), [10, 200, 90], np.uint8)
    values = np.array([[-9, -4, 0, 2, 9]], np.float32)
    pixels = overlay(image, values, Scale(-4, 2))[0].astype(int)
    grey = 255 - 0.7 * (255 - (0.299 * 10 + 0.587 * 200 + 0.114 * 90))
    assert pixels[2].tolist() == [round(grey)] * 3
    assert (pixels[0] == pixels[1]).all()  # beyond an end: its colour
    assert (pixels[3] == pixels[4]).all()
    np.testing.assert_allclose(pixels[4], 0.25 * grey + 0.75 * np.array([178, 24, 43]), atol=1)
    np.testing.assert_allclose(pixels[0], 0.25 * grey + 0.75 * np.array([33, 102, 172]), atol=1)


def test_contribution_is_gelu_times_score(sample: Index, reference: Reference) -> None:
    found = neuron_heatmaps(sample, [(LAYER, 473)], [IMAGE], "contribution", "coin")
    model = reference.model
    score = (model.head.weight[COIN] @ model.blocks[4].mlp.fc2.weight[:, 473]).item()  # type: ignore[index, union-attr]
    before = torch.from_numpy(reference.fc1[LAYER][IMAGE, 1:, 473])
    direct = (torch.nn.functional.gelu(before) * score).numpy().reshape(8, 8)
    tolerance = 1.2 * abs(score) * np.ptp(before.numpy()) / 500
    np.testing.assert_allclose(found.values[0, 0], direct, atol=tolerance)


@pytest.fixture
def double(sample: Index) -> LiveModel:
    live = open_model(sample)
    live.anatomy.model.double()
    return replace(live, mean=live.mean.double(), std=live.std.double())


def test_gradients_are_finite_differences(sample: Index, double: LiveModel) -> None:
    stored = torch.from_numpy(np.asarray(sample.arrays["inputs"][IMAGE])).permute(2, 0, 1)[None].double() / 255
    patch = int(sample.arrays[f"{LAYER}/argmax"][IMAGE, 473])

    def outputs(pixels: Tensor) -> Tensor:
        answer, kept = double(pixels, [LAYER])
        return torch.stack([kept[LAYER][0, 1 + patch, 473], answer[0, COIN]])

    neuron = neuron_gradients(double, LAYER, [5, 473], IMAGE, PLAIN)[1]
    logit = logit_gradient(double, COIN, IMAGE, PLAIN)
    step = 1e-5
    strongest = np.abs(neuron).sum(-1).argmax()
    for y, x in [divmod(int(strongest), 96), (50, 44), (3, 90)]:
        for channel in range(3):
            shift = torch.zeros_like(stored)
            shift[0, channel, y, x] = step
            direct = ((outputs(stored + shift) - outputs(stored - shift)) / (2 * step)).numpy()
            np.testing.assert_allclose([neuron[y, x, channel], logit[y, x, channel]], direct, rtol=1e-3, atol=1e-6)


def test_smoothed_is_the_mean_over_noisy_copies(sample: Index) -> None:
    live = open_model(sample)
    found = logit_gradient(live, COIN, IMAGE, Smoothing(copies=6, noise=0.2, seed=3))
    clean, random = live.pixels([IMAGE]), torch.Generator().manual_seed(3)
    noise = torch.cat([torch.randn((n, 3, 96, 96), generator=random) for n in (4, 2)])
    total = torch.zeros(3, 96, 96)
    for one in noise:
        pixels = (clean + 0.2 * (clean.max() - clean.min()) * one).requires_grad_()
        live(pixels, [])[0][0, COIN].backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        total += pixels.grad[0] / 6
    np.testing.assert_allclose(found, total.permute(1, 2, 0).numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("block", [2, 5])
def test_gradient_times_activation_is_autograds(sample: Index, reference: Reference, block: int) -> None:
    kept: list[Tensor] = []
    fc2 = reference.model.get_submodule(f"blocks.{block}.mlp.fc2")
    hook = fc2.register_forward_pre_hook(lambda m, args: kept.append(args[0]))
    live = open_model(sample)
    normalised = ((live.pixels([IMAGE]) - 0.5) / 0.5).requires_grad_()
    logit = reference.model(normalised)[0, COIN]
    hook.remove()
    product = (kept[0] * torch.autograd.grad(logit, kept[0])[0]).detach()[0].numpy()
    units = np.abs(product).max(0).argsort()[[-1, -9]].tolist()  # neurons that count for the logit
    direct = product[:, units].T
    found = gradient_times_activation(live, f"blocks.{block}.mlp.fc1", units, COIN, IMAGE)
    tolerance = 1e-4 * np.abs(direct).max()
    assert np.abs(direct).max() > 0.01
    np.testing.assert_allclose(found.patches.reshape(2, 64), direct[:, 1:], atol=tolerance)
    np.testing.assert_allclose(found.prefix, direct[:, :1], atol=tolerance)
    assert (found.patches == 0).all() == (block == 5)  # no patch of the last block reaches the head


@pytest.mark.parametrize("block", [2, 5])
def test_effect_is_that_of_the_mean(sample: Index, block: int) -> None:
    live, layer = open_model(sample), f"blocks.{block}.mlp.fc1"
    fc2 = live.anatomy.model.get_submodule(f"blocks.{block}.mlp.fc2")
    units = np.abs(gradient_times_activation(live, layer, range(768), COIN, IMAGE).prefix[:, 0]).argsort()[-2:].tolist()
    direct = np.array([effect_by_hand(live, fc2, unit, COIN, IMAGE) for unit in units])
    found = effect_on_tokens(live, layer, units, COIN, IMAGE)
    assert np.abs(direct).max() > 0.01
    np.testing.assert_allclose(found.patches.reshape(2, 64), direct[:, 1:], atol=1e-5 * np.abs(direct).max())
    np.testing.assert_allclose(found.prefix, direct[:, :1], atol=1e-5 * np.abs(direct).max())
    assert (found.patches == 0).all() == (block == 5)
    shown = neuron_heatmaps(sample, [(layer, unit) for unit in units], [IMAGE, 80], "effect", "coin")
    np.testing.assert_array_equal(shown.values[0], found.patches)
    assert shown.title == (
        "Effect, to first order: what the logit of coin, minus the mean of all logits, loses with the neuron at its "
        "mean there"
    )
    assert shown.notes[-1] == "Colours: ± the largest value shown, in logits; the mean is that of all patches."
    assert shown.notes[-2] == "Definitions: view effect: docs/concepts/views.md"  # not the ranking's


def test_effect_on_the_cls_token_is_told(sample: Index) -> None:
    on_cls = effect_on_tokens(open_model(sample), LAST, [16], COIN, IMAGE).prefix[0, 0]
    told = neuron_heatmaps(sample, [(LAST, 16)], [IMAGE], "effect").notes
    assert told[0].startswith("Block 5 is the last and the head reads token 0: its patches")
    assert told[1].startswith(f"{LAST}:16 on the CLS token: {on_cls:.3f}"[:-1])


def test_effect_of_zero_is_gradient_times_activation(sample: Index) -> None:
    """But for the mean of all logits, which a logit alone does not have."""
    live = open_model(sample)
    of_zero = effect_on_tokens(live, LAYER, [473], COIN, IMAGE, "zero").patches
    every = [gradient_times_activation(live, LAYER, [473], c, IMAGE).patches for c in range(12)]
    np.testing.assert_allclose(of_zero, every[COIN] - np.mean(every, 0), atol=1e-6 * np.abs(of_zero).max() + 1e-9)


def test_zero_is_explained(sample: Index) -> None:
    last = neuron_heatmaps(sample, [(LAST, 16)], [IMAGE], "grad-times-activation")
    assert not last.values.any()
    assert last.notes[0].startswith("Block 5 is the last and the head reads token 0: its patches")
    assert last.notes[1].startswith(f"{LAST}:16 on the CLS token: 0.")
    definition, colours = neuron_heatmaps(sample, [(LAYER, 16)], [IMAGE, 80], "grad-times-activation", "coin").notes
    assert definition == "Definitions: view grad-times-activation: docs/concepts/views.md"
    assert colours == "Colours: ± the largest value shown."


def test_colours_end_at_the_largest_value_shown(sample: Index, reference: Reference) -> None:
    """Of a neuron that is rarely active its peak is beyond the quantile; where it is silent it looks silent."""
    rare = sample.sql(
        "SELECT layer, unit, image_id, pre, q999 FROM exemplars JOIN neurons USING (layer, unit) WHERE rank = 1 "
        "AND side = 'top' AND token = 'patch' AND q999 > 0 ORDER BY pre / q999 DESC LIMIT 1"
    ).iloc[0]
    patches = reference.fc1[rare.layer][:, 1:, rare.unit]
    assert rare.pre > 1.5 * rare.q999
    silent = int(patches.max(1).argmin())
    for view in ("map", "post"):
        peak = sample.heatmap(rare.layer, rare.unit, int(rare.image_id), view)
        assert peak.scales[0].high == pytest.approx(peak.values.max(), rel=1e-4)
        largest = torch.tensor(patches.max())
        direct = (torch.nn.functional.gelu(largest) if view == "post" else largest).item()
        assert peak.scales[0].high == pytest.approx(direct, rel=0.02)
        calm = sample.heatmap(rare.layer, rare.unit, silent, view)
        assert calm.values.max() < 0.2 * calm.scales[0].high


def test_letters_stay_letters(sample_path: Path, tmp_path: Path) -> None:
    import matplotlib as mpl

    words = ["heatmap", str(sample_path), "--class", "coin", "-k", "2", "--images", "2"]
    with mpl.rc_context({"svg.fonttype": "none"}):
        for name in ("a.svg", "a.pdf", "a.png"):
            CliRunner().invoke(cli, [*words, "-o", str(tmp_path / name)], catch_exceptions=False)
    drawn = (tmp_path / "a.svg").read_text()
    with Index(sample_path) as index:
        first = index.key_neurons("coin", 2)
    for text in ("blocks.5.mlp.fc1:16", "predicted coin", "Key neurons of coin: the first 2 of 4,608 by contribution."):
        assert text in drawn
    assert "of which the model is surest" in drawn
    assert drawn.count("<image") == 2 + 2 * len(first) + len(first)  # inputs, heatmaps, colour bars
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(tmp_path / "a.png") as picture:
        assert f'width="{picture.width * 72 / 100:g}pt"' in drawn


def test_an_index_without_maps_shows_the_same(sample: Index, tmp_path: Path) -> None:
    path = build(sample_request(tmp_path / "none.vitdex", maps="none", limit=40, device="cpu"), Quiet())
    stored = neuron_heatmaps(sample, [(LAYER, 473), (LAST, 16)], [11, 39])
    with Index(path) as bare:
        anew = neuron_heatmaps(bare, [(LAYER, 473), (LAST, 16)], [11, 39])
    span = np.ptp(stored.values, axis=(2, 3), keepdims=True)
    assert (np.abs(stored.values - anew.values) <= span / 500).all()
    np.testing.assert_array_equal(stored.images, anew.images)


def test_key_neurons_of_one_layer_are_said_to_be_of_it(sample: Index) -> None:
    """The picture of `top --class`: how neurons and images were chosen."""
    shown = ranked_heatmaps(sample, "coin", sample.key_neurons("coin", 3, layer=LAYER), 5, layer=LAYER)
    assert shown.title == (
        f"Key neurons of coin: the first 3 of 768 of {LAYER} by contribution. Activation on the patches, before GELU."
    )
    assert shown.notes[0] == "Images: of 40 of coin, the 5 of which the model is surest."


def test_nothing_to_show(sample: Index) -> None:
    for neurons, images in [([], [1]), ([(LAYER, 1)], [])]:
        with pytest.raises(QueryError, match="nothing to show. Name at least one"):
            neuron_heatmaps(sample, neurons, images)


def test_images_of_a_class_are_the_models_surest(sample: Index, reference: Reference) -> None:
    shifted = np.exp(reference.logits - reference.logits.max(1, keepdims=True))
    surest = (shifted / shifted.sum(1, keepdims=True))[:, COIN]
    coins = [i for i, path in enumerate(reference.paths) if path.startswith("coin/")]
    assert class_images(sample, "coin", 6).image_id.tolist() == sorted(coins, key=lambda i: -surest[i])[:6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "a.png"], "nothing to show. Give --class NAME or --neuron LAYER:UNIT."),
        (["--neuron", "blocks.4", "-o", "a.png"], "'blocks.4' is no LAYER:UNIT. Write it like"),
        (["--neuron", f"{LAYER}:768", "-o", "a.png"], "no unit 768 in"),
        (["--class", "coin", "--image", "999", "-o", "a.png"], "no image 999."),
        (["--class", "coin", "-o", "a.csv"], "'a.csv' is of no kind that can be written here. One of .png, .jpg"),
        (["--class", "coin", "-k", "1", "-o", "text.png"], "text.png is there and is no .png file."),
        (
            ["--neuron", f"{LAYER}:1", "--image", "0", "--image", "83", "--view", "contribution", "-o", "a.png"],
            "several",
        ),
    ],
)
def test_wrong_use_of_the_command(
    words: list[str], message: str, sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("mine")
    result = CliRunner().invoke(cli, ["heatmap", str(sample_path), *words])
    assert isinstance(result.exception, QueryError)
    assert message in str(result.exception)
    assert Path("text.png").read_text() == "mine"
    assert not Path("a.png").exists()


def test_stored_heatmaps_load_neither_torch_nor_matplotlib(sample_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from vitdex.query.commands.main import cli; "
        "result = CliRunner().invoke(cli, ['heatmap', *sys.argv[1:]]); assert result.exit_code == 0, result.output; "
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    words = ["--class", "coin", "-k", "2", "--images", "3", "--view", "contribution", "-o", str(tmp_path / "a.png")]
    subprocess.run([sys.executable, "-c", code, str(sample_path), *words], check=True)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 3 * 224
        assert picture.height > 3 * 224
