"""The manifest: written last, read first. It describes the run, lists every other file, and vouches for itself."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from .errors import BadIndex
from .layout import Layout
from .records import FORMAT, FORMAT_VERSION


def seal_manifest(content: dict[str, Any]) -> bytes:
    """A manifest's bytes: format and version first, its own sha256 last."""
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **content}
    return json.dumps({**whole, "sha256": _digest(whole)}, indent=1, ensure_ascii=False).encode()


def read_manifest(layout: Layout) -> dict[str, Any]:
    """The manifest of a finished index. Raises BadIndex for anything else, with the remedy."""
    root = layout.root
    if not root.exists():
        raise BadIndex(f"there is no index at {root}", "Make one with 'vitdex index'.")
    if not root.is_dir():
        raise BadIndex(f"{root} is a file, not an index", "An index is a folder.")
    try:
        content: dict[str, Any] = json.loads(layout.manifest.read_text())
    except FileNotFoundError:
        if layout.run.exists():
            raise BadIndex(f"{root} is unfinished", "Repeat the 'vitdex index' command that began it.") from None
        raise BadIndex(f"{root} is not a vitdex index", "Make one with 'vitdex index'.") from None
    except (ValueError, OSError) as error:
        raise BadIndex(f"the manifest of {root} is damaged", "Make the index again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadIndex(f"{root} is not a vitdex index", "Make one with 'vitdex index'.")
    if content.get("format_version") != FORMAT_VERSION:
        raise BadIndex(
            f"{root} has format {content.get('format_version')}, this vitdex reads {FORMAT_VERSION}",
            "Install the vitdex that made it, or a newer one.",
        )
    claimed = content.pop("sha256", None)
    if claimed != _digest(content):
        raise BadIndex(f"the manifest of {root} is damaged", "Make the index again.")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
