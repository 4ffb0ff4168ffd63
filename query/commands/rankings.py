"""`vitdex rankings`: which ranking finds the neurons that matter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import click

from ..causal.captions import of_ranking_pairs, of_rankings
from ..causal.rankings import LOSSES, RANDOM, Loss, compare_rankings, ranking_means, ranking_pairs
from ..index import Index
from ..lookups.key_neurons import RANKINGS, Ranking, default_ranking
from ..stored.stored_index import StoredIndex
from .analysis_options import ANALYSIS_OPTIONS
from .classes import chosen_class
from .options import INDEX, OUTPUT, model_options, shown_options
from .output import answer
from .terminal import progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Literal["rankings", "classes", "pairs"]


@click.command("rankings")
@INDEX
@click.option(
    "-k", "ks", multiple=True, default=(1, 3, 10, 30), show_default=True, type=click.IntRange(1),
    help="How many of each class's first neurons are removed together; may be repeated.",
)  # fmt: skip
@click.option("--class", "classes", multiple=True, metavar="CLASS", help="Only this class; may be repeated.")
@click.option(
    "--by", "by", multiple=True, type=click.Choice(RANKINGS),
    help="A ranking to compare; may be repeated. All that the index has by default.",
)  # fmt: skip
@click.option(
    "--rows", default="rankings", show_default=True, type=click.Choice(get_args(Rows)),
    help="A row is a ranking, a ranking and class, or a ranking against another with a paired test.",
)  # fmt: skip
@click.option(
    "--against", type=click.Choice((*RANKINGS, RANDOM)),
    help="Of pairs: the ranking that the others are compared with, or random neurons; the default ranking by default.",
)  # fmt: skip
@click.option(
    "--measure", default="logit", show_default=True, type=click.Choice(LOSSES), help="Of pairs: which change."
)
@click.option("--replace", default="mean", show_default=True, help="By what: mean, zero, resample, or times:F.")
@click.option("--images", default=20, show_default=True, type=click.IntRange(1), help="Of each class, at most.")
@click.option("--random", default=5, show_default=True, type=click.IntRange(0), help="Sets of random neurons.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Classes at most, drawn.")
@ANALYSIS_OPTIONS["seed"](0)
@model_options
@OUTPUT
@shown_options
def rankings_command(
    index_path: Path,
    ks: tuple[int, ...],
    classes: tuple[str, ...],
    by: tuple[Ranking, ...],
    rows: Rows,
    against: str | None,
    measure: Loss,
    replace: str,
    images: int,
    random: int,
    limit: int,
    seed: int,
    weights: Path | None,
    device: str | None,
    outputs: tuple[Path, ...],
    form: str,
) -> None:
    """Which ranking finds the neurons that matter: what classes lose without their top neurons by each.

    \b
    vitdex rankings INDEX -o rankings.png
    vitdex rankings INDEX -k 10 --rows pairs --measure specific
    vitdex rankings INDEX --class coin --class bird --replace zero --rows classes

    Exact forward passes, beside random neurons of the same layers and beside what images of other classes lose.
    """
    with Index(index_path) as index, progress_bar("rankings", "img") as progress:
        asked = [chosen_class(index, word) for word in classes] or None
        table = compare_rankings(
            index, ks, asked, by or None, replace, images, random, limit, seed,
            weights=weights, device=device, progress=progress,
        )  # fmt: skip
        means = ranking_means(table)
        caption = of_rankings(index, table, replace, random)

        def draw() -> Figure:
            from ..drawing.rankings_figure import rankings_figure

            return rankings_figure(means, caption)

        if rows == "pairs":
            pairs = ranking_pairs(table, against or _default(index, table.class_id.iloc[0]), measure)
            answer(pairs, form, outputs, draw, question="rankings", caption=of_ranking_pairs(pairs, measure, replace))
        else:
            shown = means if rows == "rankings" else table
            answer(shown, form, outputs, draw, question="rankings", caption=caption)


def _default(index: StoredIndex, class_id: int) -> Ranking:
    """Every class that is compared has images: their default is the same."""
    return default_ranking(index, int(class_id))
