"""Pages of the API reference: every public name of a room, under the wing that it comes from.

    api_pages(Path("."))["reference/lookups.md"]      # markdown with a `::: module.name` for every name

The names are those of the room's `__all__`, the modules those of the imports in its `__init__`, both read and not run.
A wing that is added to `query` gets its page by itself.
"""

from __future__ import annotations

import ast
from importlib.util import resolve_name
from pathlib import Path
from textwrap import fill

ROOMS = ("query", "indexer")  # those with a public list
PAGE_OF = {
    "index": "the-index",
    "stored": "the-index",
    "drawing": "heatmaps",
    "storage": "integrity",
}  # wings that share another's page
TITLES = {
    "the-index": "The index",
    "lookups": "Look-ups",
    "heatmaps": "Heatmaps and cards",
    "dissect": "Dissection",
    "causal": "What neurons cause",
    "generate": "Generated images",
    "model": "The model behind an index",
    "export": "Other tools",
    "indexer": "Making an index",
    "integrity": "Integrity",
    "errors": "Errors",
}
ERRORS = "# Errors\n\nAll of them are one line of fact and one of remedy.\n\n::: vitdex.schemas.errors\n"


def public_names(init: Path) -> dict[str, str]:
    """The names of a room's `__all__` and the module of each; nothing where the room has no public list."""
    room = f"vitdex.{init.parent.name}"
    tree = ast.parse(init.read_text())
    public: list[str] = []
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = ast.literal_eval(node.value)
        if isinstance(node, ast.ImportFrom) and node.level:
            module = resolve_name("." * node.level + (node.module or ""), room)
            modules |= {name.asname or name.name: module for name in node.names}
    return {name: modules[name] for name in public}


def page_of(module: str) -> str:
    """The page of a module: its wing in `query`, its file elsewhere."""
    _, room, *rest = module.split(".")
    wing = {"query": rest[0], "indexer": room}.get(room, rest[-1])
    return PAGE_OF.get(wing, wing)


def api_pages(root: Path) -> dict[str, str]:
    """Markdown by the page's path in the site, in the order of TITLES; wings without a title come last."""
    names = {f"{module}.{name}": name for room in ROOMS for name, module in _public(root / room / "__init__.py")}
    pages: dict[str, list[str]] = {}
    for path in names:
        pages.setdefault(page_of(path.rpartition(".")[0]), []).append(path)
    texts = {page: _page(page, paths) for page, paths in pages.items()} | {"errors": ERRORS}
    order = [page for page in TITLES if page in texts] + sorted(set(texts) - set(TITLES))
    return {f"reference/{page}.md": texts[page] for page in order}


def title_of(page: str) -> str:
    """The title of a page by its name."""
    return TITLES.get(page, page.capitalize())


def _public(init: Path) -> list[tuple[str, str]]:
    return list(public_names(init).items())


def _page(page: str, paths: list[str]) -> str:
    room = "indexer" if page == "indexer" else "query"
    names = ", ".join(path.rpartition(".")[2] for path in paths)
    words = fill(f"from vitdex.{room} import ({names})", 80, subsequent_indent="    ", break_on_hyphens=False)
    head = f"# {title_of(page)}\n\n```python\n{words}\n```\n"
    return head + "".join(f"\n::: {path}\n" for path in paths)
