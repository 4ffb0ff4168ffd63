"""`vitdex ablate`: what an answer loses without some neurons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...schemas.errors import QueryError
from ..causal.ablation import ablate, ablation_caption, chosen_neurons
from ..causal.runs import WHERES, Where
from ..dissect.masks import open_masks
from ..index import Index
from ..lookups.key_neurons import Ranking
from .analysis_options import ANALYSIS_OPTIONS, BY
from .classes import chosen_class
from .options import CLASS, INDEX, OUTPUT, model_options, shown_options
from .output import answer
from .terminal import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@click.command("ablate")
@INDEX
@CLASS
@click.option("--neuron", "neurons", multiple=True, metavar="LAYER:UNIT", help="A neuron; may be repeated.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Key neurons of the class.")
@BY
@click.option(
    "--replace", default="mean", show_default=True, help="By what: mean, zero, resample, or times:F (times:2)."
)
@click.option("--where", default="everywhere", show_default=True, type=click.Choice(WHERES), help="On which tokens.")
@ANALYSIS_OPTIONS["masks"](None)
@ANALYSIS_OPTIONS["names"](None)
@click.option("--images", default=50, show_default=True, type=click.IntRange(1), help="Of the class, at most.")
@click.option("--random", default=19, show_default=True, type=click.IntRange(0), help="Sets of random neurons.")
@ANALYSIS_OPTIONS["seed"](0)
@model_options
@OUTPUT
@shown_options
def ablate_command(
    index_path: Path,
    class_: str | None,
    neurons: tuple[str, ...],
    k: int,
    by: Ranking | None,
    replace: str,
    where: Where,
    masks: Path | None,
    names: Path | None,
    images: int,
    random: int,
    seed: int,
    weights: Path | None,
    device: str | None,
    outputs: tuple[Path, ...],
    form: str,
) -> None:
    """What the answer loses when neurons are replaced, by exact forward passes.

    \b
    vitdex ablate INDEX --class coin -k 10 -o coin.png
    vitdex ablate INDEX --class coin --neuron blocks.5.mlp.fc1:16 --replace zero
    vitdex ablate INDEX --class coin --by score --where subject

    Beside it as many random neurons of the same layers, --random times.
    """
    with Index(index_path) as index, progress_bar("ablate", "img") as progress:
        row = chosen_class(index, class_)
        if row is None:
            raise QueryError("whose answer?", "Give --class NAME.")
        of_objects = None if where == "everywhere" else open_masks(index, masks, names)
        table = ablate(
            index, row, neurons or None, k, by, replace, where, of_objects, images, random, seed,
            weights=weights, device=device, progress=progress,
        )  # fmt: skip
        what = chosen_neurons(index, row, neurons or None, k, by)
        caption = ablation_caption(index.class_name(row), what, replace, where, table, random)

        def draw() -> Figure:
            from ..drawing.ablation_figure import ablation_figure

            return ablation_figure(table, caption)

        answer(table, form, outputs, draw, question="ablate", caption=caption)
