"""The words of the command line: arguments and options that mean the same wherever they stand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ...schemas.addressed import is_address
from ...schemas.file_names import file_name
from ..stored.elsewhere import brought
from .terminal import progress_bar

Command = Callable[..., Any]
Option = Callable[[Command], Command]


class FileType(click.Path):
    """A path, with the bytes that the system gave it, though the words of the command line are read as UTF-8."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(file_name(value) if isinstance(value, str) else value, param, ctx)


class IndexType(FileType):
    """An index's folder; for an address, the folder of the user's cache that stands for it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not (isinstance(value, str) and is_address(value)):
            return super().convert(value, param, ctx)
        with progress_bar("downloading tables", "B") as progress:
            return brought(value, progress)


FILE = FileType(path_type=Path)
INDEX = click.argument("index_path", metavar="INDEX", type=IndexType(path_type=Path))  # what is read
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
    "-o", "--output", type=FILE, required=True, metavar="FILE", help="The picture: .png, .jpg, .pdf or .svg."
)
CLASS = click.option("--class", "class_", metavar="CLASS", help="A class by name, number or WordNet id.")
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


def shown_options(command: Command) -> Command:
    """The same, and --wide, with which `form` is 'wide': for tables of many columns."""

    @functools.wraps(command)
    def run(*args: Any, form: str, wide: bool, **options: Any) -> Any:
        return command(*args, form="wide" if wide and form == "table" else form, **options)

    return table_options(click.option("--wide", is_flag=True, help="All columns, however long the lines become.")(run))
