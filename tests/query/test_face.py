"""The public list: what stands on it, that a script uses each of it, and how an index answers once it is closed."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import vitdex.query as query
from vitdex.query import Index, Neuron
from vitdex.schemas.errors import QueryError

SCRIPT = Path(__file__).with_name("every_name.py")


def test_the_list_is_what_can_be_imported() -> None:
    assert query.__all__ == dir(query)
    for name in query.__all__:
        assert getattr(query, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'blocks'"):
        query.blocks  # noqa: B018


def test_a_script_uses_every_name(sample_path: Path, tmp_path: Path) -> None:
    tree = ast.parse(SCRIPT.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(query.__all__) <= used
    own = shutil.copytree(sample_path, tmp_path / "own.vitdex")
    subprocess.run([sys.executable, str(SCRIPT), str(own), str(tmp_path)], check=True, cwd=tmp_path)


def test_every_public_function_says_what_it_takes_and_gives() -> None:
    for name in query.__all__:
        thing = getattr(query, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            parameters = [*inspect.signature(thing).parameters][1:]  # the first is the index
            assert not {"args", "kwargs", "choices", "options"} & set(parameters), name
            doc = inspect.getdoc(thing) or ""
            assert all(re.search(rf"\b{parameter}\b", doc) for parameter in parameters), name
            assert f">>> {name}(" in doc.partition("Example:")[2], name


def test_a_closed_index_says_so(sample_path: Path) -> None:
    index = Index(sample_path)
    asks = (
        lambda: index.sql("SELECT 1"),
        lambda: index.map("blocks.0.mlp.fc1", 0, 0),
        lambda: index.exemplars("blocks.0.mlp.fc1", 0),
        lambda: query.key_neurons(index, "coin"),
        lambda: query.top_images(index, ["blocks.0.mlp.fc1"]),
    )
    for ask in asks:
        ask()
    index.close()
    index.close()
    for ask in asks:
        with pytest.raises(QueryError, match=r"this index \(.*sample.vitdex\) is closed. Open it again"):
            ask()


@pytest.mark.parametrize("text", ["blocks.5.mlp.fc1", ":3", "blocks.5.mlp.fc1:", "blocks.5.mlp.fc1:-1", "a:b"])
def test_what_is_no_neuron(text: str) -> None:
    with pytest.raises(QueryError, match=f"'{text}' is no LAYER:UNIT. Write it like blocks.7.mlp.fc1:2014."):
        Neuron.of(text)


def test_a_neuron_in_every_form() -> None:
    for form in ("blocks.5.mlp.fc1:16", ("blocks.5.mlp.fc1", 16), Neuron("blocks.5.mlp.fc1", 16)):
        assert Neuron.of(form) == Neuron("blocks.5.mlp.fc1", 16)
        assert str(Neuron.of(form)) == "blocks.5.mlp.fc1:16"
