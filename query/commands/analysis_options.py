"""The options of questions to an index, whose choices the analyses name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..dissect.region_rules import THRESHOLDS
from ..dissect.regions import SHOWS
from ..dissect.similarity import ROWS
from ..dissect.value_sums import MEASURES
from ..lookups.key_neurons import RANKINGS
from .options import FILE, Option

BY = click.option(
    "--by",
    type=click.Choice(RANKINGS),
    help="Ranks key neurons; by default contribution, else folded, else score.",
)

# Options of the analyses, by the name of the parameter that each sets; the parameter's default is the option's.
ANALYSIS_OPTIONS: dict[str, Callable[[Any], Option]] = {
    "class_": lambda default: click.argument("class_", metavar="CLASS"),
    "image": lambda default: click.argument("image", metavar="IMAGE"),
    "one_image": lambda default: click.option(
        "--image", "one_image", metavar="IMAGE", help="Of one image, by number or path, instead of a mean."
    ),
    "by": lambda default: BY,
    "measure": lambda default: _option(
        "--by", "measure", default, "What the sum is judged by.", type=click.Choice(MEASURES)
    ),
    "k": lambda default: _option("-k", "k", default, "How many.", type=click.IntRange(1)),
    "each": lambda default: _option("--each", "each", default, "Classes of each neuron.", type=click.IntRange(1)),
    "layer": lambda default: click.option("--layer", help="Only this layer."),
    "threshold": lambda default: _option(
        "--quantile", "threshold", default, f"Above it is active: {THRESHOLDS} (image:80)."
    ),
    "quantile": lambda default: _option("--quantile", "quantile", default, "The neuron's own; above it is active."),
    "show": lambda default: _option(
        "--show",
        "show",
        default,
        "In the picture: regions in their neurons' colours, or the image inside the region alone.",
        type=click.Choice(SHOWS),
    ),
    "masks": lambda default: click.option(
        "--masks", type=FILE, metavar="DIR", help="Folder of masks that mirrors the image paths."
    ),
    "names": lambda default: click.option(
        "--names", type=FILE, metavar="FILE", help="Names of the masks' values from 1 on, one a line."
    ),
    "patch": lambda default: click.option("--patch", help="One patch by its number, or 'cls'; else all tokens."),
    "top": lambda default: _option("--top", "top", default, "Among how many of each class.", type=click.IntRange(1)),
    "random": lambda default: _option(
        "--random", "random", default, "Random neurons of the same block to compare with.", type=click.IntRange(1)
    ),
    "rows": lambda default: _option(
        "--rows",
        "rows",
        default,
        "A row is a pair of classes, a merge of a tree, or two spaces and how far they agree.",
        type=click.Choice(ROWS),
    ),
    "seed": lambda default: _option(
        "--seed", "seed", default, "Draws what is drawn at random.", type=click.IntRange(0)
    ),
    "size": lambda default: _option("--size", "size", default, "Neurons of a set.", type=click.IntRange(2)),
    "candidates": lambda default: _option(
        "--candidates", "candidates", default, "Neurons of which all pairs are tried.", type=click.IntRange(2)
    ),
    "classes": lambda default: click.option("--classes", is_flag=True, help="A row a class instead."),
    "blocks": lambda default: click.option("--blocks", is_flag=True, help="A row a block instead."),
    "neurons": lambda default: click.option("--neurons", is_flag=True, help="A row a neuron instead."),
}


def _option(flag: str, name: str, default: Any, text: str, **more: Any) -> Option:
    return click.option(flag, name, default=default, show_default=True, help=text, **more)
