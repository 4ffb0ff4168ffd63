"""`vitdex sql`: an index asked in SQL, in a child process. Light to import, for the child does the work."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import click

from ..console.child import Kind, ask_in_child
from .files import TABLES, check_output, kind_of, replace_file, say
from .options import INDEX, TABLE_OUTPUT, table_options

BLOCK = 1 << 20  # letters


@click.command("sql", context_settings={"ignore_unknown_options": True})  # a query may begin with a comment: --
@INDEX
@click.argument("query")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=300, show_default=True, help="Seconds.")
@TABLE_OUTPUT
@table_options
def sql_command(index_path: Path, query: str, timeout: float, outputs: tuple[Path, ...], form: Kind) -> None:
    """Ask an index in SQL (read-only)."""
    for path in outputs:
        check_output(path, TABLES)
    with ask_in_child(index_path, query, {form, *map(kind_of, outputs)}, timeout) as answer:
        with answer.files[form].open(encoding="utf-8", newline="") as text:
            while block := text.read(BLOCK):
                click.echo(block, nl=False)
        if form != "csv":
            click.echo()
        for path in outputs:
            replace_file(path, partial(shutil.copyfile, answer.files[kind_of(path)]))
            say(f"{path}: {answer.rows:,} rows")
