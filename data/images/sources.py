"""Where images come from, each as one list of files to read: folders and tars, here or at an address, Hugging Face data
sets.

A source lists everything once. Whatever it finds is either an entry, which may still turn out to be no image
when it is decoded, or skipped with a reason, so that indexed + failed + skipped = found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ...schemas.addressed import is_address, shown_address
from ...schemas.errors import SourceError
from ...schemas.storage.elsewhere import Elsewhere
from . import elsewhere, tars_elsewhere
from .entries import KINDS, Entry, Source, why
from .folder import open_folder
from .hugging_face import open_hub, open_saved
from .shards import has_range, open_shards
from .tar import open_tar


def open_source(where: str, but: Path | str | None = None) -> Source:
    """List the images at `where`: a folder, a tar, tars as 'NAME-{000000..000099}.tar', any of them at an address;
    'hf:NAME[@CONFIG]:SPLIT' or a folder of `save_to_disk`.

    `but` is a folder, or an address, that is left out where it lies in there: the index that is made.

    Raises SourceError where there is nothing that can be listed.
    """
    if is_address(where):
        return _not_empty(shown_address(where), _at_address(where, but if isinstance(but, str) else None))
    if where.startswith("hf:"):
        return open_hub(where)
    path = Path(where)
    if has_range(where) and not path.exists():
        return _not_empty(where, open_shards(where))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise SourceError(f"{where!r} does not exist", "Check the path") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{where!r} cannot be read: {why(error)}", "Check the path and its permissions") from None
    source: Source
    if S_ISREG(mode):
        source = open_tar(path)
    elif not S_ISDIR(mode):
        raise SourceError(f"{where!r} is neither a folder nor a file", KINDS)
    elif _holds(path, "dataset_dict.json"):
        raise SourceError(f"{where!r} holds several splits of a data set", "Point at the folder of one of them")
    elif _holds(path, "dataset_info.json") and _holds(path, "state.json"):
        source = open_saved(path)
    else:
        source = open_folder(path, but if isinstance(but, Path) else None)
    return _not_empty(where, source)


def _holds(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except PermissionError as error:
        raise SourceError(f"the folder {str(folder)!r} cannot be read: {why(error)}", "Check its permissions") from None


def _at_address(where: str, but: str | None) -> Source:
    """A tar where there is a file of that name, else shards or a folder."""
    folder, name = elsewhere.folder_and_name(where)
    with elsewhere.asking():
        if name and (size := Elsewhere(folder).find(name)) is not None:
            return tars_elsewhere.open_tar(folder, name, size)
        if has_range(name):
            return tars_elsewhere.open_shards(folder, name)
        return elsewhere.open_folder(where, but)


def _not_empty(where: str, source: Source) -> Source:
    if not source.entries:
        first = f" except {source.skipped[0].path!r} ({source.skipped[0].reason})" if source.skipped else ""
        raise SourceError(f"{where!r} holds no files{first}", KINDS)
    return source


def list_hash(entries: Iterable[Entry]) -> str:
    """SHA-256, in hex, of the paths, labels and sizes in their order: one JSON array on a line for each."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps([entry.path, entry.label, entry.size]).encode() + b"\n")
    return digest.hexdigest()
