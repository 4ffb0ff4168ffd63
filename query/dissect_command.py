"""vitdex dissect: a subcommand for every table of dissection. Pictures load matplotlib, composition loads torch."""

from __future__ import annotations

from pathlib import Path

import click

from . import class_story, dissect_values
from . import regions as region
from .concepts import concepts
from .console import OUT, form_options, show
from .dissect_options import BY, CLASS, LAYER, QUANTILE, WEIGHTS, finish, mask_options, masks_if_any
from .index import Index
from .masks import open_masks
from .selectivity import selectivity, selectivity_by_block


@click.group()
def dissect() -> None:
    """Classes and neurons taken apart: blocks, regions, concepts, agreement, sums."""


@dissect.command()
@OUT
@BY
@click.option("--classes", is_flag=True, help="A class's first ten neurons, and how much the first carries.")
@form_options
def blocks(out: Path, by: str, classes: bool, form: str | None, picture: Path | None) -> None:
    """In which blocks the classes' top 1, 3 and 10 neurons sit."""
    with Index(out) as index:
        table, carried = class_story.blocks(index, by=by), class_story.carried(index, by=by)
        finish(carried if classes else table, form, picture, lambda f: f.blocks_figure(table, carried))


@dissect.command()
@OUT
@CLASS
@click.option("-k", default=10, show_default=True, help="Neurons of each block.")
@BY
@form_options
def activations(out: Path, class_: str, k: int, by: str, form: str | None, picture: Path | None) -> None:
    """A class's top neurons of each block and of all: their mean activation on its images and on all others."""
    with Index(out) as index:
        table = class_story.activations(index, class_, k, by)
        finish(table, form, picture, lambda f: f.activations_figure(table, class_))


@dissect.command()
@OUT
@CLASS
@BY
@QUANTILE
@mask_options
@WEIGHTS
@click.option("--neurons", is_flag=True, help="A row an image and neuron, not an image and union.")
@form_options
def regions(
    out: Path,
    class_: str,
    by: str,
    quantile: str,
    folder: str | None,
    names: str | None,
    weights: str | None,
    neurons: bool,
    form: str | None,
    picture: Path | None,
) -> None:
    """Where the class's top 1, 3 and 10 neurons are active on its images, against the objects' masks."""
    with Index(out) as index:
        masks = masks_if_any(index, folder, names)
        if neurons:
            show(region.regions(index, class_, 10, by, quantile, masks, weights), form)
        else:
            show(region.unions(index, class_, region.TOPS, by, quantile, masks, weights), form)
        if picture is not None:
            from .figures import save
            from .region_figure import regions_figure

            save(regions_figure(index, class_, region.TOPS, by, quantile, masks, weights=weights), picture)


@dissect.command()
@OUT
@BY
@QUANTILE
@mask_options
@WEIGHTS
@LAYER
@click.option("--random", default=50, show_default=True, help="Random neurons of the same block to compare with.")
@click.option("--seed", default=0, show_default=True, help="Draws them.")
@form_options
def focus(
    out: Path,
    by: str,
    quantile: str,
    folder: str | None,
    names: str | None,
    weights: str | None,
    layer: str | None,
    random: int,
    seed: int,
    form: str | None,
    picture: Path | None,
) -> None:
    """Whether each class's first neuron looks at the object, more than chance does."""
    with Index(out) as index:
        masks = open_masks(index, folder, names)
        table = region.focus(index, masks, by, quantile, layer, random, seed, weights)
        finish(table, form, picture, lambda f: f.focus_figure(table))


@dissect.command(name="concepts")
@OUT
@QUANTILE
@mask_options
@LAYER
@form_options
def concepts_command(
    out: Path,
    quantile: str,
    folder: str | None,
    names: str | None,
    layer: str | None,
    form: str | None,
    picture: Path | None,
) -> None:
    """Network dissection: every neuron's best concept, by IoU over all images."""
    with Index(out) as index:
        table = concepts(index, open_masks(index, folder, names), quantile, layer)
        finish(table, form, picture, lambda f: f.concepts_figure(table))


@dissect.command()
@OUT
@BY
@click.option("--top", default=1, show_default=True, help="Among how many of each class.")
@click.option("--classes", is_flag=True, help="Whether each class has a neuron of its own.")
@form_options
def shared(out: Path, by: str, top: int, classes: bool, form: str | None, picture: Path | None) -> None:
    """Neurons that are among the first of several classes, and classes without one of their own."""
    with Index(out) as index:
        table = class_story.shared(index, top, by)
        finish(class_story.own(index, by) if classes else table, form, picture, lambda f: f.shared_figure(table))


@dissect.command()
@OUT
@form_options
def similarity(out: Path, form: str | None, picture: Path | None) -> None:
    """Pairs of classes: similarity of their head rows and of what the neurons do on them."""
    with Index(out) as index:
        table = class_story.similarity(index)
        finish(table, form, picture, lambda f: f.similarity_figure(table))


@dissect.command(name="selectivity")
@OUT
@LAYER
@click.option("--blocks", is_flag=True, help="A row a block.")
@form_options
def selectivity_command(out: Path, layer: str | None, blocks: bool, form: str | None, picture: Path | None) -> None:
    """Every neuron's best class by AUROC, its sparsity, and whether it is dead."""
    with Index(out) as index:
        every = selectivity(index, layer)
        table = selectivity_by_block(every) if blocks else every
        finish(table, form, picture, lambda f: f.selectivity_figure(every))


for command in dissect_values.COMMANDS:
    dissect.add_command(command)
