"""The folder of the extension while it is filled: what may stand there, what a repeated call goes on with."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from ...schemas.effects import EffectsSpec, effects_arrays
from ...schemas.errors import BadIndex, DamagedIndex, QueryError
from ...schemas.extension import EXTENSION_ARRAYS, EXTENSIONS, ExtensionLayout
from ...schemas.facts import FileFacts, Files
from ...schemas.manifest import LARGEST, content_sha256
from ...schemas.run_spec import Part
from ...schemas.shapes import misfit
from ...schemas.storage.atomic_files import write_file
from ...schemas.storage.plain_files import plain_size, read_plain
from ...schemas.storage.room import check_room
from .effects_plan import EffectsPlan


class Begun(TypedDict):
    """What run.json says."""

    index_sha256: str
    run: dict[str, Any]


class PartEntry(TypedDict):
    """A finished part: its files, and the seconds that it took."""

    part: int
    files: Mapping[str, tuple[int, str]]
    seconds: float


def check_place(plan: EffectsPlan) -> None:
    """Raise where the extension cannot be made: a link in the way, effects that are there, no room."""
    layout = plan.layout
    for folder in (layout.index / EXTENSIONS, layout.root, layout.parts):
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            raise QueryError(f"{folder} is in the way: a link or a file", "Move it away.")
    if layout.is_there and not plan.overwrite:
        raise BadIndex(f"{layout.root} is there already", "Give --overwrite to make it anew.")
    ours = layout.is_there or layout.parts.exists()
    if layout.root.exists() and not ours and any(layout.root.iterdir()):
        raise BadIndex(f"{layout.root} holds other files", "Move them away.")
    if not plan.overwrite:
        check_links(layout)
    there = sum(status.st_size for _, status in _inside(layout.root))
    check_room(layout.index, max(plan.size + plan.scratch - there, 0), "give --stored float16 or --limit,")


def check_links(layout: ExtensionLayout) -> None:
    """Raise QueryError where a link lies in the extension's folder: what is written there could end up anywhere."""
    for path, status in _inside(layout.root):
        if stat.S_ISLNK(status.st_mode):
            raise QueryError(f"{path} is a link", "Move it away.")


def _inside(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below a folder that is no folder, links as they are."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.iterdir():
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield from _inside(path)
        else:
            yield path, status


def begin(plan: EffectsPlan) -> None:
    """Start a run, or take up an unfinished one. Raises BadIndex, naming what differs, where another run stands."""
    layout = plan.layout
    if plan.overwrite or not layout.run.exists():
        _clear(layout)
        check_links(layout)
        content = {"index_sha256": content_sha256(plan.index.manifest), "run": plan.spec.to_json()}
        write_file(layout.run, json.dumps(content, indent=1).encode())
        return
    there = _read(layout, layout.run)
    if misfit(there, Begun, "run") or misfit(there["run"], EffectsSpec, "run"):
        raise BadIndex(f"{layout.run} is damaged", "Start again with --overwrite.")
    different = plan.spec.differences(EffectsSpec.from_json(there["run"]))
    if there["index_sha256"] != content_sha256(plan.index.manifest):
        different.append("it was begun on another index")
    if different:
        fact = f"{layout.root} holds unfinished effects of another run ({'; '.join(different)})"
        raise BadIndex(fact, "Repeat that run's command, or give --overwrite.")


def _clear(layout: ExtensionLayout) -> None:
    """Remove the extension, finished or not, but for the lock. What vouches for other files goes before them."""
    for path in (layout.manifest, *layout.parts.iterdir(), layout.root / EXTENSION_ARRAYS, layout.database):
        if path != layout.lock:
            _remove(path)
    remove_leftovers(layout)


def remove_leftovers(layout: ExtensionLayout) -> None:
    """What a stopped run did not finish, and DuckDB's log."""
    for path in (*layout.root.rglob("*.partial*"), *layout.root.glob("tables.duckdb.wal*")):
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder with all that it holds; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def done_before(plan: EffectsPlan) -> int:
    """Images of an unfinished run that are not looked at again."""
    if plan.overwrite or not plan.layout.is_unfinished:
        return 0
    return sum(part.images for part in plan.spec.parts if entry_of(plan, part))


def entry_of(plan: EffectsPlan, part: Part) -> PartEntry | None:
    """The entry of a finished part. None where there is none, or its files are not those of which it says so."""
    layout = plan.layout
    entry = _read(layout, layout.entry(part.index))
    if misfit(entry, PartEntry, "entry") or {p: size for p, (size, _) in entry["files"].items()} != _sizes(plan, part):
        return None
    return entry if _are_there(layout, _sizes(plan, part)) else None


def _sizes(plan: EffectsPlan, part: Part) -> dict[str, int]:
    """Bytes of every file of a part."""
    arrays = effects_arrays(plan.spec, plan.index.spec).values()
    return {a.part_file(part.index): a.file_bytes for a in arrays if a.by_part}


def whole_arrays_are_there(plan: EffectsPlan) -> bool:
    """Whether the files of the arrays that are of no part are there."""
    arrays = effects_arrays(plan.spec, plan.index.spec).values()
    return _are_there(plan.layout, {a.file_names[0]: a.file_bytes for a in arrays if not a.by_part})


def _are_there(layout: ExtensionLayout, sizes: dict[str, int]) -> bool:
    try:
        return all(plain_size(layout.root, path) == size for path, size in sizes.items())
    except OSError:
        return False


def entries_of(plan: EffectsPlan) -> list[PartEntry]:
    """The entries of all parts. Raises DamagedIndex where one went missing."""
    entries = []
    for part in plan.spec.parts:
        if (entry := entry_of(plan, part)) is None:
            raise DamagedIndex(f"files of part {part.index} of {plan.layout.root} went missing", "Repeat the command.")
        entries.append(entry)
    return entries


def files_of(entries: list[PartEntry]) -> Files:
    """The files of all parts."""
    return {path: FileFacts(*facts) for entry in entries for path, facts in entry["files"].items()}


def _read(layout: ExtensionLayout, file: Path) -> Any:
    """A file of the extension, out of JSON; None where it is missing, no plain file, or damaged."""
    try:
        return json.loads(read_plain(layout.index, file.relative_to(layout.index).as_posix(), LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
