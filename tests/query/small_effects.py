"""A tiny index that `vitdex effects` is run on, and what of its extension tests compare."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from other_models import SIDE, index_of
from PIL import Image
from vitdex.query.causal import effects_plan
from vitdex.query.causal.effects_run import measure_effects
from vitdex.query.dissect.masks import open_masks
from vitdex.query.index import Index
from vitdex.schemas.errors import VitdexError
from vitdex.schemas.facts import file_facts

MODEL = ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 2})
LAYER, UNITS, IMAGES, PART = "blocks.1.mlp.fc1", 192, 9, 3
INSIDE = Path("extensions") / "effects"
TABLES = ("class_effects", "effect_images")


def small_index(folder: Path, **more: Any) -> Path:
    """An index of nine images in `folder`, beside its model and masks of six of them."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 255
    for number in range(6):
        file = folder / "masks" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(file)
    return index_of(*MODEL, folder, **more)


def add_effects(index_path: Path, model: Path, masks: bool = True, **choices: Any) -> Path:
    """Effects of its images in parts of PART. Returns the index's folder."""
    before, effects_plan.PART_IMAGES = effects_plan.PART_IMAGES, PART
    try:
        with Index(index_path, extensions=False) as index:
            of_objects = open_masks(index, model / "masks") if masks else None
            measure_effects(index, masks=of_objects, weights=model, device="cpu", **choices)
    finally:
        effects_plan.PART_IMAGES = before
    return index_path


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


def content(index_path: Path) -> dict[str, Any]:
    """All of the extension but times: files of arrays by checksum, tables by rows, and what lies there."""
    root = index_path / INSIDE
    there = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*"))}
    with Index(index_path) as index:
        rows = {name: index.sql(f"FROM {name} ORDER BY ALL").to_csv() for name in TABLES}
    arrays = {name: file_facts(p) for name, p in there.items() if name.startswith("arrays.zarr/") and p.is_file()}
    return {"arrays": arrays, "tables": rows, "there": list(there)}


def refusal(act: Callable[[], object]) -> str | None:
    """What is said where something is refused; None where it is done."""
    try:
        act()
    except VitdexError as error:
        return str(error)
    return None
