"""`vitdex generate`: images on demand that excite a neuron."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click
import pandas as pd
from tqdm import tqdm

from ...schemas.errors import QueryError
from ..drawing.terms import definitions
from ..index import Index
from ..lookups.key_neurons import Ranking, named
from ..notes.generated_images import remove as remove_generated
from ..stored.names import Neuron
from .analysis_options import BY
from .classes import chosen_class
from .files import check_output
from .options import CLASS, INDEX, OUTPUT, model_options, shown_options
from .output import answer
from .terminal import say

if TYPE_CHECKING:
    from ..generate.recipes import RecipeName
    from ..generate.target import Contrast, Over


@click.command("generate")
@INDEX
@CLASS
@click.option("--neuron", "neurons", multiple=True, metavar="LAYER:UNIT", help="Excite this neuron; repeat for a set.")
@click.option("-k", "--images", "k", default=4, show_default=True, type=click.IntRange(1), help="Images, pushed apart.")
@BY
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    type=click.Choice(["default", "robust", "plain"]),
    help="How: smooth, shaken all the while, or pixels by plain gradient descent.",
)
@click.option("--over", default="mean", show_default=True, metavar="mean|max|logit|PATCH", help="What to excite.")
@click.option("--post", is_flag=True, help="Excite the value after the nonlinearity (fc1 layers).")
@click.option(
    "--contrast", type=click.Choice(["siblings", "features"]), help="Against sibling classes, or real images."
)
@click.option(
    "--start", default="noise", show_default=True, metavar="noise|exemplars|IMAGE", help="What to start from."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides every random draw.")
@click.option(
    "--snapshot", "snapshots", multiple=True, type=click.IntRange(1), help="Keep this step; the last one ends."
)
@click.option("--steps", type=click.IntRange(1), help="Of the whole run; the recipe's snapshots move with them.")
@click.option("--diversity", type=float, metavar="WEIGHT", help="Push the images apart more (or less: 0).")
@click.option("--remove", "removed", multiple=True, type=int, metavar="ID", help="Remove generated images instead.")
@model_options
@OUTPUT
@shown_options
def generate_command(
    index_path: Path,
    class_: str | None,
    neurons: tuple[str, ...],
    k: int,
    by: Ranking | None,
    recipe: RecipeName,
    over: str,
    post: bool,
    contrast: Contrast | None,
    start: str,
    seed: int,
    snapshots: tuple[int, ...],
    steps: int | None,
    diversity: float | None,
    removed: tuple[int, ...],
    weights: Path | None,
    device: str | None,
    outputs: tuple[Path, ...],
    form: str,
) -> None:
    """Make images that excite a class's top key neuron (or its logit: --over logit), or any neurons.

    They are kept in the notes beside the index: `vitdex sql INDEX "FROM generated"`.
    """
    for path in outputs:
        check_output(path)
    with Index(index_path) as index:
        if removed:
            remove_generated(index.layout, removed)
            return
        from ..generate.picture import generated_figure
        from ..generate.recipes import RECIPES
        from ..generate.run import generate_images
        from ..generate.target import Target

        class_id = chosen_class(index, class_)
        chosen = _neurons(index, neurons, class_id, by)
        target = Target(chosen, class_id, int(over) if over.isdecimal() else cast("Over", over), post, contrast)
        kept: list[pd.DataFrame] = []
        stopped = False
        total = RECIPES[recipe].adapted(steps, snapshots, diversity).steps
        with tqdm(total=total, disable=not sys.stderr.isatty(), unit="step") as bar:

            def report(step: int, value: float) -> None:
                bar.set_postfix_str(f"score {value:.2f} sd", refresh=False)
                bar.update()

            try:
                generate_images(
                    index, target, recipe, k, seed, start, snapshots,
                    steps=steps, diversity=diversity, weights=weights, device=device, report=report, save=kept.append,
                )  # fmt: skip
            except KeyboardInterrupt:
                stopped = True
        if kept:
            rows = pd.concat(kept, ignore_index=True)
            caption = definitions(("pre_mean", "ratio", "percentile"))
            answer(rows, form, outputs, lambda: generated_figure(index, rows), question="generate", caption=caption)
            if rows.ratio.isna().any():
                say("ratio and percentile cannot be told: the index holds one image, or images alike to the neuron")
        if stopped:
            say(f"Stopped at step {bar.n}; what there was is kept.")
            sys.exit(130)


def _neurons(index: Index, words: tuple[str, ...], class_id: int | None, by: Ranking | None) -> tuple[Neuron, ...]:
    """The neurons named, else the class's first key neuron."""
    if words:
        chosen = tuple(Neuron.of(word) for word in words)
        for neuron in chosen:
            index.neuron_layer(*neuron)
        return chosen
    if class_id is None:
        raise QueryError("nothing to excite", "Give --class or --neuron LAYER:UNIT.")
    ranked = index.key_neurons(class_id, 1, by)
    say(f"exciting {named(ranked)[0]}, first by {ranked.attrs['by']}")
    return tuple(named(ranked))
