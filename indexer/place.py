"""The folder that an index is made in: what may stand there, and what is removed."""

from __future__ import annotations

import shutil

from ..schemas.database import check_name
from ..schemas.errors import BadIndex
from ..schemas.extension import EXTENSIONS
from ..schemas.layout import Layout
from ..schemas.run_spec import RunSpec


def check_place(layout: Layout, overwrite: bool, head: bool = False) -> None:
    """Raise BadIndex where no index can be made in a folder, or something stands there that is not to be replaced.

    `head`: whether `vitdex head` asks, which begins anew what it has begun; a run goes on with what a run has begun.
    """
    root = layout.root
    check_name(root)
    if root.exists() and not root.is_dir():
        raise BadIndex(f"{root} is a file", "Choose another name for the index.")
    if layout.manifest.exists() and not overwrite:
        raise BadIndex(f"{root} is a finished index", "Choose another name, or give --overwrite.")
    ours = layout.manifest.exists() or layout.parts.exists()
    if root.exists() and not ours and any(root.iterdir()):
        raise BadIndex(f"{root} holds other files", "Choose a new folder for the index.")
    if not overwrite and layout.run.exists() and layout.head_run.exists() != head:
        verb = "index" if head else "head"
        raise BadIndex(
            f"{root} holds an unfinished index of 'vitdex {verb}'", "Repeat that command, or give --overwrite."
        )


def clear(layout: Layout) -> None:
    """Remove an index, finished or not, with its extensions, but for its notes and the lock."""
    layout.manifest.unlink(missing_ok=True)
    extensions = layout.root / EXTENSIONS
    extensions.unlink() if extensions.is_symlink() else shutil.rmtree(extensions, ignore_errors=True)
    shutil.rmtree(layout.arrays, ignore_errors=True)
    layout.database.unlink(missing_ok=True)
    for entry in layout.parts.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != layout.lock:
            entry.unlink()


def tables_bytes(spec: RunSpec, classes: int) -> int:
    """About how large the tables of so many classes become."""
    exemplars = spec.neurons * min(150, 2 * spec.images) * 12
    return exemplars + spec.neurons * classes * 60 + 2_000_000
