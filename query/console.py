"""What all commands share: the index argument, the forms of a table, where a picture goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pandas as pd

from ..schemas.errors import QueryError

if TYPE_CHECKING:
    from PIL import Image

OUT = click.argument("out", type=click.Path(path_type=Path))

Command = Callable[..., Any]


def table_options(command: Command) -> Command:
    """--csv and --json, as `form`."""
    command = click.option("--json", "form", flag_value="json", help="A list of records.")(command)
    return click.option("--csv", "form", flag_value="csv", help="Comma-separated, with a header.")(command)


def form_options(command: Command) -> Command:
    """--csv, --json and -o."""
    command = table_options(command)
    return click.option("-o", "picture", type=click.Path(path_type=Path), help="Write the picture to this file.")(
        command
    )


def show(frame: pd.DataFrame, form: str | None) -> None:
    """Print a result as a table, CSV or JSON."""
    if form == "csv":
        click.echo(frame.to_csv(index=False), nl=False)
    elif form == "json":
        click.echo(frame.to_json(orient="records", force_ascii=False))
    else:
        click.echo(frame.to_string(index=False) if len(frame) else "no rows")


def parse_neuron(text: str) -> tuple[str, int]:
    """The layer and unit of LAYER:UNIT. Raises QueryError where the text is none."""
    layer, colon, unit = text.rpartition(":")
    if not (layer and colon and unit.isdecimal()):
        raise QueryError(f"'{text}' is no LAYER:UNIT", "Write it like blocks.7.mlp.fc1:2014.")
    return layer, int(unit)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture and say where. Raises QueryError rather than replace what is no picture."""
    from PIL import Image

    if path.suffix.lower() != ".png":
        raise QueryError(f"{path} is no .png", "Pictures are written as PNG: -o picture.png.")
    if path.exists():
        try:
            with Image.open(path):
                pass
        except OSError as error:
            raise QueryError(f"{path} is there and is no picture", "Choose another name.") from error
    if not path.absolute().parent.is_dir():
        raise QueryError(f"there is no folder {path.parent}", "Make it, or choose another name.")
    picture.save(path)
    click.echo(f"{path}: {picture.width} x {picture.height} pixels")
