"""What the pages say is true: their code runs, their links lead somewhere, their version is the package's."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import Block, Page, blocks

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
LINKED = [*PAGES, "schemas/FORMAT.md", "benchmarks/NOTES.md", "data/sample/README.md", "data/sample/CARD.md"]
WITH_CODE = [page for page in PAGES if any(True for _ in blocks((ROOT / page).read_text()))]


@pytest.fixture
def folder(sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sample of its own: its files are links, beside which notes can be written."""
    shutil.copytree(sample_path, tmp_path / "sample.vitdex", copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(name: str, folder: Path) -> None:
    names = run_page((ROOT / name).read_text(), folder)
    if name == "README.md":
        assert names["patches"].max() == names["best"].pre[0]


def run_page(text: str, folder: Path) -> dict[str, Any]:
    """Run a page; returns what its Python leaves."""
    page = Page(folder)
    try:
        for block in blocks(text):
            page.run(block)
    finally:
        page.close()
    return page.names


def test_the_readme_has_code_of_every_kind() -> None:
    kinds = [block.language for block in blocks((ROOT / "README.md").read_text()) if not block.excuse]
    assert {"sh", "sql", "python"} <= set(kinds)
    assert kinds.count("sh") >= 6


PLANTED = {
    "```sh\nvitdex top sample.vitdex --class nothing\n```": "no class 'nothing'",
    "```sh\nvitdex info sample.vitdex\nvitdex inform sample.vitdex\n```": "No such command 'inform'",
    "```sh\npip install this\n```": "'pip' is no command of ours",
    "text\n\n    vitdex top sample.vitdex --shake": "No such option",
    "```sql\nFROM images LIMIT 1;\nFROM images WHERE image_id < 0;\n```": "no rows: FROM images WHERE image_id < 0",
    "```sql\nFROM pictures\n```": "pictures does not exist",
    "```python\nindex.map('blocks.0.mlp.fc1', 0, 0).shape == there\n```": "NameError",
    "```\nvitdex info sample.vitdex\n```": "a block of '' is neither run nor excused",
    "```yaml\na: b\n```": "a block of 'yaml' is neither run nor excused",
}


@pytest.mark.parametrize("text", PLANTED)
def test_a_block_that_does_not_run_is_found(text: str, folder: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(PLANTED[text])):
        run_page(text, folder)


def test_blocks_and_their_excuses() -> None:
    page = "<!-- not run: needs a GPU -->\n```sh\nrm -r /\n```\n\n```text\nas it is\n```\n\n    vitdex info x\n    else"
    assert list(blocks(page)) == [
        Block(2, "sh", "rm -r /", "needs a GPU"),
        Block(6, "text", "as it is", ""),
        Block(10, "sh", "vitdex info x", ""),
    ]
    with pytest.raises(AssertionError, match="an excuse without a block"):
        list(blocks("<!-- not run: too long -->\nprose"))
    assert [block.excuse for block in blocks("<!-- not run: -->\n```sh\nls\n```")] == [""]


def targets(page: str) -> list[str]:
    """Files that a page links to, or shows, relative to itself."""
    found = re.findall(r"\]\(([^)\s#]+)[^)]*\)", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    return [target for target in found if "://" not in target]


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    assert [target for target in targets(page.read_text()) if not (page.parent / target).exists()] == []


def test_links_are_found() -> None:
    page = "[a](b.md#c) ![d](e/f.png)\n```text\n[g](h.md)\n```\n[i](https://j) [k](#l)"
    assert targets(page) == ["b.md", "e/f.png"]


def test_every_picture_is_shown() -> None:
    shown = {Path(target).name for name in LINKED for target in targets((ROOT / name).read_text())}
    for notebook in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        shown |= set(re.findall(r'"picture": "([^"]+)"', notebook.read_text()))
    assert {p.name for p in (ROOT / "docs" / "pictures").iterdir() if p.suffix != ".sh"} <= shown


def test_one_version_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation
    assert f'\ndate-released: "{released[2]}"\n' in citation
    assert released[1] == version
    assert f"version = {{{version}}}" in (ROOT / "docs" / "project" / "citation.md").read_text()
