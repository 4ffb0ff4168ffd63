"""The notebooks run on the sample, and answer what is stored in them."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from notebook_page import answers
from run_notebooks import HERE, PICTURES, executed, kept

NOTEBOOKS = sorted(path.name for path in HERE.glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+\.\d+")


def same(stored: str, fresh: str) -> bool:
    """Equal word for word, numbers with a fraction up to what another processor changes."""
    if [NUMBER.sub("#", word) for word in stored.split()] != [NUMBER.sub("#", word) for word in fresh.split()]:
        return False
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(fresh), strict=True)
    return all(abs(float(a) - float(b)) <= 0.02 * max(1, abs(float(a))) for a, b in pairs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_answers_what_is_stored(name: str, sample_path: Path) -> None:
    stored, fresh = nbformat.read(HERE / name, as_version=4), executed(HERE / name, sample_path)
    pictures = kept(fresh)
    assert set(pictures) == {cell.metadata["picture"] for cell in stored.cells if "picture" in cell.metadata}
    assert all((PICTURES / picture).exists() for picture in pictures)
    for before, after in zip(stored.cells, fresh.cells, strict=True):
        for a, b in zip(answers(before), answers(after), strict=True):
            assert same(a, b), f"{before.source}\n{a}\n{b}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_so_that_changes_can_be_read(name: str) -> None:
    cells = nbformat.read(HERE / name, as_version=4).cells
    assert (HERE / name).stat().st_size < 20_000
    for cell in cells:
        if cell.cell_type == "code":
            assert cell.execution_count is None
            assert all(set(output.get("data", {})) <= {"text/plain"} for output in cell.outputs)


def test_answers_are_compared() -> None:
    assert same("a  1.000\nb 2", "a 1.001\nb 2")
    assert not same("a 1.0", "a 1.1")
    assert not same("coin 3", "coin 4")
    assert not same("coin 1.0", "tool 1.0")
    assert not same("1.0", "1.0 2.0")
