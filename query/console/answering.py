"""The child's side: one question, answered into files. See child.py, which starts it."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from ...schemas.errors import QueryError, VitdexError
from ..stored.limits import TOO_MUCH
from ..stored.stored_index import StoredIndex
from .child import MEMORY_BYTES, REQUEST, SAID, end_with_the_parent
from .table_files import write_table


def main() -> None:
    """Entry point of the child."""
    folder = Path(sys.argv[1])
    threading.Thread(target=end_with_the_parent, args=[folder], daemon=True).start()
    _limit()
    said = answer(folder, json.loads((folder / REQUEST).read_text(encoding="utf-8")))
    (folder / SAID).write_text(json.dumps(said), encoding="utf-8")
    os._exit(0)  # at once: nothing is left to be put in order


def answer(folder: Path, request: Any) -> dict[str, Any]:
    """Write the answer's files; return how many rows it has, or what is wrong with the question."""
    try:
        with StoredIndex(request["index"]) as index:
            table = index.sql(request["query"], timeout=request["timeout"])
            for kind in request["kinds"]:
                write_table(table, kind, folder / kind)
        return {"rows": len(table)}
    except VitdexError as error:
        return _said(error)
    except MemoryError:
        return _said(QueryError(*TOO_MUCH))
    except OSError as error:
        return _said(QueryError(f"the answer cannot be written below {folder.parent}: {error.strerror}", "Make space."))


def _said(error: VitdexError) -> dict[str, Any]:
    return {"error": type(error).__name__, "fact": error.args[0], "remedy": error.remedy}


def _limit() -> None:
    """Hold this process to its memory, and let it leave no core file."""
    if sys.platform == "linux":
        import resource

        for what, limit in ((resource.RLIMIT_DATA, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
            _, most = resource.getrlimit(what)
            limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
            resource.setrlimit(what, (limit, limit))
