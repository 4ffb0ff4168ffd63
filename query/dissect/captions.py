"""What a table and its figure show: of what, by what, over how many. One text for both; a sentence a line."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ...schemas.numbers_shown import first_of, number_of
from ...schemas.run_spec import NO_ACTIVATION
from ..drawing.terms import definitions
from ..lookups.key_neurons import Ranking
from ..stored.stored_index import StoredIndex
from .region_rules import Threshold
from .sum_search import Measure
from .value_sums import flatness

DRAWN = "the largest that the same search finds in 19 drawings with the head's coordinates shuffled"


def caption(*sentences: str, terms: Iterable[str]) -> str:
    """Sentences without the empty ones, and where their terms are defined."""
    return "\n".join([*filter(None, sentences), definitions(terms)])


def of_blocks(index: StoredIndex, by: Ranking, carried: pd.DataFrame, classes: bool) -> str:
    what = (
        "What each further key neuron of a class has against the first"
        if classes
        else "Blocks of the classes' top 1, 3 and 10 key neurons"
    )
    over = f"{number_of(carried.class_id.nunique(), 'class', 'classes')}, {number_of(_neurons(index), 'neuron')}"
    return caption(f"{what}, by {by}: {over}.", terms=(by, "of_first"))


def of_activations(index: StoredIndex, class_: str | int, by: Ranking, table: pd.DataFrame) -> str:
    name, first = index.class_name(class_), table.iloc[0]
    return caption(
        f"Key neurons of {name} by {by}: largest patch of an image, mean over its images (n = {first.n:,}) and over "
        f"those of all other classes (n = {first.n_others:,}).",
        "Bars: the middle half of the images' largest patches (quantiles 0.25 to 0.75).",
        "Hollow: not told from the other classes, its AUROC within 1.96 standard errors of chance, 0.5.",
        terms=(by, "activations", "auroc"),
    )


def of_regions(
    index: StoredIndex, class_: str | int, by: Ranking, threshold: Threshold, neurons: bool, table: pd.DataFrame
) -> str:
    what = "each of the first 10 neurons" if neurons else "the first 1, 3 and 10 neurons together"
    terms = [by, "region", *(["energy", "pointing"] if neurons and "energy" in table else [])]
    over = f"on {number_of(table.image_id.nunique(), 'image')}"
    return caption(
        f"Regions of {index.class_name(class_)}: {what}, by {by}, above {threshold}, {over}.",
        _empty_regions(neurons, table),
        terms=terms + ["iou"] * ("iou" in table),
    )


def _empty_regions(neurons: bool, table: pd.DataFrame) -> str:
    """How many regions are empty: of single neurons on single images, and of several neurons together."""
    if neurons:
        each = table.drop_duplicates(["layer", "unit"])
        negative = f" {each.negative.sum():,} of {len(each):,} neurons have a negative threshold, and so no region."
        said = f"{table['empty'].sum():,} of {len(table):,} regions of one neuron on one image are empty."
        return said + negative * bool(each.negative.any())
    together = ", ".join(f"{(one.cover == 0).sum():,} of the top {top}" for top, one in table.groupby("top"))
    most = table[table.top == table.top.max()]
    single = f"{most['empty'].sum():,} of {most.top.sum():,} of one neuron on one image"
    return f"Empty regions: {together}; {single}."


def of_focus(by: Ranking, layer: str | None, table: pd.DataFrame, random: int, seed: int) -> str:
    where = f" of {layer}" if layer else ""
    others = "1 in 20 of the random neurons" if by == "auroc" else "the first neurons with 19 shuffled heads"
    return caption(
        f"Does each class's first key neuron{where} by {by} look at the object? {table.passes.sum():,} of "
        f"{len(table):,} classes pass: energy above chance and above the mask's share. "
        f"{(table.energy > table.chance_masks).sum():,} are above masks of other images, "
        f"{(table.energy > table.chance_neurons).sum():,} above the neurons that chance finds; "
        f"{table.exceeds.sum():,} exceed the mask's share and the mean of random neurons.",
        "Energy per patch, mean over the class's images with a mask on which the neuron is positive anywhere (n): "
        f"{table.n.sum():,} of {table.images.sum():,} images. {table['empty'].sum():,} regions of the first neurons "
        "are empty.",
        f"Chance, passed once in 20: 19 drawings with masks of other images of the class, and {others}. "
        f"{number_of(random, 'random neuron')} of the same block, seed {seed}.",
        terms=(by, "energy", "mask_share", "exceeds", "passes"),
    )


def of_context(index: StoredIndex, by: Ranking, layer: str | None, k: int, table: pd.DataFrame, seed: int) -> str:
    where, unread = f" of {layer}" if layer else "", int(table.unread.sum())
    last = max(spec.block for spec in index.spec.layers)
    return caption(
        f"What of each class's {first_of(k, 'neuron')}{where} by {by} lies on the background? {table.images.sum():,} "
        f"images with a mask, {len(table):,} classes, of which {table.lives_from_background.sum():,} live from it.",
        "Share outside the object's mask, mean over the images (n): of positive contributions on the patches, and of "
        "energy.",
        "Chance: background + the largest of 19 differences with masks of other images (the share outside those masks "
        f"- their background); below background where all are negative; seed {seed}.",
        f"{unread:,} of {table.neurons.sum():,} neurons are of block {last}, the last: the head reads token 0, and "
        "their patches never reach the logit."
        if unread
        else "",
        terms=(by, "energy", "background", "contribution_outside", "lives_from_background"),
    )


def of_concepts(masks: int, concepts: int, quantile: str, table: pd.DataFrame) -> str:
    labelled = table[table.label.notna()]
    return caption(
        f"Best concept of each of {len(table):,} neurons, by IoU of its region (above its own {quantile}) over "
        f"{masks:,} images with a mask, {concepts:,} concepts.",
        f"Labelled: {len(labelled):,} (IoU > 0.04, threshold not negative). Above chance, the largest best IoU of 19 "
        f"drawings with masks of other images: {labelled.passes.sum():,} of these, {table.passes.sum():,} of all.",
        terms=("iou", "label", "passes"),
    )


def of_logits(index: StoredIndex, class_: str | int, image: str | None, table: pd.DataFrame) -> str:
    name, end = index.class_name(class_), table.after.iloc[-1]
    if image is not None:
        return caption(
            f"How the logit of {name}, {end:.3f}, builds up on image {index.image_id(image)}.", terms=("logits",)
        )
    first = table.iloc[0]
    return caption(
        f"How the logit of {name} builds up: means over its images (n = {first.n:,}), {end:.3f} in the end, beside the "
        f"same logit on images of other classes (n = {first.others_n:,}).",
        terms=("logits",),
    )


def of_shared(by: Ranking, top: int, classes: int, table: pd.DataFrame) -> str:
    return caption(
        f"{len(table):,} neurons are among the top {top} by {by} of two classes or more, of {classes:,} classes.",
        terms=(by,),
    )


def of_carriers(every: pd.DataFrame, seed: int) -> str:
    several, by = int((every.carried > 1).sum()), every.attrs["by"]
    less, more = (every.effective < every.effective_low).mean(), (every.effective > every.effective_high).mean()
    return caption(
        f"{several:,} of {len(every):,} neurons carry several classes: two or more have a positive {by} of it that is "
        "larger than chance.",
        f"Chance: the largest for any class in 19 drawings with the head's coordinates shuffled, seed {seed}.",
        f"Effective number of classes: median {every.effective.median():.1f}, of the drawings "
        f"{every.effective_mean.median():.1f}; {less:.0%} of the neurons lie below all of their own, {more:.0%} above.",
        terms=(by, "effective", "carried"),
    )


def of_own(by: Ranking, table: pd.DataFrame) -> str:
    return caption(
        f"{table.own.sum():,} of {len(table):,} classes have a first neuron by {by} of their own.", terms=(by, "own")
    )


def of_similarity(index: StoredIndex, table: pd.DataFrame, images: pd.DataFrame, agreement: pd.DataFrame) -> str:
    of = "of what fc2 reads" if index.spec.activation == NO_ACTIVATION else "after the nonlinearity"
    told = [
        f"{row.space_a} and {row.space_b} {row.r:.2f} ({row.chance:.2f})"
        for row in agreement[agreement.r.notna()].itertuples()
    ]
    return caption(
        f"Similarity of {images.class_id.nunique():,} classes in {len(table):,} pairs: cosine of their rows of the "
        f"head, of their scores over {_neurons(index):,} value vectors (value), and of their activation (mean {of} "
        f"over {len(images):,} images, each neuron centred and scaled).",
        f"Correlation of the pairs, beside the largest of 19 with shuffled classes: {', '.join(told)}." if told else "",
        "Trees by average linkage, of the mean distance 1 - cosine.",
        terms=("similarity", "value space", "activation", "tree", "r"),
    )


def of_selectivity(every: pd.DataFrame, layer: str | None, images: pd.Series[int], chance: float | None) -> str:
    where = f" of {layer}" if layer else ""
    return caption(
        f"Selectivity of {len(every):,} neurons{where}: AUROC of the best of {images.nunique():,} classes against the "
        f"rest, by the largest patch of {len(images):,} images with a class.",
        ""
        if chance is None
        else f"Chance: {chance:.3f}, the median of the best class's AUROC were the classes drawn at random.",
        "Boxes: quantiles 0.25, 0.5, 0.75; whiskers: 0.05 and 0.95.",
        terms=("auroc", "positive_share"),
    )


def of_agreement(images: pd.DataFrame) -> str:
    return caption(
        f"Agreement of keys and values by block: a token's five most active neurons and the five loudest for its "
        f"class; {len(images):,} images of {images.class_id.nunique():,} classes. Class-value agreement: mean over the "
        "classes.",
        "Chance: that two sets of five drawn from the block meet; the largest cosine of as many random vectors.",
        terms=("key-value agreement", "class-value agreement"),
    )


def of_composition(images: pd.DataFrame) -> str:
    return caption(
        f"How classes come about, by block and kind of token: {len(images):,} images of "
        f"{images.class_id.nunique():,} classes.",
        "Chance of identifiability: 0.5.",
        terms=("compositional share", "identifiability"),
    )


def of_pairs(index: StoredIndex, class_: str | int, measure: Measure, candidates: int, table: pd.DataFrame) -> str:
    return caption(
        f"Sums of two value vectors for {index.class_name(class_)}: the first {len(table):,} by gain in {measure}, of "
        f"all pairs of the {candidates:,} neurons with the largest score.",
        f"{table.passes.sum():,} of them gain more than chance, {table.chance.iloc[0]:.3f}: {DRAWN}.",
        flatness(index, measure, table["sum"]),
        terms=(measure, "gain", "over_twice", "by chance", "score"),
    )


def of_sets(index: StoredIndex, class_: str | int, measure: Measure, candidates: int, table: pd.DataFrame) -> str:
    return caption(
        f"Sets of value vectors for {index.class_name(class_)}: {table.set.nunique()} sets grown from the pairs with "
        f"the largest gain in {measure}, among the {candidates:,} neurons with the largest score.",
        f"Any two sets share at most half of their neurons. Chance: {DRAWN}.",
        flatness(index, measure, table.value),
        terms=(measure, "gain", "by chance", "score"),
    )


def of_composed(index: StoredIndex, measure: Measure, candidates: int, table: pd.DataFrame) -> str:
    return caption(
        f"{(table.pairs > 0).sum():,} of {len(table):,} classes are the loudest of a sum of two neurons that each say "
        f"another class; the best pair by {measure}, of the {candidates:,} such neurons with the largest score.",
        f"{table.passes.sum():,} of these sums are larger than chance: {DRAWN}.",
        flatness(index, measure, table["sum"].dropna()),
        terms=(measure, "composed", "by chance", "score"),
    )


def of_fires(index: StoredIndex, image: str, patch: str | None, table: pd.DataFrame) -> str:
    image_id = index.image_id(image)
    path, class_id = index.tables.rows("SELECT path, class_id FROM images WHERE image_id = ?", [image_id])[0]
    where = "all tokens" if patch is None else "the CLS token" if patch == "cls" else f"patch {patch}"
    of = "" if class_id is None or not index.spec.classes else f", class {index.class_name(int(class_id))}"
    return caption(
        f"{len(table):,} neurons that are among the five most active of a token of {path} (image {image_id}{of}): "
        f"{where}.",
        "The area of a dot grows with the number of tokens." if patch is None else "",
        terms=("activation of a token", "score") if index.spec.classes else ("activation of a token",),
    )


def _neurons(index: StoredIndex) -> int:
    return sum(layer.units for layer in index.ranked_layers)
