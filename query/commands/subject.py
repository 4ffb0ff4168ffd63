"""`vitdex subject`: whether what a class's neurons cause lies on the object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..causal.subject import subject_caption, subject_effects
from ..dissect.masks import open_masks
from ..index import Index
from ..lookups.key_neurons import RANKINGS, Ranking
from .analysis_options import ANALYSIS_OPTIONS
from .options import INDEX, OUTPUT, model_options, shown_options
from .output import answer
from .terminal import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@click.command("subject")
@INDEX
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Neurons of each class.")
@click.option("--by", default="effect", show_default=True, type=click.Choice(RANKINGS), help="Ranks them.")
@click.option("--random", default=19, show_default=True, type=click.IntRange(1), help="Sets of random neurons.")
@ANALYSIS_OPTIONS["seed"](0)
@click.option("--exact", is_flag=True, help="Replace the neurons too, on the object alone and outside alone.")
@click.option("--images", default=20, show_default=True, type=click.IntRange(1), help="Of each class, for --exact.")
@ANALYSIS_OPTIONS["masks"](None)
@ANALYSIS_OPTIONS["names"](None)
@model_options
@OUTPUT
@shown_options
def subject_command(
    index_path: Path,
    k: int,
    by: Ranking,
    random: int,
    seed: int,
    exact: bool,
    images: int,
    masks: Path | None,
    names: Path | None,
    weights: Path | None,
    device: str | None,
    outputs: tuple[Path, ...],
    form: str,
) -> None:
    """How much of what each class's neurons cause lies on the object, beside its area and random neurons.

    \b
    vitdex subject INDEX -o subject.png
    vitdex subject INDEX --by contribution --exact

    INDEX has effects that were made with masks (vitdex effects). --masks and --names count for --exact alone.
    """
    with Index(index_path) as index, progress_bar("subject", "class") as progress:
        of_objects = open_masks(index, masks, names) if exact else None
        table = subject_effects(
            index, k, by, random, seed, of_objects, images, weights=weights, device=device, progress=progress
        )
        caption = subject_caption(index, table, k, random)

        def draw() -> Figure:
            from ..drawing.subject_figure import subject_figure

            return subject_figure(table, caption)

        answer(table, form, outputs, draw, question="subject", caption=caption)
