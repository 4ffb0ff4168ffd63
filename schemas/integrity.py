"""Whether an index's files are those that its manifest lists: by size, or by checksum. Opens nothing outside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .addressed import address_of
from .effects import EFFECTS, fault_of_effects
from .errors import BadIndex, DamagedIndex
from .extension import (
    EXTENSIONS,
    ExtensionLayout,
    ExtensionManifest,
    extensions_in,
    read_extension,
    seal_extension,
)
from .facts import FileFacts, Files, file_facts
from .integrity_elsewhere import faults_elsewhere
from .layout import FilledFolder, Layout
from .manifest import Manifest, read_manifest, seal_manifest
from .progress import Progress, counted
from .run_spec import RunSpec

Fault = Literal["missing", "damaged", "foreign"]

READERS = 4
RUN = "/parts/run.json"  # of an extension that was begun
CARD = "README.md"  # what `vitdex publish` says of an index to people
# Not the index's own: its user's notes, extensions, which have manifests of their own, and what a hub lays beside it.
BESIDE = frozenset(
    {"notes", "notes.duckdb", "notes.duckdb.wal", EXTENSIONS, CARD, ".gitattributes", ".cache/huggingface"}
)


@dataclass(frozen=True)
class Finding:
    """One file that is not as it was when the index was made. `path` is relative to the index."""

    path: str
    fault: Fault
    detail: str


def verify(path: str | Path, quick: bool = False, *, progress: Progress | None = None) -> list[Finding]:
    """Compare every file of an index, and of its extensions, with its checksum; `quick`: with its size alone.

    Args:
        path: the index's folder, or the one of the cache that stands for an index at an address (`Index.layout.root`).
        quick: sizes only.
        progress: told the bytes read, and all bytes.

    Returns:
        What is damaged, missing or foreign, by path; where the manifest is damaged, that alone.

    Raises:
        BadIndex: no finished index of this format, a manifest that names files outside it, or an address that cannot
            be reached.

    Example:
        >>> verify("imagenet.vitdex")
        []
    """
    layout = Layout(Path(path))
    try:
        manifest = read_manifest(layout)
    except DamagedIndex:
        return [_bad_manifest(layout)]
    files, sealed = listed_files(manifest), seal_manifest(manifest)
    folders: list[tuple[FilledFolder, Files, bytes]] = [(layout, files, sealed)]
    findings = _strange_extensions(layout.root)
    for extension in extensions_in(layout.root):
        if extension.is_unfinished:
            findings.append(_unfinished(extension))
            continue
        try:
            its = read_extension(extension, manifest)
            fault = fault_of_effects(its, RunSpec.from_json(manifest["run"])) if extension.name == EFFECTS else None
            if fault:
                raise BadIndex(f"it describes no {EFFECTS}: {fault}")
            folders.append((extension, listed_files(its), seal_extension(its)))
        except BadIndex as error:
            findings.append(Finding(f"{extension.inside}/{extension.manifest.name}", "damaged", error.args[0]))
    advance = counted(progress, sum(size for _, files, _ in folders for size, _ in files.values()))
    address = address_of(layout.root)
    if address is not None:
        findings += _elsewhere(address, layout, folders, quick, advance)
    for folder, files, sealed in folders:
        if address is None:
            findings += _inside(layout.root, folder, check_files(folder, files, quick, advance))
        if folder.manifest.read_bytes() != sealed:  # the same values in other bytes: 1E5 for 1e5
            findings += _inside(layout.root, folder, [_bad_manifest(folder)])
    return sorted(findings, key=lambda finding: finding.path)


def _elsewhere(
    address: str,
    layout: Layout,
    folders: Sequence[tuple[FilledFolder, Files, bytes]],
    quick: bool,
    advance: Callable[[int], object],
) -> list[Finding]:
    """Findings of an index at an address, with its extensions; `layout`: the folder of the cache that stands for it."""
    listed, manifests = Files(), set()
    for folder, files, _ in folders:
        inside = folder.root.relative_to(layout.root)
        listed |= {(inside / path).as_posix(): facts for path, facts in files.items()}
        manifests.add((inside / folder.manifest.name).as_posix())
    beside = manifests | (BESIDE - {EXTENSIONS})
    found = [Finding(*one) for one in faults_elsewhere(address, listed, beside, quick, advance)]
    for begun in [f.path.removesuffix(RUN) for f in found if f.fault == "foreign" and f.path.endswith(RUN)]:
        extension = ExtensionLayout(layout.root / begun)
        if extension.inside == begun and not extension.is_there:  # one line for all of its files
            found = [f for f in found if not f.path.startswith(f"{begun}/")] + [_unfinished(extension)]
    return found


def _inside(root: Path, folder: FilledFolder, findings: list[Finding]) -> list[Finding]:
    """Findings in a folder of an index by their path in the index."""
    place = folder.root.relative_to(root)
    return [replace(finding, path=(place / finding.path).as_posix()) for finding in findings]


def _strange_extensions(root: Path) -> list[Finding]:
    """What lies where extensions do and is none."""
    if not os.path.lexists(root / EXTENSIONS):
        return []
    ours = {one.name for one in extensions_in(root)}
    if (root / EXTENSIONS).is_symlink() or not (root / EXTENSIONS).is_dir():
        return [Finding(EXTENSIONS, "foreign", "not of this index")]
    others = sorted(entry.name for entry in os.scandir(root / EXTENSIONS) if entry.name not in ours)
    return [Finding(f"{EXTENSIONS}/{name}", "foreign", "not of this index") for name in others]


def _unfinished(extension: ExtensionLayout) -> Finding:
    detail = f"unfinished: the 'vitdex {extension.name}' command that began it goes on, without --overwrite"
    return Finding(f"{extension.inside}/{extension.manifest.name}", "missing", detail)


def _bad_manifest(layout: FilledFolder) -> Finding:
    return Finding(layout.manifest.name, "damaged", "it does not match its own checksum")


def check_files(
    layout: FilledFolder, listed: Files, quick: bool = False, advance: Callable[[int], object] = lambda count: None
) -> list[Finding]:
    """Every file that is damaged, missing, or not listed, by path. `quick` compares sizes alone.

    The manifest itself is not looked at. Links are foreign and never followed, so nothing outside is read.
    """
    there = dict(_walk(layout.root, BESIDE if isinstance(layout, Layout) else frozenset()))
    out = [Finding(path, "missing", "missing") for path in listed if path not in there]
    for path, entry in there.items():
        if path in listed and entry.is_file(follow_symlinks=False):
            continue
        if path in listed:
            out.append(Finding(path, "missing", "a link or device where a file was"))
        elif path != layout.manifest.name and path != layout.lock.relative_to(layout.root).as_posix():
            out.append(Finding(path, "foreign", "not of this index"))
    missing = {finding.path for finding in out}
    to_check = [path for path in listed if path not in missing]

    def check(path: str) -> Finding | None:
        size, checksum = listed[path]
        try:
            now = there[path].stat(follow_symlinks=False).st_size
            if now != size:
                return Finding(path, "damaged", f"{now:,} bytes, not {size:,}")
            if not quick and file_facts(layout.root / path, advance).checksum != checksum:
                return Finding(path, "damaged", "its checksum differs")
        except OSError as error:
            return Finding(path, "damaged", error.strerror or "cannot be read")
        return None

    with ThreadPoolExecutor(READERS) as readers:
        out += [finding for finding in readers.map(check, to_check) if finding]
    return sorted(out, key=lambda finding: finding.path)


def _walk(root: Path, beside: Collection[str], below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything in a folder that is not itself a folder, by its path; what is `beside` is left out."""
    with os.scandir(root / below) as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if path in beside:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, beside, f"{path}/")
            else:
                yield path, entry


def listed_files(manifest: Manifest | ExtensionManifest) -> Files:
    """The files that a manifest lists, with their sizes and checksums."""
    return {path: FileFacts(*facts) for path, facts in manifest["files"].items()}
