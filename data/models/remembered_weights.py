"""Where a user's own weights lie, by their hash, in the user's own config: questions need no --weights a second time.

The place never comes from an index, which may be a stranger's; and what lies there is proved by its hash like any other
weights. Remembering is a convenience: where nothing can be read or written, nothing is remembered, and no more.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from ...schemas.storage.atomic_files import write_file
from ...schemas.user_folders import user_folder
from ..packaged import MODEL

FILE = "weights.json"
MOST_BYTES = 10_000_000  # of the file: more than anybody's own
PATIENCE = 2  # seconds for another process that is writing


def remember_weights(sha256: str, place: str | Path) -> None:
    """Note in the user's config that weights of this hash lie in a file or folder; not of the packaged model."""
    at = Path(place).absolute()
    if at == MODEL.absolute() or remembered_weights(sha256) == at:
        return
    with suppress(OSError, RuntimeError, NotImplementedError):  # no home, a read-only one, one without locks
        file = user_folder("config") / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f"{FILE}.lock"), timeout=PATIENCE):
            known = _read(file) | {sha256: str(at)}
            write_file(file, json.dumps(known, indent=1, sort_keys=True).encode())


def remembered_weights(sha256: str) -> Path | None:
    """Where weights of this hash lay when they were last given; None where nobody has said."""
    with suppress(OSError, RuntimeError):
        found = _read(user_folder("config") / FILE).get(sha256)
        return None if found is None else Path(found)
    return None


def _read(file: Path) -> dict[str, str]:
    """Absolute paths by hash. What is not such a file says nothing."""
    try:
        with file.open("rb") as content:
            known = json.loads(content.read(MOST_BYTES))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {sha: at for sha, at in known.items() if isinstance(at, str) and Path(at).is_absolute() and "\0" not in at}
