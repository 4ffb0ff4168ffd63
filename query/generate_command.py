"""`vitdex generate`: images on demand that excite a neuron."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pandas as pd
from tqdm import tqdm

from ..schemas.errors import QueryError
from .console import OUT, show, table_options
from .generated import remove as remove_generated
from .index import Index

SHOWN = ["id", "layer", "unit", "step", "pre_mean", "post_mean", "ratio", "percentile", "p_class", "diversity", "file"]


@click.command("generate")
@OUT
@click.option("--class", "class_", metavar="CLASS", help="Excite this class's top key neuron (or its --over logit).")
@click.option("--neuron", "neurons", multiple=True, metavar="LAYER:UNIT", help="Excite this neuron; repeat for a set.")
@click.option("--recipe", default="default", show_default=True, type=click.Choice(["default", "robust", "plain"]))
@click.option("--over", default="mean", show_default=True, metavar="mean|max|logit|PATCH", help="What to excite.")
@click.option("--post", is_flag=True, help="Excite the value behind the nonlinearity.")
@click.option(
    "--contrast", type=click.Choice(["siblings", "features"]), help="Against sibling classes, or real images."
)
@click.option(
    "--start", default="noise", show_default=True, metavar="noise|exemplars|IMAGE", help="What to start from."
)
@click.option("--images", default=4, show_default=True, type=click.IntRange(1), help="Made together, pushed apart.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Decides every random draw.")
@click.option(
    "--snapshot", "snapshots", multiple=True, type=click.IntRange(1), help="Keep this step; the last one ends."
)
@click.option("--weights", type=click.Path(path_type=Path), help="The model's weights, without timm's hub.")
@click.option("--device", default="cpu", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A picture: snapshots beside real exemplars.")
@click.option("--remove", "removed", multiple=True, type=int, metavar="ID", help="Remove generated images instead.")
@table_options
def generate_command(
    out: Path,
    class_: str | None,
    neurons: tuple[str, ...],
    recipe: str,
    over: str,
    post: bool,
    contrast: str | None,
    start: str,
    images: int,
    seed: int,
    snapshots: tuple[int, ...],
    weights: Path | None,
    device: str,
    output: Path | None,
    removed: tuple[int, ...],
    form: str | None,
) -> None:
    """Make images that excite a class's top neuron, or any neurons.

    They are kept in the notes beside the index: `vitdex sql OUT "FROM generated"`.
    """
    with Index(out) as index:
        if removed:
            remove_generated(index.layout, removed)
            return
        from .generate import Target, generate
        from .live import open_model
        from .recipes import RECIPES
        from .stimulus import Neuron, top_neuron

        class_id = None if class_ is None else index.class_id(class_)
        chosen = tuple(Neuron(*_neuron(index, word)) for word in neurons)
        if class_id is None and not chosen:
            raise QueryError("nothing to excite", "Give --class or --neuron LAYER:UNIT.")
        if not chosen and class_id is not None:
            chosen = (top_neuron(index, class_id),)
        target = Target(chosen, class_id, int(over) if over.isdecimal() else _over(over), post, contrast)
        live = open_model(index, weights, device)
        kept: list[pd.DataFrame] = []
        steps = max(snapshots) if snapshots else RECIPES[recipe].steps
        stopped = False
        with tqdm(total=steps, disable=not sys.stderr.isatty(), unit="step") as bar:

            def report(step: int, value: float) -> None:
                bar.set_postfix_str(f"score {value:.2f} sd", refresh=False)
                bar.update()

            try:
                generate(live, target, recipe, images, seed, start, snapshots, report, kept.append)
            except KeyboardInterrupt:
                stopped = True
        if kept:
            rows = pd.concat(kept, ignore_index=True)
            show(rows[SHOWN], form)
            if output is not None:
                from .generate_figure import draw_generated

                draw_generated(index, rows, output)
        if stopped:
            click.echo(f"Stopped at step {bar.n}; what there was is kept.", err=True)
            sys.exit(130)


def _over(word: str) -> str:
    if word not in ("mean", "max", "logit"):
        raise QueryError(f"nothing to excite is called '{word}'", "One of mean, max, logit, or the number of a patch.")
    return word


def _neuron(index: Index, word: str) -> tuple[str, int]:
    layer, _, unit = word.rpartition(":")
    if not unit.isdecimal():
        raise QueryError(f"'{word}' is no neuron", f"Write LAYER:UNIT, as {index.spec.layers[-1].name}:0.")
    index.neuron_layer(layer, int(unit))
    return layer, int(unit)
