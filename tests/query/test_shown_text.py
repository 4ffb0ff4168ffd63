"""Texts of strangers: shown without what commands a terminal, a figure or a spreadsheet, and stored as they are."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from figures_of_many import figures
from vitdex.indexer import command
from vitdex.indexer.command import Bar
from vitdex.query.commands import main as main_module
from vitdex.query.commands.output import save_table, show
from vitdex.query.commands.terminal import progress_bar, say, tell
from vitdex.query.drawing.contact_sheet import sheet
from vitdex.query.drawing.generated_figure import Column, draw_columns
from vitdex.query.export.tables import export_tables
from vitdex.query.index import Index
from vitdex.query.notes.database import writing
from vitdex.schemas.errors import QueryError
from vitdex.schemas.layout import Layout
from vitdex.schemas.shown_text import escaped

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2Jcleared",
    "back\b\b\b\bover",
    "begin\rover",
    "two\nError: lines",
    "\u202egnp.exe",
    "\u2067turned\u2069",
    "\u2028line",
    "NUL\0",
    "\x7fdelete",
    "tab\there",
]
FORBIDDEN = re.compile("[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    stream = StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def usage(text: str) -> None:
    run(["info", text + "--no-such", "--" + text])


def run(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vitdex", *words])
        patch.setattr(main_module, "words", lambda: words)
        with pytest.raises(SystemExit):
            main_module.main()


def warned(text: str) -> None:
    click.echo(main_module._warning(text, UserWarning, "x.py", 1, ""), nl=False)


def bar(text: str) -> None:
    with progress_bar(text) as progress:
        progress(1, 2)


PRINTERS: dict[str, Callable[[str], object]] = {
    "say": say,
    "tell": tell,
    "a table": lambda text: show(pd.DataFrame({text: [text, None], "n": [1, 2], "list": [[text], []]}), "table"),
    "CSV": lambda text: show(pd.DataFrame({text: [text]}), "csv"),
    "JSON": lambda text: show(pd.DataFrame({text: [text]}), "json"),
    "usage": usage,
    "a warning": warned,
    "an error": lambda text: run(["info", f"/nowhere/{text}"]),
    "notes of an index that is made": lambda text: Bar().finished([text], None),
}


@pytest.mark.parametrize("printer", PRINTERS)
def test_a_terminal_gets_letters_alone(printer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in HOSTILE:
        if "\0" in text and printer in ("usage", "an error"):  # no word of a command line
            continue
        with monkeypatch.context() as patch:
            said = on_a_terminal(patch)
            PRINTERS[printer](text)
        assert FORBIDDEN.sub("", said.getvalue()) == said.getvalue()
        if printer not in ("CSV", "usage", "a warning", "a table"):
            assert said.getvalue().count("\n") == 1
    for text in ("žába", "犬", "مرحبا", "שלום", "👩‍🔬", "a b", "C:\\x1b"):
        assert escaped(text) == text


def test_a_bar_is_named_in_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in HOSTILE:
        with monkeypatch.context() as patch:
            said = on_a_terminal(patch)
            bar(text)
        assert escaped(text) in said.getvalue()
        assert text not in said.getvalue()


def test_programs_and_files_get_what_is_stored(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": HOSTILE})

    @click.command()
    @click.argument("form")
    def piped(form: str) -> None:
        show(table, form)

    assert [row["name"] for row in json.loads(CliRunner().invoke(piped, ["json"]).stdout)] == HOSTILE
    for name in ("a.csv", "a.json"):
        save_table(table, tmp_path / name)
    assert [row["name"] for row in json.loads((tmp_path / "a.json").read_text("utf-8"))] == HOSTILE
    assert "\x1b[31m" in (tmp_path / "a.csv").read_text("utf-8")


def test_everything_is_printed_in_one_place() -> None:
    """click.echo stands where what is printed is escaped."""
    files = [*Path(main_module.__file__).parent.glob("*.py"), Path(command.__file__)]
    calls = [
        (file.name, ast.unparse(node.args[0]) if node.args else "")
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.echo", "click.secho", "print")
    ]
    wild = [(file, words) for file, words in calls if "escaped(" not in words]
    assert wild == []
    assert {file for file, _ in calls} == {"terminal.py", "main.py", "command.py"}


# Figures

MATHS = ["$\\frac{$", "US$ and $", "$_{^}$ $", "$$", r"\$ a_b^c{ $", "".join(HOSTILE)]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("ignore:constrained_layout not applied")  # a name that is wider than a figure
def test_no_name_is_mathematics() -> None:
    for name in MATHS:
        for make in figures([name, "a", "b"]).values():
            make().draw_without_rendering()


def test_a_dollar_is_drawn_as_one(tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        draw_columns("US$ 5 and $ 6", [Column("a", [np.zeros((8, 8, 3), np.uint8)], ["$x$"])]).savefig(
            tmp_path / "x.svg"
        )
    drawn = (tmp_path / "x.svg").read_text()
    assert ">US$ 5 and $ 6</text>" in drawn
    assert ">$x$</text>" in drawn


@pytest.mark.parametrize("text", HOSTILE)
def test_sheets_are_written_in_letters(text: str) -> None:
    pictures = np.zeros((1, 8, 8, 3), np.uint8)
    assert sheet(pictures, [[text]], [text, text]).height == sheet(pictures, [["a"]], ["a", "a"]).height


# Spreadsheets

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://x")',
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=",
    "plain",
    " =1",
    "a=b",
    "'",
    "",
]


def test_formulas_are_texts_where_that_is_asked_for(sample_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sample_path, tmp_path / "copy", copy_function=os.link))
    frame = pd.DataFrame({"layer": "a", "unit": range(len(FORMULAS)), "source": "me", "description": FORMULAS})
    with writing(Layout(copy)) as db:
        db.register("frame", frame)
        db.execute("INSERT INTO descriptions BY NAME FROM frame")
    read: dict[bool, list[str]] = {}
    with Index(copy) as index:
        for spreadsheet in (False, True):
            export_tables(index, tmp_path, "csv", ["descriptions", "classes"], spreadsheet)
            table = pd.read_csv(tmp_path / "descriptions.csv", keep_default_na=False, lineterminator="\n")
            read[spreadsheet] = table.sort_values("unit").description.tolist()
        assert read[False] == FORMULAS
        assert read[True] == [f"'{text}" if i < 8 else text for i, text in enumerate(FORMULAS)]
        with pytest.raises(QueryError, match=r"only CSV is written for a spreadsheet. Give --format csv"):
            export_tables(index, tmp_path, "parquet", ["classes"], spreadsheet=True)
