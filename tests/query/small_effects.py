"""A small index with the extension effects, and what of it tests compare. Not a test itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query.causal import effects_plan
from vitdex.query.causal.effects_run import measure_effects
from vitdex.query.dissect.masks import open_masks
from vitdex.query.index import Index
from vitdex.schemas.facts import file_facts

IMAGES, PART = 48, 16  # of the sample's first two classes
INSIDE = Path("extensions") / "effects"
TABLES = ("class_effects", "effect_images")


def small_index(out: Path, **choices: Any) -> Path:
    """An index of the sample's first images, with inputs and without maps."""
    return build(sample_request(out, limit=IMAGES, maps="none", device="cpu", **choices), Quiet())


def add_effects(folder: Path, masks: bool = True, **choices: Any) -> Path:
    """Effects of all its images in three parts. Returns the index's folder."""
    before, effects_plan.PART_IMAGES = effects_plan.PART_IMAGES, PART
    try:
        with Index(folder, extensions=False) as index:
            of_objects = open_masks(index, effects_masks()) if masks else None
            measure_effects(index, masks=of_objects, device="cpu", **choices)
    finally:
        effects_plan.PART_IMAGES = before
    return folder


def effects_masks() -> Path:
    from conftest import SAMPLE

    return SAMPLE / "masks"


def linked(folder: Path, out: Path) -> Path:
    """A copy that costs nothing. Its files may be replaced, never written into."""
    return Path(shutil.copytree(folder, out, copy_function=os.link))


def replace(file: Path, content: bytes) -> None:
    """Put content in the place of a file, whose other names keep theirs."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 0x55
    replace(file, bytes(content))


def content(folder: Path) -> dict[str, Any]:
    """All of the extension but times: files of arrays by checksum, tables by rows, names of all files."""
    root = folder / INSIDE
    files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if not p.is_dir()}
    with Index(folder) as index:
        rows = {name: index.sql(f"FROM {name} ORDER BY ALL").to_csv() for name in TABLES}
    arrays = {name: file_facts(file) for name, file in files.items() if name.startswith("arrays.zarr/")}
    return {"arrays": arrays, "tables": rows, "files": sorted(files), "folders": _folders(root)}


def _folders(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_dir())
