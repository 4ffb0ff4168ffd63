"""`vitdex top` and `vitdex neighbours`: the first neurons of a class, the first images of neurons, and images alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pandas as pd

from ...schemas.errors import QueryError
from ...schemas.numbers_shown import number_of
from ...schemas.run_spec import EXEMPLARS
from ..drawing.terms import definitions
from ..index import Index
from ..lookups.image_search import AGGREGATES, METRICS, Aggregate, Metric, neighbours, top_images
from ..lookups.key_neurons import Ranking
from ..stored.names import Neuron
from .analysis_options import BY
from .classes import chosen_class
from .files import PIXELS
from .options import CLASS, INDEX, PIXELS_OUTPUT, model_options, shown_options
from .output import answer

if TYPE_CHECKING:
    from PIL import Image

NEURONS = click.option("--neuron", "neurons", multiple=True, metavar="LAYER[:UNIT]", help="May be repeated.")
COUNT = click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many.")
IMAGES = 5  # of a class, below its key neurons


@click.command("top")
@INDEX
@CLASS
@NEURONS
@COUNT
@BY
@click.option("--layer", help="Key neurons of this layer alone.")
@click.option("--aggregate", type=click.Choice(AGGREGATES), help="Over several neurons.  [default: mean]")
@model_options
@PIXELS_OUTPUT
@shown_options
def top_command(
    index_path: Path,
    class_: str | None,
    neurons: tuple[str, ...],
    k: int,
    by: Ranking | None,
    layer: str | None,
    aggregate: Aggregate | None,
    weights: Path | None,
    device: str | None,
    outputs: tuple[Path, ...],
    form: str,
) -> None:
    """Key neurons of a class, or the images that drive one neuron or several most.

    \b
    vitdex top INDEX --class coin
    vitdex top INDEX --neuron blocks.4.mlp.fc1:473 -o exemplars.png
    vitdex top INDEX --neuron blocks.4.mlp.fc1:473 --neuron blocks.5.mlp.fc1:16 --aggregate min

    LAYER without a unit means all its units. Of several neurons each image's largest patches are aggregated.
    """
    if (class_ is None) == (not neurons):
        fact = "nothing to rank" if class_ is None else "a class and neurons are two questions"
        raise QueryError(fact, "Give either --class NAME, or --neuron LAYER:UNIT once or more.")
    alone = len(neurons) == 1 and ":" in neurons[0]
    _without_effect("--class", {"--by": by, "--layer": layer} if neurons else {})
    _without_effect("several neurons", {"--aggregate": aggregate} if class_ is not None or alone else {})
    with Index(index_path) as index:

        def draw() -> Image.Image:
            from ..heatmaps.contact_sheets import exemplars_picture, images_picture
            from ..heatmaps.heatmap import ranked_heatmaps

            if row is not None:
                maps = ranked_heatmaps(index, row, table, IMAGES, layer=layer, weights=weights, device=device)
                return maps.picture()
            if alone:
                return exemplars_picture(index, Neuron.of(neurons[0]), table, weights=weights, device=device)
            return images_picture(index, table, f"{aggregate or 'mean'} of {_shown(neurons)}", "value")

        row = chosen_class(index, class_)
        if row is not None:
            table, question = index.key_neurons(row, k, by, layer), "top"
            caption = _of_key_neurons(index, row, table, layer)
        elif alone:
            table, question = index.exemplars(*Neuron.of(neurons[0]), k), "exemplars"
            caption = (
                f"The {_images(len(table))} with the largest patch of {neurons[0]}, of {_images(_indexed(index))}."
            )
            if len(table) < min(k, _indexed(index)):
                caption += f" An index keeps {EXEMPLARS} of a neuron."
        else:
            table, question = top_images(index, neurons, k, aggregate or "mean"), "images"
            what = f"{aggregate or 'mean'} over {_shown(neurons)} of each one's largest patch"
            caption = f"The {_images(len(table))} with the largest {what}, of {_images(_indexed(index))}."
        answer(table, form, outputs, draw, PIXELS, question, caption)


def _without_effect(of: str, options: Mapping[str, str | None]) -> None:
    """Raise QueryError where one of these was given: it is read with `of` alone."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise QueryError(f"{' and '.join(given)} would change nothing here", f"Leave it out, or ask with {of}.")


@click.command("neighbours")
@INDEX
@click.argument("image")
@NEURONS
@COUNT
@click.option("--metric", default="cosine", show_default=True, type=click.Choice(METRICS), help="What is near.")
@PIXELS_OUTPUT
@shown_options
def neighbours_command(
    index_path: Path,
    image: str,
    neurons: tuple[str, ...],
    k: int,
    metric: Metric,
    outputs: tuple[Path, ...],
    form: str,
) -> None:
    """The images nearest to one in the space of some neurons: what excites them alike.

    \b
    vitdex neighbours INDEX coin/013.jpg --neuron blocks.5.mlp.fc1
    vitdex neighbours INDEX 93 --neuron blocks.4.mlp.fc1:473 --neuron blocks.5.mlp.fc1:16 --metric l2

    LAYER without a unit means all its units. An image is its largest patches. The picture begins with the image itself.
    """
    with Index(index_path) as index:
        table = neighbours(index, image, neurons, k, metric)
        caption = f"The {_images(len(table))} nearest to {image}, by {metric} distance in {_shown(neurons)}, of "
        caption += f"{_images(_indexed(index))}."

        def draw() -> Image.Image:
            return _neighbours_picture(index, image, table, metric, neurons)

        answer(table, form, outputs, draw, PIXELS, "neighbours", caption)


def _of_key_neurons(index: Index, class_: int, table: pd.DataFrame, layer: str | None) -> str:
    """What a table of key neurons shows."""
    by = str(table.attrs["by"])
    units = sum(spec.units for spec in index.ranked_layers if layer in (None, spec.name))
    images = f"; means over its {_images(int(table.n.max()))}" if table.n.max() > 0 else ""
    name = index.class_name(class_)
    return f"The first {len(table):,} of {number_of(units, 'neuron')} by {by} for {name}{images}.\n" + definitions(
        (by, *(("effect", "indirect") if "effect" in table else ()), "auroc")
    )


def _images(count: int) -> str:
    return number_of(count, "image")


def _indexed(index: Index) -> int:
    """How many images could be read."""
    return int(index.manifest["images"]["indexed"])


def _neighbours_picture(
    index: Index, image: str, table: pd.DataFrame, metric: Metric, neurons: tuple[str, ...]
) -> Image.Image:
    from ..heatmaps.contact_sheets import neighbours_picture

    return neighbours_picture(index, image, table, f"{metric} distance in {_shown(neurons)}")


def _shown(neurons: tuple[str, ...]) -> str:
    return ", ".join(neurons) if len(neurons) < 4 else f"{len(neurons)} neurons"
