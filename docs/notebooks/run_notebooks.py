"""Run the notebooks on an index of the packaged sample, and store what they answer.

    python docs/notebooks/run_notebooks.py sample.vitdex

Text stays in the notebook, where a change to it can be read; a picture goes to docs/pictures, under the name that the
cell's metadata gives (`picture`). Tests run the same and compare.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
PICTURES = HERE.parent / "pictures"
SECONDS = 300  # of a cell
LARGEST = (760, 1200)  # pixels of a stored picture


def executed(notebook: Path, index: Path) -> Any:
    """The notebook with its answers, run in a folder where it finds the index as it would in this repository."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "docs" / "notebooks"
        folder.mkdir(parents=True)
        shutil.copytree(index, Path(root) / "sample.vitdex")
        cells = nbformat.read(notebook, as_version=4)
        NotebookClient(cells, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    return cells


def kept(cells: Any) -> dict[str, bytes]:
    """Reduce a notebook that has run to what is stored: no counts, answers in text; returns its pictures by name."""
    pictures = {}
    for cell in cells.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        drawn = [out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})]
        if drawn:
            pictures[cell.metadata["picture"]] = base64.b64decode(drawn[0])
        cell.outputs = [_text(out) for out in cell.outputs if "image/png" not in out.get("data", {})]
    cells.metadata = nbformat.from_dict({"kernelspec": cells.metadata["kernelspec"]})
    return pictures


def _text(output: Any) -> Any:
    if "data" in output:
        output.data = nbformat.from_dict({"text/plain": output.data["text/plain"]})
        output.execution_count = None
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("index", type=Path)
    index = parser.parse_args().index
    for notebook in sorted(HERE.glob("*.ipynb")):
        cells = executed(notebook, index)
        for name, content in kept(cells).items():
            picture = Image.open(BytesIO(content)).convert("RGB")
            picture.thumbnail(LARGEST)
            picture.save(PICTURES / name, quality=85)
        nbformat.write(cells, notebook)


if __name__ == "__main__":
    main()
