"""The folder of the extension while it is filled: what may stand there, what a repeated call goes on with."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from ...schemas.addressed import address_of, shown_address
from ...schemas.effects import EFFECTS, EffectsSpec, effects_arrays
from ...schemas.errors import BadIndex, DamagedIndex, QueryError
from ...schemas.extension import EXTENSION_ARRAYS, EXTENSIONS, ExtensionLayout
from ...schemas.facts import FileFacts, Files
from ...schemas.manifest import LARGEST, content_sha256
from ...schemas.run_spec import Part
from ...schemas.shapes import misfit
from ...schemas.storage.array_reader import ArrayReader
from ...schemas.storage.local_store import LocalStore
from ...schemas.storage.plain_files import plain_size, read_plain
from ...schemas.storage.remote_folder import RemoteFolder
from ...schemas.storage.remote_store import RemoteStore
from ...schemas.storage.room import check_room
from ...schemas.storage.writable import LocalFolder
from ...schemas.workers.filling import Filling
from ...schemas.workers.site import Site
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


class EffectsSite(Site):
    """Effects in the making."""

    layout: ExtensionLayout


@contextmanager
def site_of(plan: EffectsPlan) -> Iterator[EffectsSite]:
    """Where the effects of an index are made: in its folder, or at its address."""
    layout, address = plan.layout, address_of(plan.index.layout.root)
    if address is None:
        yield EffectsSite(layout, LocalFolder(layout.root), str(layout.root), None)
        return
    with tempfile.TemporaryDirectory(prefix="vitdex-") as work:
        there, here = f"{address}/{layout.inside}", ExtensionLayout.of(Path(work), EFFECTS)
        here.parts.mkdir(parents=True)
        yield EffectsSite(here, RemoteFolder(there), shown_address(there), there)


def check_place(plan: EffectsPlan, site: EffectsSite) -> None:
    """Raise where the extension cannot be made: a link in the way, effects that are there, no room."""
    if site.address is None:
        _check_folder(plan)
        return
    filling = Filling(site.layout, site.files)
    if filling.is_finished() and not plan.overwrite:
        raise _is_there(site.name)
    run = site.files.content(site.layout.key(site.layout.run))
    if site.files.names("") and run is None and not filling.is_finished():
        raise _holds_other_files(site.name)
    check_room(site.layout.index, plan.of_tables + plan.scratch, "set TMPDIR to another disk,")


def _is_there(name: str) -> BadIndex:
    return BadIndex(f"{name} is there already", "Give --overwrite to make it anew.")


def _holds_other_files(name: str) -> BadIndex:
    return BadIndex(f"{name} holds other files", "Move them away.")


def _check_folder(plan: EffectsPlan) -> None:
    layout = plan.layout
    _check_way(layout)
    if layout.is_there and not plan.overwrite:
        raise _is_there(str(layout.root))
    ours = layout.is_there or layout.parts.exists()
    if layout.root.exists() and not ours and any(layout.root.iterdir()):
        raise _holds_other_files(str(layout.root))
    if not plan.overwrite:
        check_links(layout)
    there = sum(status.st_size for _, status in _inside(layout.root))
    check_room(layout.index, max(plan.size + plan.scratch - there, 0), "give --stored float16 or --limit,")


def _check_way(layout: ExtensionLayout) -> None:
    for folder in (layout.index / EXTENSIONS, layout.root, layout.parts):
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            raise QueryError(f"{folder} is in the way: a link or a file", "Move it away.")


def clean_up(site: EffectsSite) -> None:
    """Remove what finished effects do not need, as where the worker that finished was killed before it did."""
    if site.address is None:
        _check_way(site.layout)
        check_links(site.layout)
    site.clean_up()


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
        try:
            status = path.lstat()
        except FileNotFoundError:  # another worker's, which has its own name by now
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _inside(path)
        else:
            yield path, status


def begin(plan: EffectsPlan, site: EffectsSite) -> None:
    """Start a run, or take up an unfinished one. Raises BadIndex, naming what differs, where another run stands."""
    if site.address is None and (plan.overwrite or not site.layout.run.exists()):
        _clear(site.layout)
        check_links(site.layout)
    content = {"index_sha256": content_sha256(plan.index.manifest), "run": plan.spec.to_json()}
    if not site.files.create(site.layout.key(site.layout.run), json.dumps(content, indent=1).encode()):
        must_be_same(plan, site)


def must_be_same(plan: EffectsPlan, site: EffectsSite) -> None:
    """Raise BadIndex, naming what differs, where effects of another run stand, finished or not."""
    there = _read(site, site.layout.run)
    if misfit(there, Begun, "run") or misfit(there["run"], EffectsSpec, "run"):
        name = site.files.shown(site.layout.key(site.layout.run))
        raise BadIndex(f"{name} is damaged", "Start again with --overwrite.")
    different = plan.spec.differences(EffectsSpec.from_json(there["run"]))
    if there["index_sha256"] != content_sha256(plan.index.manifest):
        different.append("it was begun on another index")
    if different:
        kind = "finished" if Filling(site.layout, site.files).is_finished() else "unfinished"
        fact = f"{site.name} holds {kind} effects of another run ({'; '.join(different)})"
        raise BadIndex(fact, "Repeat that run's command, or give --overwrite.")


def _clear(layout: ExtensionLayout) -> None:
    """Remove the extension, finished or not, but for the lock. What vouches for other files goes before them."""
    for path in (layout.manifest, *layout.parts.iterdir(), layout.root / EXTENSION_ARRAYS, layout.database):
        if path != layout.lock:
            _remove(path)
    remove_partial(layout)


def remove_partial(layout: ExtensionLayout) -> None:
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
    """Images of an unfinished run in a folder that are not looked at again."""
    if plan.overwrite or not plan.layout.is_unfinished:
        return 0
    with site_of(plan) as site:
        return sum(part.images for part in plan.spec.parts if entry_of(plan, site, part))


def entry_of(plan: EffectsPlan, site: EffectsSite, part: Part) -> PartEntry | None:
    """The entry of a finished part. None where there is none, or its files are not those of which it says so."""
    entry = _read(site, site.layout.entry(part.index))
    arrays = effects_arrays(plan.spec, plan.index.spec).values()
    sizes = {a.part_file(part.index): a.file_bytes for a in arrays if a.by_part}
    if misfit(entry, PartEntry, "entry") or {p: size for p, (size, _) in entry["files"].items()} != sizes:
        return None
    return entry if site.address is not None or holds(site, sizes) else None  # there they appear whole, and stay


def whole_arrays_are_there(plan: EffectsPlan, site: EffectsSite) -> bool:
    """Whether the files of the arrays that are of no part are there."""
    arrays = effects_arrays(plan.spec, plan.index.spec).values()
    return holds(site, {a.file_names[0]: a.file_bytes for a in arrays if not a.by_part})


def holds(site: EffectsSite, sizes: Mapping[str, int]) -> bool:
    """Whether files are there, in a folder as large as that."""
    if site.address is not None:
        return all(PurePosixPath(key).name in site.files.names(str(PurePosixPath(key).parent)) for key in sizes)
    try:
        return all(plain_size(site.layout.root, path) == size for path, size in sizes.items())
    except OSError:
        return False


def reader_at(plan: EffectsPlan, site: EffectsSite) -> ArrayReader:
    """Who reads the arrays while they are filled."""
    specs, remedy = effects_arrays(plan.spec, plan.index.spec), plan.layout.remedy
    if site.address is None:
        return ArrayReader(LocalStore(site.layout.root, remedy), specs, remedy)
    sizes = {name: spec.file_bytes for spec in specs.values() for name in spec.file_names}
    return ArrayReader(RemoteStore(site.address, sizes), specs, remedy)


def entries_of(plan: EffectsPlan, site: EffectsSite) -> list[PartEntry]:
    """The entries of all parts. Raises DamagedIndex where one went missing."""
    with ThreadPoolExecutor(site.files.at_once) as readers:
        entries = list(readers.map(lambda part: entry_of(plan, site, part), plan.spec.parts))
    there = [entry for entry in entries if entry is not None]
    if len(there) < len(entries):
        raise DamagedIndex(f"files of part {entries.index(None)} of {site.name} went missing", "Repeat the command.")
    return there


def files_of(entries: list[PartEntry]) -> Files:
    """The files of all parts."""
    return {path: FileFacts(*facts) for entry in entries for path, facts in entry["files"].items()}


def _read(site: EffectsSite, file: Path) -> Any:
    """A file of the extension, out of JSON; None where it is missing, no plain file, or damaged."""
    layout = site.layout
    try:
        if site.address is not None:
            return json.loads(site.files.content(layout.key(file)) or b"")
        return json.loads(read_plain(layout.index, file.relative_to(layout.index).as_posix(), LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
