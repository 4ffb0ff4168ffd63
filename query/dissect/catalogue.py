"""Every analysis once: its name, its question, the function that answers it, and its figure.

A new analysis is a function `ask(index, ...)` here that returns an Answer, and an entry in ANALYSES. The command line
makes its subcommand from that: parameters become options (commands/options.py), `weights` and `device` come together,
`progress` is a bar. Figures, and what runs the model, are imported when they are wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pandas as pd

from ...schemas.errors import QueryError
from ...schemas.progress import Progress
from ..lookups.class_images import labelled_images
from ..lookups.key_neurons import Ranking, chosen_ranking
from ..lookups.neuron import Quantile
from ..stored.stored_index import StoredIndex
from . import captions
from .agreement import class_value_agreement, key_value_agreement
from .carriers import carried_classes, carrier_neurons
from .classes import activations_of_class, carried_by_first, class_blocks
from .concepts import neuron_concepts
from .context import class_context
from .firing import firing_neurons
from .focus import class_focus
from .logits import logit_terms
from .masks import Masks, open_masks
from .region_rules import Threshold
from .regions import TOPS, Show, class_regions, region_unions, regions_figure
from .selectivity import auroc_by_chance, selectivity, selectivity_by_block
from .sharing import own_neurons, shared_neurons
from .similarity import Rows, agreement_of_spaces, class_similarity, class_trees
from .sum_search import Measure
from .value_sums import composed_classes, neuron_pairs, neuron_sets

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Answer:
    """A table, how its figure is drawn, and what both show: of what, by what, over how many.

    `table.attrs["by"]` names the ranking of key neurons, if any.
    """

    table: pd.DataFrame
    draw: Callable[[], Figure]
    caption: str


@dataclass(frozen=True)
class Analysis:
    """One entry: `vitdex dissect NAME` asks `ask`, whose first parameter is the index."""

    name: str
    question: str
    ask: Callable[..., Answer]


def _ranked(table: pd.DataFrame, by: Ranking) -> pd.DataFrame:
    """The table with its ranking named."""
    table.attrs["by"] = by
    return table


def _blocks(index: StoredIndex, by: Ranking | None = None, classes: bool = False) -> Answer:
    by = chosen_ranking(index, by)
    table, carried = class_blocks(index, by=by), carried_by_first(index, by=by)
    caption = captions.of_blocks(index, by, carried, classes)

    def draw() -> Figure:
        from ..drawing.class_figures import blocks_figure

        return blocks_figure(table, carried, by, captions.of_blocks(index, by, carried, False))

    return Answer(_ranked(carried if classes else table, by), draw, caption)


def _activations(index: StoredIndex, class_: str, k: int = 10, by: Ranking | None = None) -> Answer:
    by = chosen_ranking(index, by, class_)
    table = activations_of_class(index, class_, k, by)
    caption = captions.of_activations(index, class_, by, table)

    def draw() -> Figure:
        from ..drawing.class_figures import activations_figure

        kinds = {index.neuron_layer(layer, 0).kind for layer in table.layer.unique()}
        return activations_figure(table, index.class_name(class_), by, kinds=kinds, caption=caption)

    return Answer(_ranked(table, by), draw, caption)


def _masks_if_any(index: StoredIndex, folder: Path | None, names: Path | None) -> Masks | None:
    """The masks asked for, or those of the packaged sample; None where there are none."""
    if folder is not None:
        return open_masks(index, folder, names)
    try:
        return open_masks(index)
    except QueryError:
        return None


class _Costs(TypedDict):
    """What an answer costs: which weights the model takes and where it runs, and who is told how far it is."""

    weights: Path | None
    device: str | None
    progress: Progress | None


def _regions(
    index: StoredIndex,
    class_: str,
    by: Ranking | None = None,
    threshold: Threshold = "q99",
    masks: Path | None = None,
    names: Path | None = None,
    weights: Path | None = None,
    device: str | None = None,
    neurons: bool = False,
    show: Show = "colours",
    progress: Progress | None = None,
) -> Answer:
    by, shown = chosen_ranking(index, by, class_), _masks_if_any(index, masks, names)
    costs: _Costs = {"weights": weights, "device": device, "progress": progress}
    if neurons:
        table = class_regions(index, class_, 10, by, threshold, shown, **costs)
    else:
        table = region_unions(index, class_, TOPS, by, threshold, shown, **costs)
    return Answer(
        _ranked(table, by),
        lambda: regions_figure(index, class_, TOPS, by, threshold, shown, show=show, **costs),
        captions.of_regions(index, class_, by, threshold, neurons, table),
    )


def _focus(
    index: StoredIndex,
    by: Ranking | None = None,
    threshold: Threshold = "q99",
    masks: Path | None = None,
    names: Path | None = None,
    layer: str | None = None,
    random: int = 50,
    seed: int = 0,
    weights: Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Answer:
    by = chosen_ranking(index, by)
    table = class_focus(
        index, open_masks(index, masks, names), by, threshold, layer, random, seed,
        weights=weights, device=device, progress=progress,
    )  # fmt: skip
    caption = captions.of_focus(by, layer, table, random, seed)

    def draw() -> Figure:
        from ..drawing.focus_figure import focus_figure

        return focus_figure(table, by, caption)

    return Answer(_ranked(table, by), draw, caption)


def _concepts(
    index: StoredIndex,
    quantile: Quantile = "q99",
    masks: Path | None = None,
    names: Path | None = None,
    layer: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Answer:
    shown = open_masks(index, masks, names)
    table = neuron_concepts(index, shown, quantile, layer, seed, progress=progress)
    caption = captions.of_concepts(len(shown.images), len(shown.concepts), quantile, table)

    def draw() -> Figure:
        from ..drawing.neuron_figures import concepts_figure

        return concepts_figure(table, caption)

    return Answer(table, draw, caption)


def _context(
    index: StoredIndex,
    k: int = 10,
    by: Ranking | None = None,
    masks: Path | None = None,
    names: Path | None = None,
    layer: str | None = None,
    seed: int = 0,
    weights: Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Answer:
    by = chosen_ranking(index, by)
    table = class_context(
        index, open_masks(index, masks, names), k, by, layer, seed, weights=weights, device=device, progress=progress
    )
    caption = captions.of_context(index, by, layer, k, table, seed)

    def draw() -> Figure:
        from ..drawing.context_figure import context_figure

        return context_figure(table, by, caption)

    return Answer(_ranked(table, by), draw, caption)


def _shared(index: StoredIndex, by: Ranking | None = None, top: int = 1, classes: bool = False) -> Answer:
    by = chosen_ranking(index, by)
    table = shared_neurons(index, top, by)
    caption = captions.of_shared(by, top, index.spec.classes, table)

    def draw() -> Figure:
        from ..drawing.class_figures import shared_figure

        return shared_figure(table, top, by, caption)

    if not classes:
        return Answer(_ranked(table, by), draw, caption)
    own = own_neurons(index, by)
    return Answer(_ranked(own, by), draw, captions.of_own(by, own))


def _carriers(
    index: StoredIndex,
    k: int = 20,
    by: Ranking | None = None,
    each: int = 5,
    seed: int = 0,
    neurons: bool = False,
    progress: Progress | None = None,
) -> Answer:
    every = carrier_neurons(index, by, seed, progress=progress)
    classes = carried_classes(index, every, k, each)
    caption = captions.of_carriers(every, seed)

    def draw() -> Figure:
        from ..drawing.carriers_figure import carriers_figure

        return carriers_figure(every, classes, every.attrs["by"], caption)

    return Answer(every if neurons else classes, draw, caption)


def _similarity(index: StoredIndex, rows: Rows = "pairs", seed: int = 0) -> Answer:
    table = class_similarity(index)
    agreement = agreement_of_spaces(table, seed)
    caption = captions.of_similarity(index, table, labelled_images(index), agreement)

    def draw() -> Figure:
        from ..drawing.similarity_figure import similarity_figure

        return similarity_figure(table, agreement, caption)

    shown = table if rows == "pairs" else class_trees(table) if rows == "merges" else agreement
    return Answer(shown, draw, caption)


def _selectivity(index: StoredIndex, layer: str | None = None, blocks: bool = False) -> Answer:
    every = selectivity(index, layer)
    images = index.sql("SELECT class_id FROM images WHERE class_id IS NOT NULL AND crop IS NOT NULL").class_id
    chance = auroc_by_chance(images.value_counts().tolist())
    caption = captions.of_selectivity(every, layer, images, chance)

    def draw() -> Figure:
        from ..drawing.neuron_figures import selectivity_figure

        return selectivity_figure(every, chance, caption)

    return Answer(selectivity_by_block(every) if blocks else every, draw, caption)


def _agreement(index: StoredIndex, progress: Progress | None = None) -> Answer:
    values = class_value_agreement(index).rename(columns={"agreement": "class_value", "random": "class_value_chance"})
    table = key_value_agreement(index, progress=progress).merge(values, on=["layer", "block"])
    caption = captions.of_agreement(labelled_images(index))

    def draw() -> Figure:
        from ..drawing.neuron_figures import lines_figure

        labels = {"agreement": "key-value agreement", "class_value": "class-value agreement"}
        chances = {"agreement": "chance", "class_value": "class_value_chance"}
        return lines_figure(table, labels, chances, caption)

    return Answer(table, draw, caption)


def _composition(
    index: StoredIndex,
    weights: Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Answer:
    from .composition import composition

    table = composition(index, weights=weights, device=device, progress=progress)
    caption = captions.of_composition(labelled_images(index))

    def draw() -> Figure:
        from ..drawing.neuron_figures import lines_figure

        labels = {"compositional": "compositional share", "identifiability": "identifiability"}
        return lines_figure(table.assign(chance=0.5), labels, {"identifiability": "chance"}, caption)

    return Answer(table, draw, caption)


def _pairs(
    index: StoredIndex, class_: str, measure: Measure = "margin", candidates: int = 300, k: int = 20, seed: int = 0
) -> Answer:
    table = neuron_pairs(index, class_, measure, candidates, k, seed)
    caption = captions.of_pairs(index, class_, measure, candidates, table)

    def draw() -> Figure:
        from ..drawing.sum_figures import sums_figure

        return sums_figure(table, index.class_name(class_), measure, caption)

    return Answer(table, draw, caption)


def _sets(
    index: StoredIndex, class_: str, measure: Measure = "margin", candidates: int = 300, size: int = 4, seed: int = 0
) -> Answer:
    table = neuron_sets(index, class_, size, measure, candidates, seed=seed)
    caption = captions.of_sets(index, class_, measure, candidates, table)

    def draw() -> Figure:
        from ..drawing.sum_figures import sets_figure

        return sets_figure(table, index.class_name(class_), measure, caption)

    return Answer(table, draw, caption)


def _composed(
    index: StoredIndex,
    measure: Measure = "margin",
    candidates: int = 300,
    seed: int = 0,
    progress: Progress | None = None,
) -> Answer:
    table = composed_classes(index, measure, candidates, seed, progress=progress)
    caption = captions.of_composed(index, measure, candidates, table)

    def draw() -> Figure:
        from ..drawing.sum_figures import composed_figure

        return composed_figure(table, measure, caption)

    return Answer(table, draw, caption)


def _logits(
    index: StoredIndex,
    class_: str,
    one_image: str | None = None,
    k: int = 100,
    seed: int = 0,
    weights: Path | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Answer:
    table = logit_terms(index, class_, one_image, k, seed, weights=weights, device=device, progress=progress)
    caption = captions.of_logits(index, class_, one_image, table)

    def draw() -> Figure:
        from ..drawing.logit_figure import logit_figure

        return logit_figure(table, caption)

    return Answer(table, draw, caption)


def _fires(index: StoredIndex, image: str, patch: str | None = None, layer: str | None = None) -> Answer:
    table = firing_neurons(index, image, patch, layer)
    caption = captions.of_fires(index, image, patch, table)

    def draw() -> Figure:
        from ..drawing.neuron_figures import fires_figure

        return fires_figure(table, caption)

    return Answer(table, draw, caption)


ANALYSES = (
    Analysis("blocks", "In which blocks the classes' top 1, 3 and 10 neurons sit.", _blocks),
    Analysis(
        "activations",
        "A class's top neurons of each block and of all: how active they are on its images and on all others.",
        _activations,
    ),
    Analysis(
        "regions",
        "Where the class's top 1, 3 and 10 neurons are active on its images, against the objects' masks.",
        _regions,
    ),
    Analysis("focus", "Whether each class's first neuron looks at the object, more than chance does.", _focus),
    Analysis(
        "context", "How much of what each class's neurons do lies on the background, and which live from it.", _context
    ),
    Analysis("concepts", "Network dissection: every neuron's best concept, by IoU over all images.", _concepts),
    Analysis(
        "shared", "Neurons that are among the first of several classes, and classes without one of their own.", _shared
    ),
    Analysis("carriers", "Neurons that carry several classes: what they give to which, beside chance.", _carriers),
    Analysis(
        "similarity",
        "Classes alike in their head rows, to the value vectors, and in what neurons do: pairs and trees.",
        _similarity,
    ),
    Analysis("selectivity", "Every neuron's best class by AUROC, its sparsity, and whether it is dead.", _selectivity),
    Analysis(
        "agreement",
        "How often keys and values agree on a class, and how near value vectors come to the head's rows.",
        _agreement,
    ),
    Analysis(
        "composition",
        "How classes come about: by single neurons or by sums of them, and from which block on. Runs the model.",
        _composition,
    ),
    Analysis(
        "logits",
        "How a class's logit builds up: what attention and MLP of each block add to it. Runs the model.",
        _logits,
    ),
    Analysis("pairs", "Pairs of neurons whose summed value vectors say a class better than each alone.", _pairs),
    Analysis("sets", "Small sets of neurons, grown from a class's best pairs.", _sets),
    Analysis(
        "composed", "Classes composed of others: two neurons of other classes whose sum says this one.", _composed
    ),
    Analysis(
        "fires",
        "From an image to its neurons: which are a token's five largest, and what they say of its class.",
        _fires,
    ),
)
