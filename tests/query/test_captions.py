"""What tables and figures say they show, against what was computed: titles, counts, axes, and terms' definitions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from conftest import Reference
from matplotlib.text import Text
from vitdex.query.commands.lookups import _of_key_neurons
from vitdex.query.commands.main import cli
from vitdex.query.console.readable import MAIN
from vitdex.query.dissect.agreement import class_value_agreement, largest_random_cosine
from vitdex.query.dissect.captions import of_composition
from vitdex.query.dissect.catalogue import ANALYSES, Answer
from vitdex.query.dissect.classes import activations_of_class, class_blocks
from vitdex.query.dissect.firing import firing_neurons
from vitdex.query.dissect.focus import class_focus
from vitdex.query.dissect.masks import open_masks
from vitdex.query.dissect.regions import on_images
from vitdex.query.dissect.selectivity import auroc_by_chance
from vitdex.query.dissect.value_sums import flatness, neuron_pairs, neuron_sets
from vitdex.query.drawing.terms import DEFINED, VIEWS, definitions
from vitdex.query.generate.picture import measure_of, real_values
from vitdex.query.heatmaps.views import View
from vitdex.query.index import Index
from vitdex.query.lookups.class_images import labelled_images
from vitdex.query.model.map_source import MapSource
from vitdex.query.stored.names import Neuron
from vitdex.schemas.numbers_shown import first_of, number_of

ROOT = Path(__file__).parents[2]
LAST = "blocks.5.mlp.fc1"
ASK = {analysis.name: analysis.ask for analysis in ANALYSES}
# what is asked, and what must stand in the caption of the answer and somewhere in its figure
CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "blocks": ({}, ["by contribution: 12 classes, 4,608 neurons"], ["top 10 (n = 120)", "median of 12 classes"]),
    "activations": (
        {"class_": "coin", "k": 3}, ["of coin by contribution: largest patch of an image, mean over", "(n = 440)"],
        ["largest patch before the nonlinearity, mean over the images"],
    ),
    "regions": ({"class_": "coin"}, ["Regions of coin", "by contribution, above q99, on 40 images"], ["top 10"]),
    "focus": (
        {"random": 3}, ["of 12 classes pass", "positive anywhere (n): 446 of 480 images", "3 random"], ["(n = 38)"],
    ),
    "context": (
        {}, ["first 10 neurons by contribution", "480 images with a mask, 12 classes", "the head reads token 0"],
        ["(n = 40)", "lives from background", "chance: background + largest of 19 differences"],
    ),
    "concepts": ({"layer": LAST}, ["768 neurons", "480 images with a mask, 12 concepts", "19"], ["IoU with the best"]),
    "logits": ({"class_": "coin", "k": 3}, ["of coin", "(n = 3)", "in the end"], ["added by the term", "(n = 3)"]),
    "shared": ({"top": 10}, ["6 neurons are among the top 10 by contribution", "12 classes"], ["top 10 by"]),
    "carriers": (
        {"k": 3}, ["of 4,608 neurons carry several classes", "19 drawings"],
        ["all 4,608 neurons", "contribution (logits); beside each bar its share", "<1%"],
    ),
    "similarity": ({}, ["12 classes in 66 pairs", "480 images", "4,608 value vectors"], ["66 pairs", "grey: none"]),
    "selectivity": ({"layer": LAST}, ["768 neurons of blocks.5.mlp.fc1", "12 classes", "480 images"], ["0.58"]),
    "agreement": ({}, ["480 images of 12 classes"], ["cls (n = 480)", "patches (n = 30,720)", "chance"]),
    "pairs": ({"class_": "bird", "k": 7}, ["for bird: the first 7 by gain in margin", "300 neurons"], ["of bird"]),
    "sets": ({"class_": "bird"}, ["for bird: 5 sets", "share at most half"], ["margin of bird"]),
    "composed": ({"candidates": 30}, ["of 12 classes are", "30 such neurons"], ["margin of the class"]),
    "fires": ({"image": "bird/005.jpg"}, ["bird/005.jpg (image 5, class bird): all tokens"], ["for bird", "tokens"]),
}  # fmt: skip


def words_of(figure: Any) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("name", CASES)
def test_a_table_and_its_figure_say_what_they_show(name: str, sample: Index) -> None:
    options, told, drawn = CASES[name]
    answer: Answer = ASK[name](sample, **options)
    figure = answer.draw()
    caption = " ".join(figure.get_suptitle().split()) if figure._suptitle else ""  # type: ignore[attr-defined]
    for words in told:
        assert words in answer.caption, answer.caption
    for words in drawn:
        assert words in words_of(figure), words_of(figure)
    if name != "regions":  # whose figure is of some of the images
        assert caption == " ".join(answer.caption.split())
    else:
        assert "4 of 40 images" in caption
        assert "coin: first neurons by contribution" in caption
    assert answer.caption.splitlines()[-1].startswith("Definitions: ")
    assert "Definitions: " in caption
    by = answer.table.attrs.get("by")
    assert by is None or by in answer.caption


def test_every_analysis_is_looked_at() -> None:
    assert {*CASES} | {"composition"} >= {
        name for name in ASK if name in MAIN
    }  # composition runs the model: see test_dissect
    assert {*MAIN} >= {*CASES}


def test_the_numbers_of_a_caption_are_the_tables(sample: Index, reference: Reference) -> None:
    answer = ASK["focus"](sample, random=3)
    table = answer.table
    assert f"{table.passes.sum()} of {len(table)} classes pass" in answer.caption
    assert f"{(table.energy > table.chance_masks).sum()} are above masks of other images" in answer.caption
    assert f"{table.exceeds.sum()} exceed the mask's share" in answer.caption
    assert f"{table['empty'].sum()} regions of the first neurons are empty" in answer.caption
    answer = ASK["fires"](sample, "bird/005.jpg", "12")
    assert answer.caption.startswith(f"{len(answer.table)} neurons that are among the five most active")
    assert "patch 12" in answer.caption
    assert "480 images of 12 classes" in " ".join(of_composition(labelled_images(sample)).split())


@pytest.mark.parametrize(("term", "place"), [*DEFINED.items(), *((view, VIEWS) for view in get_args(View))])
def test_a_term_is_defined_where_it_is_said_to_be(term: str, place: str) -> None:
    page, _, anchor = place.partition("#")
    text = (ROOT / page).read_text()
    sections = re.split(r"^#+ ", text, flags=re.MULTILINE)
    slugs = {re.sub(r"[^a-z0-9 -]", "", s.splitlines()[0].lower()).replace(" ", "-"): s for s in sections if s.strip()}
    section = slugs[anchor] if anchor else text
    assert re.search(rf"\*\*{re.escape(term)}\*\*|`{re.escape(term)}`", section), term


def test_terms_are_listed_by_page() -> None:
    line = definitions(["energy", "score", "iou", "energy"])
    assert line == (
        "Definitions: energy, iou: docs/concepts/measures.md#object-and-region; score: docs/concepts/rankings.md"
    )


def test_one_of_a_thing_is_no_plural(sample: Index) -> None:
    assert [number_of(count, "image") for count in (0, 1, 1204)] == ["0 images", "1 image", "1,204 images"]
    assert number_of(2, "class", "classes") == "2 classes"
    assert (first_of(1, "neuron"), first_of(3, "neuron")) == ("first neuron", "first 3 neurons")
    assert "each class's first neuron by contribution lies" in ASK["context"](sample, k=1).caption
    every, words = sample.key_neurons("coin", 4608), "The first 4,608 of 4,608 neurons by contribution for coin"
    assert _of_key_neurons(sample, 2, every, None).startswith(f"{words}; means over its 40 images.")
    none = every.assign(n=0)  # no image has a class
    assert _of_key_neurons(sample, 2, none, None).startswith(f"{words}.")


def test_spread_and_chance_equal_the_model(sample: Index, reference: Reference) -> None:
    labels = np.array([path.split("/")[0] for path in reference.paths])
    row: Any = activations_of_class(sample, "coin", 2).iloc[0]
    largest = reference.fc1[str(row.layer)][:, 1:, row.unit].max(1)
    for end, some in (("", labels == "coin"), ("_others", labels != "coin")):
        np.testing.assert_allclose(
            [row[f"max_25{end}"], row[f"max_75{end}"]], np.quantile(largest[some], [0.25, 0.75]), rtol=1e-4, atol=1e-4
        )
    assert (row.n, row.n_others) == (40, 440)
    assert class_blocks(sample).chance.unique() == pytest.approx([1 / 6])
    drawn = np.random.default_rng(0).normal(size=(400, 192, 65))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    direct = np.median(drawn[:, :, :64].transpose(0, 2, 1) @ drawn[:, :, 64:], axis=0)
    assert direct.shape == (64, 1)
    largest_cosines = (drawn[:, :, :64] * drawn[:, :, 64:]).sum(1).max(1)
    assert largest_random_cosine(64, 192) == pytest.approx(np.median(largest_cosines), abs=0.01)
    assert largest_random_cosine(3072, 768) == pytest.approx(0.127, abs=5e-4)
    assert class_value_agreement(sample).random.tolist() == pytest.approx([largest_random_cosine(768, 192)] * 6)


def test_the_interval_of_energy_is_that_of_its_mean(sample: Index) -> None:
    masks = open_masks(sample)
    row: Any = class_focus(sample, masks, random=9).set_index("class").loc["coin"]
    images = masks.images[masks.images["class"] == "coin"]
    energies = []
    neuron = pd.DataFrame({"layer": [row.layer], "unit": [row.unit]})
    for image, maps, _ in on_images(MapSource(sample), neuron, images):
        mask = masks.object(image.image_id)
        assert mask is not None
        cover, positive = mask.reshape(8, 12, 8, 12).mean((1, 3)), np.maximum(maps[0], 0)
        energies.append((positive * cover).sum() / positive.sum())
    assert row.energy == pytest.approx(np.mean(energies))
    assert row.energy_se == pytest.approx(np.std(energies, ddof=1) / len(energies) ** 0.5)
    assert 0 <= row.random_05 < row.random_energy < row.random_95 <= 1


def test_the_best_auroc_by_chance_is_that_of_drawn_classes() -> None:
    draw, classes = np.random.default_rng(5), np.repeat(np.arange(12), 40)
    best = []
    for _ in range(400):
        ranks = draw.permutation(480) + 1
        sums = np.bincount(classes, ranks)
        best.append(((sums - 40 * 41 / 2) / (40 * 440)).max())
    assert auroc_by_chance([40] * 12) == pytest.approx(np.median(best), abs=0.004)
    assert auroc_by_chance([40]) is None


@pytest.mark.parametrize("by", ["margin", "probability"])
def test_sets_share_at_most_half_of_their_neurons(by: Any, sample: Index) -> None:
    for size in (3, 4):
        sets = neuron_sets(sample, "coin", size, by)
        members = [{*zip(one.layer, one.unit, strict=True)} for _, one in sets.groupby("set")]
        assert len(members) == 5
        for i, a in enumerate(members):
            for b in members[:i]:
                assert 2 * len(a & b) <= min(len(a), len(b))


def test_flat_probabilities_are_told(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ASK["pairs"](sample, "coin").caption.count("flat") == 0
    assert ASK["pairs"](sample, "coin", "probability").caption.count("flat") == 0
    flat = pd.Series([0.066, 0.071])
    assert flatness(sample, "margin", flat) == ""
    assert flatness(sample, "probability", flat).startswith(
        "Probability is flat here, 0.066 to 0.071, where chance is 0.083"
    )
    assert neuron_pairs(sample, "coin").equals(neuron_pairs(sample, "coin", "margin"))


def test_fires_names_the_class_that_it_speaks_of(sample: Index) -> None:
    table = firing_neurons(sample, 100)
    assert {*table["class"]} == {"coin"}
    assert str(table.rank_in_unit.dtype) == "Int64"
    assert ((table.says == "coin") == (table.rank_in_unit == 1)).all()
    assert table.activation.notna().all()


@pytest.mark.parametrize(
    ("objective", "measure"),
    [("mean pre of blocks.5.mlp.fc1:3", "mean"), ("max post of x:1", "max"), ("patch 3 pre of x:1", "max"),
     ("logit of class 2", "logit")],
)  # fmt: skip
def test_real_images_are_the_best_by_what_the_ratio_counts_in(
    objective: str, measure: Any, sample: Index, reference: Reference
) -> None:
    assert measure_of(objective) == measure
    patches = reference.fc1[LAST][:, 1:, 16]
    direct = {"mean": patches.mean(1), "max": patches.max(1), "logit": reference.logits[:, 2]}[measure]
    np.testing.assert_allclose(real_values(sample, Neuron(LAST, 16), 2, measure), direct, rtol=1e-3, atol=1e-3)


def test_the_command_says_the_caption_below_the_table(sample_path: Path) -> None:
    from click.testing import CliRunner

    out = CliRunner().invoke(cli, ["dissect", "similarity", str(sample_path)], catch_exceptions=False)
    assert "Similarity of 12 classes in 66 pairs" in out.stderr
    assert "value space, activation, tree, r: docs/concepts/measures.md#classes-and-neurons" in out.stderr
    assert "\\n" not in out.stderr
