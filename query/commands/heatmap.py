"""`vitdex heatmap`: neurons over images, as one picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ...schemas.errors import QueryError
from ..heatmaps.heatmap import chosen_images, chosen_neurons
from ..heatmaps.views import SCALES, VIEWS, ScaleOf, View
from ..index import Index
from ..lookups.class_images import class_images
from ..lookups.key_neurons import Ranking, named
from ..stored.names import Neuron
from .analysis_options import BY
from .classes import chosen_class
from .files import FIGURES, check_output
from .options import CLASS, INDEX, PICTURE, model_options
from .output import save_picture


@click.command("heatmap")
@INDEX
@CLASS
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 50), help="Key neurons of the class.")
@BY
@click.option("--images", "count", default=5, show_default=True, type=click.IntRange(1, 50), help="How many images.")
@click.option("--neuron", "neurons", multiple=True, metavar="LAYER:UNIT", help="A neuron; may be repeated.")
@click.option("--image", "images", multiple=True, metavar="ID", help="An image by number or path; may be repeated.")
@click.option("--view", default="map", show_default=True, type=click.Choice(VIEWS), help="What is shown.")
@click.option(
    "--scale",
    default="neuron",
    show_default=True,
    type=click.Choice(SCALES),
    help="Whose colours: the neuron's, the same on every image, or each image's own.",
)
@click.option("--blocky", is_flag=True, help="Patches as squares, not smoothed.")
@model_options
@PICTURE
def heatmap_command(
    index_path: Path,
    class_: str | None,
    k: int,
    by: Ranking | None,
    count: int,
    neurons: tuple[str, ...],
    images: tuple[str, ...],
    view: View,
    scale: ScaleOf,
    blocky: bool,
    weights: Path | None,
    device: str | None,
    output: Path,
) -> None:
    """Neurons over the images that the model saw, as one picture.

    \b
    vitdex heatmap INDEX --class coin -k 3 -o coin.png
    vitdex heatmap INDEX --neuron blocks.4.mlp.fc1:473 --image coin/003.jpg -o one.png
    vitdex heatmap INDEX --neuron blocks.4.mlp.fc1:473 -o exemplars.png
    vitdex heatmap INDEX --class coin -k 3 --view post --scale image -o first-study.png

    Images are those named, else the class's of which the model is surest, else the neuron's strongest.
    """
    check_output(output, FIGURES)
    with Index(index_path) as index:
        row = chosen_class(index, class_)
        columns, note = _columns(index, view, neurons, row, k, by)
        rows = _rows(index, images, row, columns, count)
        shown = index.heatmaps(columns, rows, view, row, scale, weights=weights, device=device)
        chosen = () if images else (_chosen(index, row, columns, len(rows)),)
        named_by = replace(shown, title=" ".join([*note, f"{shown.title}."]), notes=(*chosen, *shown.notes))
        lines = output.suffix.lower() in (".pdf", ".svg")
        save_picture(named_by.figure(blocky) if lines else named_by.picture(blocky), output)


def _columns(
    index: Index, view: View, neurons: tuple[str, ...], class_: int | None, k: int, by: Ranking | None
) -> tuple[list[Neuron], tuple[str, ...]]:
    """The neurons to show, and how they were chosen."""
    if neurons:
        return [Neuron.of(text) for text in neurons], ()
    if view == "logit-gradient":  # of no neuron
        return [], ()
    if class_ is None:
        raise QueryError("nothing to show", "Give --class NAME or --neuron LAYER:UNIT.")
    ranked = index.key_neurons(class_, k, by)
    return named(ranked), (chosen_neurons(index, class_, ranked),)


def _chosen(index: Index, class_: int | None, neurons: list[Neuron], count: int) -> str:
    """How the images that nobody named were chosen."""
    if class_ is not None:
        return chosen_images(index, class_, count)
    return f"Images: the {count:,} with the largest patch of {neurons[0]}."


def _rows(
    index: Index, images: tuple[str, ...], class_: int | None, neurons: list[Neuron], count: int
) -> list[str] | list[int]:
    if images:
        return list(images)
    if class_ is not None:
        rows: list[int] = class_images(index, class_, count).image_id.tolist()
        return rows
    if len(neurons) != 1:
        raise QueryError("no images to show", "Give --image ID or --class NAME.")
    return [int(i) for i in index.exemplars(*neurons[0], k=count).image_id]
