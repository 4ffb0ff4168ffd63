"""What the subcommands of vitdex dissect share: options, masks, and how a table and its figure come out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pandas as pd

from ..schemas.errors import QueryError
from .console import Command, show
from .index import Index
from .key_neurons import KEY_RANKINGS
from .masks import Masks, open_masks
from .sums import MEASURES
from .thresholds import QUANTILES

CLASS = click.argument("class_", metavar="CLASS")
BY = click.option("--by", type=click.Choice(KEY_RANKINGS), default="score", show_default=True, help="What ranks.")
MEASURE = click.option("--by", type=click.Choice(MEASURES), default="probability", show_default=True)
QUANTILE = click.option("--quantile", type=click.Choice(QUANTILES), default="q99", show_default=True, help="Threshold.")
LAYER = click.option("--layer", help="Only this layer.")
WEIGHTS = click.option("--weights", help="Weights for what the index does not store.")


def mask_options(command: Command) -> Command:
    """--masks and --names."""
    command = click.option("--names", help="Names of the masks' values from 1 on, one a line.")(command)
    return click.option("--masks", "folder", help="Folder of masks that mirrors the image paths.")(command)


def finish(table: pd.DataFrame, form: str | None, picture: Path | None, draw: Any) -> None:
    """Print a table and write its figure where one was asked for. `draw` makes it from the module of figures."""
    show(table, form)
    if picture is not None:
        from . import figures

        figures.save(draw(figures), picture)


def masks_if_any(index: Index, folder: str | None, names: str | None) -> Masks | None:
    """The masks asked for, or those of the packaged sample; None where there are none."""
    if folder is not None:
        return open_masks(index, folder, names)
    try:
        return open_masks(index)
    except QueryError:
        return None
