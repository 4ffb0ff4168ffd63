"""What MkDocs calls: pages that are not files of docs/ (made by the modules beside this one), and a last look."""

from __future__ import annotations

import re
from pathlib import Path

from api_pages import api_pages, title_of
from command_page import command_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_page import notebook_page
from repository_pages import FILES, repository_pages, site_links

ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(r"<(?:script|img|iframe)[^>]+src=\"https?:|<link[^>]+rel=\"stylesheet\"[^>]+href=\"https?:")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API into the navigation, before the commands."""
    reference = next(entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    reference[:0] = [{title_of(Path(page).stem): page} for page in api_pages(ROOT)]
    config.watch += [str(ROOT / file) for file in FILES.values()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: the API, the commands, the notebooks, and those of other folders."""
    pages = api_pages(ROOT) | repository_pages(ROOT) | {"reference/commands.md": command_page()}
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    return site_links(markdown, page.file.src_uri)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that fetches anything from elsewhere."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        if found := OUTSIDE.search(path.read_text()):
            raise PluginError(f"{path} fetches from outside: {found[0]}")
