"""`vitdex heatmap`: neurons over images, as one picture."""

from __future__ import annotations

from pathlib import Path

import click

from ..schemas.errors import QueryError
from .console import OUT, parse_neuron, save_picture
from .heatmap import class_images, heatmaps, key_neurons
from .index import Index
from .key_neurons import KEY_RANKINGS
from .views import VIEWS, Neuron


@click.command("heatmap")
@OUT
@click.option("--class", "class_", help="A class by name, number or WordNet id: its key neurons on its images.")
@click.option("-k", default=5, show_default=True, type=click.IntRange(1, 50), help="Key neurons of the class.")
@click.option("--by", default="score", show_default=True, type=click.Choice(KEY_RANKINGS), help="What makes them key.")
@click.option("--images", "count", default=5, show_default=True, type=click.IntRange(1, 50), help="How many images.")
@click.option("--neuron", "neurons", multiple=True, metavar="LAYER:UNIT", help="A neuron; may be repeated.")
@click.option("--image", "images", multiple=True, metavar="ID", help="An image by number or path; may be repeated.")
@click.option("--view", default="map", show_default=True, type=click.Choice(VIEWS), help="What is shown.")
@click.option("--blocky", is_flag=True, help="Patches as squares, not smoothed.")
@click.option("--weights", type=click.Path(path_type=Path), help="The model's weights, for what is not stored.")
@click.option("-o", "picture", required=True, type=click.Path(path_type=Path), help="Where the picture goes (.png).")
def heatmap_command(
    out: Path,
    class_: str | None,
    k: int,
    by: str,
    count: int,
    neurons: tuple[str, ...],
    images: tuple[str, ...],
    view: str,
    blocky: bool,
    weights: Path | None,
    picture: Path,
) -> None:
    """Neurons over the images that the model saw, as one picture.

    \b
    vitdex heatmap OUT --class coin -k 3 -o coin.png
    vitdex heatmap OUT --neuron blocks.4.mlp.fc1:473 --image coin/003.jpg -o one.png
    vitdex heatmap OUT --neuron blocks.4.mlp.fc1:473 -o exemplars.png

    Images are those named, else the class's of which the model is surest, else the neuron's strongest.
    """
    with Index(out) as index:
        columns = _columns(index, view, neurons, class_, k, by)
        rows = _rows(index, images, class_, columns, count)
        shown = heatmaps(index, columns, rows, view, class_, weights)
        save_picture(shown.picture(blocks=blocky), picture)


def _columns(index: Index, view: str, neurons: tuple[str, ...], class_: str | None, k: int, by: str) -> list[Neuron]:
    if neurons:
        return [parse_neuron(text) for text in neurons]
    if view == "logit-gradient":  # of no neuron
        return []
    if class_ is None:
        raise QueryError("nothing to show", "Give --class NAME or --neuron LAYER:UNIT.")
    return key_neurons(index, class_, k, by)


def _rows(
    index: Index, images: tuple[str, ...], class_: str | None, neurons: list[Neuron], count: int
) -> list[str] | list[int]:
    if images:
        return list(images)
    if class_ is not None:
        return class_images(index, class_, count)
    if len(neurons) != 1:
        raise QueryError("no images to show", "Give --image ID or --class NAME.")
    return [int(i) for i in index.exemplars(*neurons[0], k=count).image_id]
