"""A notebook as a page: its text, its code, and what the code answered.

Notebooks are stored with answers in text alone, so that changes to them can be read. A cell that ends in a picture
names a file of docs/pictures in its metadata (`picture`), and the page shows that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def notebook_page(path: Path) -> str:
    """Markdown of a notebook."""
    cells = json.loads(path.read_text())["cells"]
    first, *rest = [_cell(cell) for cell in cells]
    return "\n\n".join([first, f"[Download this notebook]({path.name})", *rest]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    pieces = [f"```python\n{text}\n```"]
    pieces += [f"```text\n{answer.rstrip()}\n```" for answer in answers(cell)]
    if "picture" in cell["metadata"]:
        pieces.append(f"![what the cell draws](../pictures/{cell['metadata']['picture']})")
    return "\n\n".join(pieces)


def answers(cell: dict[str, Any]) -> list[str]:
    """What a cell printed and returned, as text."""
    outputs = cell.get("outputs", [])
    return ["".join(output["text"] if "text" in output else output["data"]["text/plain"]) for output in outputs]
