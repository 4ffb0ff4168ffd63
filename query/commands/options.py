"""The words of the command line: arguments and options that mean the same wherever they stand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ...schemas.layout import file_name
from ..dissect.region_rules import THRESHOLDS
from ..dissect.regions import SHOWS
from ..dissect.value_sums import MEASURES
from ..lookups.key_neurons import RANKINGS

Command = Callable[..., Any]
Option = Callable[[Command], Command]


class FileType(click.Path):
    """A path, with the bytes that the system gave it, though the words of the command line are read as UTF-8."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(file_name(value) if isinstance(value, str) else value, param, ctx)


FILE = FileType(path_type=Path)
INDEX = click.argument("index_path", metavar="INDEX", type=FILE)  # what is read
OUT = click.argument("out", metavar="OUT", type=FILE)  # what is made


def _outputs(kinds: str) -> Option:
    return click.option(
        "-o", "--output", "outputs", multiple=True, type=FILE, metavar="FILE",
        help=f"Write {kinds} to FILE; may be repeated.",
    )  # fmt: skip


TABLE = "the table (.csv, .json, .parquet)"
OUTPUT = _outputs(f"the picture (.png, .jpg, .pdf, .svg) or {TABLE}")
PIXELS_OUTPUT = _outputs(f"the picture (.png, .jpg, .pdf) or {TABLE}")
TABLE_OUTPUT = _outputs(TABLE)
PICTURE = click.option(
    "-o", "--output", type=FILE, required=True, metavar="FILE", help="The picture: .png, .jpg or .pdf."
)
CLASS = click.option("--class", "class_", metavar="CLASS", help="A class by name, number or WordNet id.")
BY = click.option(
    "--by",
    type=click.Choice(RANKINGS),
    help="Ranks key neurons; by default contribution, else folded, else score.",
)
LAYERS = click.option("--layer", "layers", multiple=True, required=True, help="A layer's name; may be repeated.")


def model_options(command: Command) -> Command:
    """--weights and --device: the model, for what the index does not store."""
    command = click.option("--device", help="Where the model runs: cpu, cuda, mps. The best there is by default.")(
        command
    )
    return click.option(
        "--weights", type=FILE, help="The model's weights, for what is not stored: a safetensors file or a folder."
    )(command)


def table_options(command: Command) -> Command:
    """--format, with --csv and --json for short, as `form`."""

    @functools.wraps(command)
    def run(*args: Any, form: str, as_csv: bool, as_json: bool, **options: Any) -> Any:
        return command(*args, form="csv" if as_csv else "json" if as_json else form, **options)

    run = click.option("--json", "as_json", is_flag=True, help="Short for --format json: a list of records.")(run)
    run = click.option("--csv", "as_csv", is_flag=True, help="Short for --format csv: comma-separated, with a header.")(
        run
    )
    forms = click.Choice(["table", "csv", "json"])
    return click.option("--format", "form", type=forms, default="table", show_default=True, help="Of the answer.")(run)


# Options of the analyses, by the name of the parameter that each sets; the parameter's default is the option's.
ANALYSIS_OPTIONS: dict[str, Callable[[Any], Option]] = {
    "class_": lambda default: click.argument("class_", metavar="CLASS"),
    "image": lambda default: click.argument("image", metavar="IMAGE"),
    "by": lambda default: BY,
    "measure": lambda default: _option(
        "--by", "measure", default, "What the sum is judged by.", type=click.Choice(MEASURES)
    ),
    "k": lambda default: _option("-k", "k", default, "How many.", type=click.IntRange(1)),
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
    "seed": lambda default: _option("--seed", "seed", default, "Draws them.", type=click.IntRange(0)),
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
