"""`vitdex faithfulness`: whether views show what an answer stands on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..heatmaps.faithfulness import (
    BASELINES,
    ORDERINGS,
    Baseline,
    Ordering,
    insertion_deletion,
    insertion_deletion_caption,
)
from ..index import Index
from ..lookups.key_neurons import Ranking
from .analysis_options import ANALYSIS_OPTIONS, BY
from .classes import chosen_class
from .options import CLASS, INDEX, OUTPUT, model_options, shown_options
from .output import answer
from .terminal import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@click.command("faithfulness")
@INDEX
@CLASS
@click.option("-k", default=3, show_default=True, type=click.IntRange(1), help="Key neurons of the class, summed.")
@BY
@ANALYSIS_OPTIONS["layer"](None)
@click.option("--view", "views", multiple=True, type=click.Choice(ORDERINGS), help="May be repeated. [default: all]")
@click.option("--images", default=20, show_default=True, type=click.IntRange(1), help="Of each class, at most.")
@click.option("--steps", default=16, show_default=True, type=click.IntRange(2), help="Points of a curve.")
@click.option(
    "--baseline", default="blur", show_default=True, type=click.Choice(BASELINES), help="In place of absent patches."
)
@click.option("--random", default=19, show_default=True, type=click.IntRange(0), help="Random orders of each image.")
@ANALYSIS_OPTIONS["seed"](0)
@click.option("--curves", is_flag=True, help="A row a step instead.")
@model_options
@OUTPUT
@shown_options
def faithfulness_command(
    index_path: Path,
    class_: str | None,
    k: int,
    by: Ranking | None,
    layer: str | None,
    views: tuple[Ordering, ...],
    images: int,
    steps: int,
    baseline: Baseline,
    random: int,
    seed: int,
    curves: bool,
    weights: Path | None,
    device: str | None,
    outputs: tuple[Path, ...],
    form: str,
) -> None:
    """Insertion and deletion: a class's probability as patches are put in, or taken out, in the order of views.

    \b
    vitdex faithfulness INDEX --class coin -k 3 --images 20 -o coin.png
    vitdex faithfulness INDEX --layer blocks.4.mlp.fc1       # all classes
    vitdex faithfulness INDEX --class coin --view effect --view map --steps 64

    An image takes 2 + (2 x views + random orders) x (steps - 1) passes of the model, each of one picture.
    """
    with Index(index_path) as index, progress_bar("faithfulness", "pass") as progress:
        row = chosen_class(index, class_)
        found = insertion_deletion(
            index, row, k, by, layer, views or None, images, steps, baseline, random, seed,
            weights=weights, device=device, progress=progress,
        )  # fmt: skip
        caption = insertion_deletion_caption(index, row, k, by, baseline, random, found)

        def draw() -> Figure:
            from ..drawing.faithfulness_figure import faithfulness_figure

            return faithfulness_figure(found.areas, found.curves, caption)

        answer(found.curves if curves else found.areas, form, outputs, draw, question="faithfulness", caption=caption)
