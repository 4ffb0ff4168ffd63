"""Pages that stand elsewhere in the repository, and links between the two: what works there works in the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

PAGES = {  # file in the repository: page in the site
    "README.md": "index.md",
    "schemas/FORMAT.md": "concepts/format.md",
    "benchmarks/NOTES.md": "findings/measurements.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "data/sample/README.md": "project/sample.md",
    "data/sample/CARD.md": "project/sample-model.md",
}
FILES = {page: file for file, page in PAGES.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def repository_pages(root: Path) -> dict[str, str]:
    """Markdown by the page's path in the site, as it stands in the repository."""
    return {page: (root / file).read_text() for file, page in PAGES.items()}


def site_page(file: str) -> str | None:
    """Where a file of the repository stands in the site; None where it does not."""
    if file in PAGES:
        return PAGES[file]
    if not file.startswith("docs/"):
        return None
    return re.sub(r"\.ipynb$", ".md", file.removeprefix("docs/"))


def site_links(text: str, page: str) -> str:
    """A page's links, made for the repository, as they work in the site; of what is not in the site, the words."""
    here = FILES.get(page, f"docs/{page}")

    def turned(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        file, hash_, anchor = target.partition("#")
        if not file or "://" in target or target.startswith("mailto:"):
            return link[0]
        there = site_page(posixpath.normpath(posixpath.join(posixpath.dirname(here), file)))
        if there is None:
            return words
        return f"{mark}[{words}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{hash_}{anchor})"

    pieces = FENCE.split(text)
    return "".join(piece if piece.startswith("```") else LINK.sub(turned, piece) for piece in pieces)
