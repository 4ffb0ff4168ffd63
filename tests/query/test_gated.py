"""Gated units through the whole command line: both signs count, and nothing shown speaks of a nonlinearity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from effect_by_hand import effect_by_hand
from PIL import Image
from safetensors.torch import save_file
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request
from vitdex.indexer.statistics.threshold_counts import Statistics
from vitdex.indexer.tables.filled_index import Finish
from vitdex.query.commands.main import cli
from vitdex.query.drawing.class_figures import activations_figure
from vitdex.query.heatmaps.views import VIEWS
from vitdex.query.index import Index
from vitdex.query.lookups.key_neurons import RANKINGS, Ranking, key_neurons
from vitdex.query.model.gradients import effect_on_tokens
from vitdex.query.model.live_model import open_model
from vitdex.schemas.errors import QueryError
from vitdex.schemas.run_spec import Kind, LayerSpec, Maps

NAME = "eva02_tiny_patch14_224"
ARGS = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": [42, 42]}
CLASSES = ["ant", "bee", "owl"]
LAYER, WRITTEN = "blocks.1.mlp.fc2.input", "blocks.1.mlp.fc2"
SILENT, FAINT, NEGATIVE = 3, 4, 5  # units that are 0 everywhere, all but 0, and below 0 everywhere


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small EVA-02 in a folder, images of its classes, and masks of their left halves."""
    root, rng = tmp_path_factory.mktemp("gated"), np.random.default_rng(3)
    torch.manual_seed(5)
    model = timm.create_model(NAME, num_classes=len(CLASSES), **{**ARGS, "img_size": (42, 42)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        fc1 = model.get_submodule("blocks.1.mlp.fc1")
        half = fc1.weight.shape[0] // 2
        for unit, factor in ((SILENT, 0.0), (FAINT, 1e-9)):
            fc1.weight[half + unit] *= factor
            fc1.bias[half + unit] *= factor
        fc1.weight[[NEGATIVE, half + NEGATIVE]] = 0
        fc1.bias[NEGATIVE], fc1.bias[half + NEGATIVE] = 2, -1
    (root / "model").mkdir()
    config = {"architecture": NAME, "num_classes": len(CLASSES), "model_args": ARGS}
    settings = {"input_size": [3, 42, 42], "mean": [0.5] * 3, "std": [0.25] * 3, "label_names": CLASSES}
    (root / "model" / "config.json").write_text(json.dumps({**config, "pretrained_cfg": settings}))
    save_file(model.state_dict(), root / "model" / "model.safetensors")
    mask = np.zeros((50, 50), np.uint8)
    mask[:, :25] = 255
    for name in CLASSES:
        for folder in ("images", "masks"):
            (root / folder / name).mkdir(parents=True)
        for i in range(4):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
            coarse.resize((50, 50), Image.Resampling.BICUBIC).save(root / "images" / name / f"{i}.png")
            Image.fromarray(mask).save(root / "masks" / name / f"{i}.png")
    return root


def made(place: Path, maps: Maps) -> Path:
    ask = Request(
        place / maps, f"local-dir:{place / 'model'}", str(place / "images"), layers=("fc1", "fc2"), maps=maps,
        device="cpu", batch_size=5, workers=0,
    )  # fmt: skip
    return build(ask, Quiet())


@pytest.fixture(scope="module")
def path(place: Path) -> Path:
    return made(place, "uint8")


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    with Index(path) as opened:
        yield opened


def test_a_dead_unit_is_0_in_both_signs(index: Index) -> None:
    rows = index.sql("SELECT unit, dead FROM neurons WHERE layer = ? ORDER BY unit", [LAYER])
    assert np.flatnonzero(rows.dead).tolist() == [SILENT, FAINT]
    low = index.arrays[LAYER]["min"][:, FAINT]
    assert (low < 0).all()


@pytest.mark.parametrize("by", [by for by in RANKINGS if by != "effect"])  # of which this index has none
def test_coordinates_of_the_stream_stand_in_no_ranking(index: Index, by: Ranking) -> None:
    units = sum(layer.units for layer in index.spec.layers if layer.has_value_vectors)
    assert units < index.spec.neurons
    ranked = key_neurons(index, CLASSES[0], index.spec.neurons, by)
    assert len(ranked) == units
    assert set(ranked.layer) == {layer.name for layer in index.spec.layers if layer.has_value_vectors}


def test_a_unit_below_0_on_patches_alone_is_alive() -> None:
    """A real unit is seldom 0 on its prefix tokens and not on its patches."""
    finish = SimpleNamespace(reader=SimpleNamespace(parts=lambda _: [(0, np.array([[-3, 0], [np.nan, np.nan]], "f4"))]))
    high, prefix = np.array([[-1, np.nan], [0, np.nan]], "f4"), np.zeros(2, "f4")
    for kind, expected in (("gated", [3, 0]), ("hidden", [0, 0])):
        found = Finish._largest(cast(Any, finish), LayerSpec("x", 0, cast(Kind, kind), 2), high, prefix)
        assert found.tolist() == expected


def test_prefix_tokens_keep_a_gated_unit_alive_from_below() -> None:
    layers = [LayerSpec("gated", 0, "gated", 2), LayerSpec("plain", 0, "hidden", 2)]
    statistics = Statistics(layers, 0, "cpu")
    for layer in layers:
        statistics.add_prefix(layer.name, torch.tensor([[[-2.0, 0.0]]]))
    assert statistics.prefix_max["gated"].tolist() == [2, 0]
    assert statistics.prefix_max["plain"].tolist() == [-2, 0]


@pytest.mark.parametrize("maps", ["uint8", "float16", "exemplars", "none"])
def test_bottom_exemplars_have_the_lowest_patch_however_maps_are_kept(place: Path, path: Path, maps: Maps) -> None:
    """Of fc2's coordinates, as of all but gated units, they are the images with the smallest largest patch."""
    with Index(path if maps == "uint8" else made(place, maps)) as index:
        group = index.arrays[LAYER]
        assert (group["argmin"].dtype, "argmin" in index.arrays[WRITTEN]) == (np.uint16, False)
        low = index.exemplars(LAYER, 7, 12, side="bottom")
        expected = group["min"][:, 7]
        assert low.image_id.tolist() == np.argsort(expected, kind="stable").tolist()
        assert low.pre.tolist() == np.sort(expected).tolist()
        found = index.heatmaps([(LAYER, 7)], low.image_id.tolist(), weights=place / "model").values[:, 0]
        flat = found.reshape(len(low), -1)
        assert (flat[np.arange(len(low)), low.patch] <= flat.min(1) + 1e-5).all()
        high = index.exemplars(WRITTEN, 7, 1, side="bottom").pre[0]
        assert high == index.arrays[WRITTEN]["max"][:, 7].min()


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, (words, result.output, result.exception)
    assert "nonlinearity" not in result.output
    assert "Identity" not in result.output
    return result.output


def test_titles_say_what_a_layer_holds(index: Index) -> None:
    """A picture of both kinds names both."""
    read, written = "Value that fc2 reads on the patches", "Coordinate of what fc2 writes on the patches"
    assert index.heatmaps([(LAYER, 1)], [0]).title == read
    assert index.heatmaps([(WRITTEN, 1), (WRITTEN, 2)], [0]).title == written
    assert index.heatmaps([(LAYER, 1), (WRITTEN, 1)], [0]).title == f"{read}; {written}"
    assert index.heatmaps([(LAYER, 1)], [0], "contribution", "owl").title == "Value that fc2 reads × raw score for owl"
    rows = index.sql(
        "SELECT 'all' AS blocks, 1 AS block, 1 AS unit, 1 AS rank, 0.5 AS post_mean, 0.2 AS post_mean_others, "
        "0.9 AS auroc, 5 AS n, 50 AS n_others"
    )
    figure = activations_figure(rows, "owl", "score", "post_mean", kinds={"gated"})
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "mean of the patches of what fc2 reads, mean over the images"


def test_look_ups_and_exports(place: Path, path: Path, tmp_path: Path) -> None:
    assert "fc2.input" in run("info", path)
    assert "owl" in run("top", path, "--class", "owl", "-o", tmp_path / "top.png")
    run("top", path, "--neuron", f"{LAYER}:7", "-o", tmp_path / "one.png")
    run("neighbours", path, "0", "--neuron", LAYER)
    assert "gated" in run("sql", path, "FROM layers")
    run("sql", path, f"SELECT activation_map('{LAYER}', 7, 0)")
    run("export", "milan", path, tmp_path / "milan", "--layer", LAYER, "-k", "3")
    run("export", "clip-dissect", path, tmp_path / "clip", "--layer", LAYER)
    run("export", "tables", path, tmp_path / "tables")
    assert torch.load(next((tmp_path / "clip" / "max").iterdir()), weights_only=True).shape[0] == 12


def test_effect(place: Path, index: Index) -> None:
    """Of what fc2 reads, in both signs; what fc2 writes is no neuron."""
    live = open_model(index, place / "model", "cpu")
    fc2 = live.anatomy.model.get_submodule(WRITTEN)
    for unit in (7, NEGATIVE):
        direct = effect_by_hand(live, fc2, unit, 2, 0)
        found = effect_on_tokens(live, LAYER, [unit], 2, 0)
        both = np.concatenate([found.prefix[0], found.patches.reshape(-1)])
        np.testing.assert_allclose(both, direct, atol=1e-5 * np.abs(direct).max() + 1e-9)
    with pytest.raises(QueryError, match=r"no neurons to replace\. Name a layer of fc1 or attn, or take grad-times"):
        index.heatmaps([(WRITTEN, 1)], [0], "effect", "owl", weights=place / "model")


@pytest.mark.parametrize("view", VIEWS)
def test_heatmaps(place: Path, path: Path, tmp_path: Path, view: str) -> None:
    words: list[str | Path] = [
        "heatmap",
        path,
        "--neuron",
        f"{LAYER}:7",
        "--image",
        "0",
        "--class",
        "owl",
        "--view",
        view,
    ]
    words += ["--weights", place / "model", "-o", tmp_path / "a.png"]
    if view == "post":
        refused = CliRunner().invoke(cli, [str(word) for word in words])
        assert "holds gated units" in refused.output + str(refused.exception)
        return
    run(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["blocks"], ["activations", "owl"], ["regions", "owl"], ["regions", "owl", "--quantile", "image:80"],
        ["focus"], ["context"], ["concepts"], ["shared"], ["carriers"], ["similarity"], ["selectivity"], ["agreement"],
        ["composition"],
        ["pairs", "owl"], ["sets", "owl"], ["composed"], ["fires", "0"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_dissect(place: Path, path: Path, tmp_path: Path, words: list[str]) -> None:
    more: list[str | Path] = []
    if words[0] in ("regions", "focus", "context", "concepts"):
        more += ["--masks", place / "masks"]
    if words[0] in ("regions", "focus", "context", "composition"):
        more += ["--weights", place / "model"]
    run("dissect", words[0], path, *words[1:], *more, "-o", tmp_path / "figure.svg")
    assert "nonlinearity" not in (tmp_path / "figure.svg").read_text()


def test_generate(place: Path, path: Path, tmp_path: Path) -> None:
    words: list[str | Path] = [
        "generate",
        path,
        "--neuron",
        f"{LAYER}:7",
        "-k",
        "1",
        "--snapshot",
        "2",
        "--weights",
        place / "model",
    ]
    assert LAYER in run(*words, "--csv", "-o", tmp_path / "made.png")
    refused = CliRunner().invoke(cli, [*map(str, words), "--post"])
    assert "has no nonlinearity after it" in refused.output + str(refused.exception)
