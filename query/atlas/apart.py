"""Points arranged in a new interpreter, which gives way to whoever asks for pages meanwhile.

multiprocessing would run the script of who has opened the index once more. Beside the pages in one process, arranging
takes the interpreter from them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from ..console.child import end_with_the_parent
from .arrangement import Arranged, arranged, read, write
from .spaces import Floats

ROWS, MADE, NOISE = "rows.npy", "made.npz", "noise.txt"
CODE = "import sys; sys.path[:] = {path!r}; from vitdex.query.atlas.apart import main; main()"


def arranged_apart(rows: Floats, key: str) -> Arranged:
    """As `arranged`. The child ends with this process. Raises RuntimeError with its last words where it fails."""
    with tempfile.TemporaryDirectory(prefix="vitdex-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        np.save(folder / ROWS, rows)
        with (
            (folder / NOISE).open("wb") as noise,
            subprocess.Popen(
                [sys.executable, "-c", CODE.format(path=sys.path), name, key],
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                stdout=noise,
                stderr=noise,
            ) as child,
        ):
            try:
                child.wait()
            finally:
                child.kill()
        if (made := read(folder / MADE, len(rows))) is None:
            said = (folder / NOISE).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(said[-1] if said else f"arranging ended with exit status {child.returncode}")
        return made


def main() -> None:
    """Entry point of the child."""
    folder, key = Path(sys.argv[1]), sys.argv[2]
    threading.Thread(target=end_with_the_parent, args=[folder], daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    write(folder / MADE, arranged(np.load(folder / ROWS, allow_pickle=False), key))
    os._exit(0)  # at once: the watching thread holds stdin
