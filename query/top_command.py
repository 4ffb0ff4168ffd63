"""`vitdex top` and `vitdex neighbours`: the first neurons of a class, the first images of neurons, and images alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pandas as pd

from ..schemas.errors import QueryError
from .class_story import needs_head
from .console import OUT, form_options, parse_neuron, save_picture, show
from .contact import exemplars_picture, images_picture, neighbours_picture
from .groups import AGGREGATES, METRICS, neighbours, top_images
from .heatmap import class_images, heatmaps
from .index import Index
from .key_neurons import KEY_RANKINGS

if TYPE_CHECKING:
    from PIL import Image

NEURONS = click.option("--neuron", "neurons", multiple=True, metavar="LAYER[:UNIT]", help="May be repeated.")
COUNT = click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many.")
IMAGES = 5  # of a class, below its key neurons


@click.command("top")
@OUT
@click.option("--class", "class_", help="A class by name, number or WordNet id: its key neurons.")
@NEURONS
@COUNT
@click.option("--by", default="score", show_default=True, type=click.Choice(KEY_RANKINGS), help="Ranks key neurons.")
@click.option("--layer", help="Key neurons of this layer alone.")
@click.option("--aggregate", default="mean", show_default=True, type=click.Choice(AGGREGATES), help="Over neurons.")
@form_options
def top_command(
    out: Path,
    class_: str | None,
    neurons: tuple[str, ...],
    k: int,
    by: str,
    layer: str | None,
    aggregate: str,
    form: str | None,
    picture: Path | None,
) -> None:
    """Key neurons of a class, or the images that drive one neuron or several most.

    \b
    vitdex top OUT --class coin
    vitdex top OUT --neuron blocks.4.mlp.fc1:473 -o exemplars.png
    vitdex top OUT --neuron blocks.4.mlp.fc1:473 --neuron blocks.5.mlp.fc1:16 --aggregate min

    LAYER without a unit means all its units. Of several neurons each image's largest patches are aggregated.
    """
    if (class_ is None) == (not neurons):
        raise QueryError("nothing to rank", "Give either --class NAME, or --neuron LAYER:UNIT once or more.")
    with Index(out) as index:
        if class_ is not None:
            needs_head(index)
            table = index.key_neurons(class_, k, by, layer)
            draw = partial(_class_picture, index, class_, table)
        elif len(neurons) == 1 and ":" in neurons[0]:
            table = index.exemplars(*parse_neuron(neurons[0]), k)
            draw = partial(exemplars_picture, index, *parse_neuron(neurons[0]), table)
        else:
            table = top_images(index, neurons, k, aggregate)
            draw = partial(images_picture, index, table, f"{aggregate} of {_named(neurons)}", "value")
        _finish(table, form, draw, picture)


@click.command("neighbours")
@OUT
@click.argument("image")
@NEURONS
@COUNT
@click.option("--metric", default="cosine", show_default=True, type=click.Choice(METRICS), help="What is near.")
@form_options
def neighbours_command(
    out: Path, image: str, neurons: tuple[str, ...], k: int, metric: str, form: str | None, picture: Path | None
) -> None:
    """The images nearest to one in the space of some neurons: what excites them alike.

    \b
    vitdex neighbours OUT coin/013.jpg --neuron blocks.5.mlp.fc1
    vitdex neighbours OUT 93 --neuron blocks.4.mlp.fc1:473 --neuron blocks.5.mlp.fc1:16 --metric l2

    LAYER without a unit means all its units. An image is its largest patches. The picture begins with the image itself.
    """
    with Index(out) as index:
        table = neighbours(index, image, neurons, k, metric)
        draw = partial(neighbours_picture, index, image, table, f"{metric} distance in {_named(neurons)}")
        _finish(table, form, draw, picture)


def _finish(table: pd.DataFrame, form: str | None, draw: Callable[[], Image.Image], picture: Path | None) -> None:
    show(table, form)
    if picture is not None:
        save_picture(draw(), picture)


def _class_picture(index: Index, class_: str, table: pd.DataFrame) -> Image.Image:
    """The key neurons over the class's images, as `vitdex heatmap` draws them."""
    neurons = list(zip(table.layer, table.unit.tolist(), strict=True))
    return heatmaps(index, neurons, class_images(index, class_, IMAGES)).picture()


def _named(neurons: tuple[str, ...]) -> str:
    return ", ".join(neurons) if len(neurons) < 4 else f"{len(neurons)} neurons"
