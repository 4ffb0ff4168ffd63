"""The reference is whole: every public name, every command, every option; and so is what the site makes of pages."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest
from api_pages import ROOMS, api_pages, page_of, public_names, title_of
from command_page import command_page, commands
from notebook_page import notebook_page
from repository_pages import FILES, PAGES, repository_pages, site_links

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_its_place(room: str) -> None:
    text = "".join(api_pages(ROOT).values())
    for name in getattr(import_module(f"vitdex.{room}"), "__all__", []):
        places = re.findall(rf"^::: (vitdex\.\S+)\.{name}$", text, re.MULTILINE)
        assert len(places) == 1, name
        assert hasattr(import_module(places[0]), name)


def test_names_are_read_from_the_list_and_the_imports(tmp_path: Path) -> None:
    init = tmp_path / "query" / "__init__.py"
    init.parent.mkdir()
    init.write_text(
        "from ..schemas.integrity import verify\nfrom .atlas.serve import serve as show\n__all__ = ['show']\n"
    )
    assert public_names(init) == {"show": "vitdex.query.atlas.serve"}
    init.write_text("__all__ = ['missing']\n")
    with pytest.raises(KeyError, match="missing"):
        public_names(init)


def test_a_new_wing_gets_a_page_of_its_own() -> None:
    assert page_of("vitdex.query.atlas.serve") == "atlas"
    assert title_of("atlas") == "Atlas"
    assert page_of("vitdex.query.stored.names") == page_of("vitdex.query.index") == "the-index"
    assert page_of("vitdex.indexer.from_python") == "indexer"
    assert page_of("vitdex.schemas.integrity") == "integrity"


def test_every_command_and_option_stands_in_the_reference() -> None:
    sections = re.split(r"^##+ (vitdex .*)$", command_page(), flags=re.MULTILINE)
    said = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert len(said) > 25
    for name, command in commands():
        if isinstance(command, click.Group):
            continue
        assert f"```text\n{name} " in said[name]
        for parameter in command.params:
            words = parameter.opts if isinstance(parameter, click.Option) else [str(parameter.make_metavar(CTX))]
            assert all(word in said[name] for word in words), (name, words)


CTX = click.Context(click.Command("none"))


def test_examples_in_a_help_text_become_a_block() -> None:
    assert "```text\nvitdex top INDEX --class coin\n" in command_page()
    assert "\x08" not in command_page()


def test_links_of_the_repository_become_links_of_the_site() -> None:
    readme = "[a](docs/how-to/heatmaps.md#views) ![b](docs/pictures/focus.png) [c](LICENSE) [d](schemas/FORMAT.md)"
    assert site_links(readme, "index.md") == (
        "[a](how-to/heatmaps.md#views) ![b](pictures/focus.png) c [d](concepts/format.md)"
    )
    page = "[a](../../README.md) [b](https://c) [d](#e) [f](../notebooks/one-class.ipynb)\n```text\n[g](x.md)\n```"
    assert site_links(page, "how-to/heatmaps.md") == (
        "[a](../index.md) [b](https://c) [d](#e) [f](../notebooks/one-class.md)\n```text\n[g](x.md)\n```"
    )


def test_pages_of_other_folders_are_those_files() -> None:
    pages = repository_pages(ROOT)
    assert set(pages) == set(FILES)
    assert pages["concepts/format.md"] == (ROOT / "schemas" / "FORMAT.md").read_text()
    assert not any((ROOT / "docs" / page).exists() for page in PAGES.values())


def test_a_notebook_as_a_page() -> None:
    page = notebook_page(ROOT / "docs" / "notebooks" / "one-class.ipynb")
    assert page.startswith("# One class, from score to heatmap\n")
    assert "[Download this notebook](one-class.ipynb)" in page
    assert 'index.key_neurons("coin", k=5)' in page
    assert "blocks.5.mlp.fc1    16" in page
    assert "](../pictures/notebook-heatmaps.jpg)" in page


def test_arguments_of_a_group_are_taken_apart() -> None:
    pytest.importorskip("griffe", reason="the docs extra is not installed")
    from grouped_arguments import separated

    text = "Args:\n    layer: such as 'a'; unit: the neuron in it.\n    weights, device: as there,\n        both.\n"
    assert separated(text) == (
        "Args:\n    layer: such as 'a'.\n    unit: the neuron in it.\n"
        "    weights: as there,\n        both.\n    device: as there,\n        both.\n"
    )
    returns = "Returns:\n    Columns rank, layer: those of the view."
    assert separated(returns) == returns
    assert separated("Example:\n    >>> ask()") == "Examples:\n    >>> ask()"
