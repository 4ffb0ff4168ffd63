"""Tables for people: a hundred letters, whole numbers whole, rounding and units by column; programs get everything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from vitdex.query.commands.main import cli
from vitdex.query.console.readable import MAIN, readable
from vitdex.query.console.table_text import shown_text
from vitdex.query.index import Index

WIDTH = 100
QUESTIONS = {
    "top": ["top", "INDEX", "--class", "coin"],
    "exemplars": ["top", "INDEX", "--neuron", "blocks.4.mlp.fc1:473"],
    "blocks": ["dissect", "blocks", "INDEX"],
    "blocks by class": ["dissect", "blocks", "INDEX", "--classes"],
    "activations": ["dissect", "activations", "INDEX", "coin"],
    "regions": ["dissect", "regions", "INDEX", "coin"],
    "regions by neuron": ["dissect", "regions", "INDEX", "coin", "--neurons"],
    "focus": ["dissect", "focus", "INDEX", "--random", "2"],
    "context": ["dissect", "context", "INDEX", "-k", "3"],
    "concepts": ["dissect", "concepts", "INDEX", "--layer", "blocks.5.mlp.fc1"],
    "shared": ["dissect", "shared", "INDEX", "--top", "10"],
    "shared by class": ["dissect", "shared", "INDEX", "--classes"],
    "carriers": ["dissect", "carriers", "INDEX"],
    "carriers by neuron": ["dissect", "carriers", "INDEX", "--neurons"],
    "similarity": ["dissect", "similarity", "INDEX"],
    "similarity by merge": ["dissect", "similarity", "INDEX", "--rows", "merges"],
    "similarity of spaces": ["dissect", "similarity", "INDEX", "--rows", "spaces"],
    "selectivity": ["dissect", "selectivity", "INDEX", "--layer", "blocks.5.mlp.fc1"],
    "selectivity by block": ["dissect", "selectivity", "INDEX", "--blocks"],
    "agreement": ["dissect", "agreement", "INDEX"],
    "pairs": ["dissect", "pairs", "INDEX", "coin"],
    "sets": ["dissect", "sets", "INDEX", "coin"],
    "composed": ["dissect", "composed", "INDEX", "--candidates", "20"],
    "fires": ["dissect", "fires", "INDEX", "5"],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_table_fits_and_programs_get_all_of_it(name: str, sample_path: Path, tmp_path: Path) -> None:
    words = [word.replace("INDEX", str(sample_path)) for word in QUESTIONS[name]]
    out = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "all.json")], catch_exceptions=False)
    lines = out.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    records = json.loads((tmp_path / "all.json").read_text())
    assert len(lines) == 1 + len(records)
    heading = lines[0].replace(" (logits)", "").split()
    neuron = {"neuron": "unit", "neuron_a": "unit_a", "neuron_b": "unit_b"}
    assert {neuron.get(column, column) for column in heading} <= {*records[0]}
    wanted = [column for column in MAIN[name.split()[0]] if column in heading]
    assert [column for column in heading if column in wanted] == wanted
    if "neuron" in heading:
        first = lines[1].split()
        assert f"{records[0]['layer']}:{records[0]['unit']}" in first
    wide = CliRunner().invoke(cli, [*words, "--wide"], catch_exceptions=False)
    assert len(wide.stdout.splitlines()[0].replace(" (logits)", "").split()) >= len(heading)
    assert "nan" not in out.stdout.lower()


def test_the_ranking_stands_beside_the_neuron(sample: Index) -> None:
    for by in ("contribution", "score", "cosine"):
        heading = readable(sample.key_neurons("coin", 3, by), "top")[0].splitlines()[0].split()
        assert heading[:3] == ["rank", "neuron", by]


def test_whole_numbers_stay_whole_and_what_is_missing_is_nothing() -> None:
    table = pd.DataFrame(
        {"rank": pd.array([1, None], "Int64"), "share": [0.12345, np.nan], "name": ["a", None], "on": [True, False]}
    )
    text, left_out = readable(table)
    assert [line.split() for line in text.splitlines()] == [
        ["rank", "share", "name", "on"],
        ["1", "0.123", "a", "yes"],
        ["no"],
    ]
    assert left_out == ""
    assert shown_text(table[["rank", "share"]]).splitlines()[2].strip() == ""


def test_columns_are_rounded_alike_and_have_their_unit() -> None:
    table = pd.DataFrame({"contribution": [1.23456, -0.0001], "auroc": [0.98765, 0.5], "small": [0.00012345, 0.0]})
    heading, *rows = readable(table)[0].splitlines()
    assert heading.split() == ["contribution", "(logits)", "auroc", "small"]
    assert [row.split() for row in rows] == [["1.23", "0.988", "0.000123"], ["0.00", "0.500", "0.000000"]]


def test_long_names_are_cut_and_neurons_never() -> None:
    table = pd.DataFrame({"class": ["x" * 150] * 2, "layer": "blocks.11.mlp.fc1", "unit": [3, 4], "other": "y" * 150})
    text, left_out = readable(table)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "blocks.11.mlp.fc1:4" in text
    assert "..." in text
    assert "x" * 150 in readable(table, wide=True)[0]
    many = pd.DataFrame({f"column_{i}": [float(i)] for i in range(30)})
    text, left_out = readable(many)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert left_out == f"{len(text.splitlines()[0].split())} of 30 columns; --wide shows all"


def test_what_a_table_leaves_out_is_said(sample_path: Path) -> None:
    out = CliRunner().invoke(cli, ["top", str(sample_path), "--class", "coin"], catch_exceptions=False)
    assert "7 of 19 columns; --wide shows all" in out.stderr
    assert "The first 10 of 4,608 neurons by contribution for coin; means over its 40 images." in out.stderr
