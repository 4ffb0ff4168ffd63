"""An index that lies at an address: its manifest and tables are brought into the user's cache, its arrays stay there.

The folder in the cache is an index folder whose arrays are read from the address by ranges, as far as they are wanted.
It is named by the content of the manifest: what changes behind an address is another folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from ...schemas.addressed import ADDRESS, address_of, cache_folder, shown_address
from ...schemas.array_specs import ArraySpec
from ...schemas.effects import EFFECTS, fault_of_effects
from ...schemas.errors import REPAIR, BadIndex, DamagedIndex
from ...schemas.extension import ExtensionLayout, read_extension
from ...schemas.layout import Layout
from ...schemas.manifest import LARGEST, read_manifest
from ...schemas.progress import Progress, silent
from ...schemas.run_spec import RunSpec
from ...schemas.storage.array_reader import ArrayReader
from ...schemas.storage.elsewhere import CHANGED, Elsewhere
from ...schemas.storage.local_store import LocalStore
from ...schemas.storage.remote_store import RemoteStore
from ...schemas.storage.room import check_room

LIMIT = 20_000_000_000  # bytes of all folders; the longest unused go first


@dataclass(frozen=True)
class Cached:
    """What the cache holds of an index."""

    folder: Path
    address: str
    bytes: int
    used: float  # when, in seconds since 1970


def reader_of(
    root: Path,
    files: Mapping[str, tuple[int, str]],
    specs: Mapping[str, ArraySpec],
    inside: str = "",
    remedy: str = REPAIR,
) -> ArrayReader:
    """Who reads the arrays of an index, or of an extension of it at `inside`: in its folder, or from its address."""
    address = address_of(root)
    if address is None:
        return ArrayReader(LocalStore(root / inside, remedy), specs, remedy)
    sizes = {path: size for path, (size, _) in files.items()}
    return ArrayReader(RemoteStore(address, sizes, inside), specs, CHANGED)


def brought(address: str, progress: Progress | None = None) -> Path:
    """The folder of the cache for the index at an address, made or brought up to date.

    Args:
        address: https://, http://, s3://, gs://, az:// or hf://datasets/OWNER/NAME, with the folder of the index.
        progress: told (bytes, all bytes) while tables are downloaded.

    Raises:
        BadIndex: it cannot be reached, may not be read, or holds no index.
        DamagedIndex: a file is not what the manifest says.
    """
    there = Elsewhere(address.rstrip("/"))
    raw = there.content("manifest.json", LARGEST)
    if raw is None:
        raise BadIndex(f"there is no index at {shown_address(address)}", "Name the folder that holds manifest.json.")
    extension = ExtensionLayout.of(Path(), EFFECTS)
    effects = there.content(f"{extension.inside}/{extension.manifest.name}", LARGEST)
    name = hashlib.sha256(b"\0".join([there.address.encode(), raw, effects or b""])).hexdigest()[:32]
    folder = cache_folder() / name
    if not (folder / ADDRESS).exists():
        _bring(there, folder, raw, effects, progress or silent)
        _make_room(folder)
    os.utime(folder / ADDRESS)
    return folder


def cached() -> list[Cached]:
    """What the cache holds, last used first."""
    found = []
    for marker in cache_folder().glob(f"*/{ADDRESS}"):
        size = sum(file.stat().st_size for file in marker.parent.rglob("*") if file.is_file())
        found.append(Cached(marker.parent, str(address_of(marker.parent)), size, marker.stat().st_mtime))
    return sorted(found, key=lambda one: -one.used)


def forget(one: Cached) -> None:
    """Remove what the cache holds of an index; the marker first, so that nothing half removed is read."""
    (one.folder / ADDRESS).unlink(missing_ok=True)
    shutil.rmtree(one.folder, ignore_errors=True)


def _bring(there: Elsewhere, folder: Path, raw: bytes, effects: bytes | None, progress: Progress) -> None:
    """Fill a folder of the cache beside its place, and move it there when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="partial-") as work:
        layout, extension = Layout(Path(work) / "index"), ExtensionLayout.of(Path(work) / "index", EFFECTS)
        layout.root.mkdir()
        layout.manifest.write_bytes(raw)
        with _said_of(there, layout.root):
            manifest = read_manifest(layout)
        wanted = {layout.database.name: manifest["files"].get(layout.database.name)}
        if effects is not None:
            extension.root.mkdir(parents=True)
            extension.manifest.write_bytes(effects)
            with _said_of(there, layout.root):
                own = read_extension(extension, manifest)
                if fault := fault_of_effects(own, RunSpec.from_json(manifest["run"])):
                    raise BadIndex(f"{extension.manifest} describes no {EFFECTS}: {fault}")
            wanted[f"{extension.inside}/{extension.database.name}"] = own["files"].get(extension.database.name)
        _download(there, layout.root, wanted, progress)
        (layout.root / ADDRESS).write_text(json.dumps({"address": there.address}))
        try:
            layout.root.rename(folder)
        except OSError:  # another process was faster
            if not (folder / ADDRESS).exists():
                raise


@contextmanager
def _said_of(there: Elsewhere, root: Path) -> Iterator[None]:
    """What is wrong with what was brought, said of where it lies."""
    try:
        yield
    except (BadIndex, DamagedIndex) as error:
        fact = error.args[0].replace(str(root), shown_address(there.address))
        raise type(error)(fact, "Ask whoever put it there.") from error


def _download(there: Elsewhere, root: Path, wanted: Mapping[str, tuple[int, str] | None], progress: Progress) -> None:
    """Files by what the manifest says of them, with their checksums."""
    facts = {key: fact for key, fact in wanted.items() if fact is not None}
    if len(facts) < len(wanted):
        raise DamagedIndex(f"the manifest of {shown_address(there.address)} lists no tables", "It is no index.")
    total, done = sum(size for size, _ in facts.values()), 0
    check_room(root, total)
    for key, (size, checksum) in facts.items():
        digest, left = xxhash.xxh3_128(), size
        with (root / key).open("wb") as file:
            for piece in there.pieces(key):
                left -= len(piece)
                if left < 0:
                    break
                digest.update(piece)
                file.write(piece)
                progress(done := done + len(piece), total)
        if left or digest.hexdigest() != checksum:
            remedy = "It may be written there just now: repeat. If it stays so, that copy is damaged."
            raise DamagedIndex(f"{there.shown(key)} is not what the manifest says", remedy)


def _make_room(used: Path) -> None:
    """Let the longest unused go where the cache is larger than its limit."""
    held = cached()
    size = sum(one.bytes for one in held)
    for one in reversed(held):
        if size > LIMIT and one.folder != used:
            forget(one)
            size -= one.bytes
