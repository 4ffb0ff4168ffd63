"""`vitdex sql`: an index asked in SQL, in a child process. Light to import, for the child does the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from ...schemas.numbers_shown import number_of
from ...schemas.storage.plain_files import replacing
from ..console.child import Kind, ask_in_child
from .files import TABLES, check_output, kind_of
from .options import INDEX, TABLE_OUTPUT, table_options
from .terminal import hand_out, say

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
                hand_out(block, end=False)
        if form != "csv":
            hand_out("")
        for path in outputs:
            with replacing(path) as part:
                shutil.copyfile(answer.files[kind_of(path)], part)
            say(f"{path}: {number_of(answer.rows, 'row')}")
