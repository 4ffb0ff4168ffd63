"""What stands where an index is published to: what an earlier call has begun, another index, or other files.

A marker, which names the index that is being published, stands from the first moment until all is there. With it a
repeated call knows that what is there, under its name and of its size, is its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...schemas.array_specs import ARRAYS
from ...schemas.errors import BadIndex
from ...schemas.extension import EXTENSIONS
from ...schemas.facts import FileFacts, Files, content_facts
from ...schemas.integrity import BESIDE, CARD
from ...schemas.layout import Layout
from ...schemas.manifest import CHECKSUM
from .destinations import Destination, Outgoing
from .published import WholeIndex

_LAYOUT = Layout(Path())
MANIFEST, MARKER = _LAYOUT.manifest.name, _LAYOUT.publishing.as_posix()
OURS = {MANIFEST, _LAYOUT.database.name, _LAYOUT.parts.name, ARRAYS, EXTENSIONS}  # what an index has in its folder


class Place:
    """The files at a destination.

    Attributes:
        sizes: the bytes of every file that was there.
        made: the facts of files that are made for this index, by this call or an earlier one.
        marked: whether the marker stands; it does not where the whole index was there already.
    """

    def __init__(self, source: WholeIndex, there: Destination) -> None:
        self.source, self.there = source, there
        self.sizes, self.made, self.marked = there.sizes(), Files(), False

    def take(self, overwrite: bool) -> None:
        """Go on with what an earlier call began, or begin. Raises BadIndex where something else is in the way."""
        others = sorted(key for key in self.sizes if not _is_ours(key) and not _is_beside(key))
        if others:
            raise BadIndex(f"{self._shown} holds other files, such as {others[0]}", "Choose a new folder.")
        if self._is_begun() or self._is_there():
            self._withdraw_changed()
            return
        self._clear(overwrite)
        self.marked = True
        self.mark()
        self.there.settle()

    def put(self, key: str, content: bytes) -> None:
        """Write a small file."""
        self.there.put(Outgoing(key, content_facts(content), content), lambda count: None)

    def mark(self) -> None:
        """Write the marker, with what is made by now."""
        if self.marked:
            self.put(MARKER, json.dumps({**self.source.identity, "made": self.made}, indent=1).encode())

    def clean_up(self, listed: set[str]) -> None:
        """Remove what stopped calls left that is not of the index, and the marker last."""
        if self.marked:
            there = self.there.sizes()
            self.there.remove([key for key in there if _is_ours(key) and key not in listed and key != MARKER])
            self.there.remove([MARKER])

    @property
    def _shown(self) -> str:
        return self.there.shown("").rstrip("/")

    def _is_begun(self) -> bool:
        """Whether an earlier call began to publish just this."""
        marker = _record(self.there.content(MARKER)) if MARKER in self.sizes else {}
        self.marked = self.source.identity == {name: marker.get(name) for name in self.source.identity}
        if self.marked:
            self.made = self._facts(marker.get("made"))
        return self.marked

    def _is_there(self) -> bool:
        """Whether just this is published already."""
        content = self.there.content(MANIFEST) if MANIFEST in self.sizes else None
        made = self._facts(_record(content).get("files"))
        if content is None or len(made) < len(self.source.to_make) or self.source.last(made)[MANIFEST] != content:
            return False
        self.made = made
        return True

    def _facts(self, said: object) -> Files:
        """What a record says of the files that are made for this index."""
        out = Files()
        for key, size in self.source.to_make.items():
            match said.get(key) if isinstance(said, dict) else None:
                case [int(count), str(checksum)] if count == size and CHECKSUM.fullmatch(checksum):
                    out[key] = FileFacts(count, checksum)
        return out

    def _withdraw_changed(self) -> None:
        """Remove manifests that are not those to come: files that they vouch for may be replaced."""
        whole = len(self.made) == len(self.source.to_make)
        last = self.source.last(self.made) if whole else {}
        there = [key for key in self.source.manifest_keys if key in self.sizes]
        self._remove([key for key in there if self.there.content(key) != last.get(key)])

    def _clear(self, overwrite: bool) -> None:
        """Remove another index, its manifest first. Raises BadIndex where it is not to be."""
        ours = [key for key in self.sizes if _is_ours(key)]
        if ours and not overwrite:
            kind = "finished" if MANIFEST in self.sizes else "unfinished"
            raise BadIndex(f"{self._shown} holds another {kind} index", "Choose a new folder, or give --overwrite.")
        self._remove([key for key in ours if key == MANIFEST])
        self._remove([key for key in ours if key != MANIFEST])

    def _remove(self, keys: list[str]) -> None:
        self.there.remove(keys)
        for key in keys:
            del self.sizes[key]


def _is_ours(key: str) -> bool:
    top = key.partition("/")[0]
    return top in OURS or top.removeprefix(".").removesuffix(".partial") in OURS  # what a stopped copy leaves


def _is_beside(key: str) -> bool:
    return key == f".{CARD}.partial" or any(key == one or key.startswith(f"{one}/") for one in BESIDE)


def _record(content: bytes | None) -> dict[str, Any]:
    """What a file of JSON holds; an empty record for whatever is none."""
    try:
        found = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
