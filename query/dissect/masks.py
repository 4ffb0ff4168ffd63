"""Masks of the objects in an index's images, as the model saw them: the image's own resize and crop, nearest pixel.

masks = open_masks(index)                       # the packaged sample brings its own
masks = open_masks(index, "imagenet-s/validation", names="imagenet-s/categories.txt")
masks.object(17)                                # bool [y, x], or None where the image has no mask
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ...data.packaged import IMAGES, MASKS
from ...schemas.errors import QueryError
from ...schemas.text_files import read_text
from ..stored.stored_index import StoredIndex

Bools = NDArray[np.bool_]
VOID = 1000  # ImageNet-S: pixels that nobody decided


@dataclass(frozen=True)
class Masks:
    """A folder of masks that mirrors the image paths (any extension): one per image, 0 where there is no object.

    Without `names` everything that is not 0 is the image's own object, and the concept is the image's label. With
    `names` (of the values from 1 on) a pixel's value is its concept, as in ImageNet-S.
    """

    index: StoredIndex
    folder: Path
    names: tuple[str, ...] | None

    @cached_property
    def files(self) -> dict[str, Path]:
        """Mask files by the image path they mirror, without extension."""
        found = (p for p in self.folder.rglob("*") if p.suffix.lower() in (".png", ".tif", ".tiff", ".bmp"))
        return {p.relative_to(self.folder).with_suffix("").as_posix(): p for p in sorted(found)}

    @cached_property
    def images(self) -> pd.DataFrame:
        """The readable images that have a mask: image_id, path, label, class, width, height, crop; by image_id."""
        images = self.index.sql(
            "SELECT image_id, path, label, class_id, classes.class, wnid, width, height, crop FROM images "
            "LEFT JOIN classes USING (class_id) WHERE crop IS NOT NULL ORDER BY image_id"
        )
        return images[[_stem(path) in self.files for path in images.path]].set_index("image_id", drop=False)

    @cached_property
    def sha256(self) -> str:
        """Of the masks' files by path and size, and of the names: what tells these masks from others, in hex."""
        listed = [[_stem(p), self.files[_stem(p)].stat().st_size] for p in self.images.path]
        return hashlib.sha256(json.dumps([listed, self.names]).encode()).hexdigest()

    @cached_property
    def concepts(self) -> list[str]:
        """Names of all concepts: those of the file of names, or the labels of the images that have a mask."""
        return list(self.names) if self.names else sorted(self.images.label.dropna().unique())

    def object(self, image_id: int) -> Bools | None:
        """The image's object: bool [y, x] in pixels of the model's input. None where it has no mask.

        With names: the pixels whose concept is the image's label or class.
        """
        values = self.values(image_id)
        if values is None or self.names is None:
            return None if values is None else values > 0
        row = self.images.loc[image_id]
        own = [i + 1 for i, name in enumerate(self.names) if name in (row.label, row["class"], row.wnid)]
        return np.isin(values, own)

    def covers(self, image_ids: Sequence[int]) -> NDArray[np.float64]:
        """The object's share of every patch of images that have a mask: float64 [image, patch]."""
        found = [self.object(image_id) for image_id in image_ids]
        return np.array([patch_cover(mask, self.index.spec.grid).reshape(-1) for mask in found if mask is not None])

    def of_concepts(self, image_id: int) -> dict[int, Bools]:
        """Concepts that the image shows, by position in `concepts`: bool [y, x]."""
        values = self.values(image_id)
        if values is None:
            return {}
        if self.names is None:
            label: Any = self.images.loc[image_id, "label"]
            return {} if pd.isna(label) else {self.concepts.index(label): values > 0}
        shown = np.unique(values)
        return {int(v) - 1: values == v for v in shown if 0 < v <= len(self.names)}

    def values(self, image_id: int) -> NDArray[np.int32] | None:
        """The mask's values in pixels of the model's input, 0 beyond the image's edge: int32 [y, x]."""
        if image_id not in self.images.index:
            return None
        row: Any = self.images.loc[image_id]
        file = self.files[_stem(row.path)]
        with Image.open(file) as mask:
            if mask.size != (row.width, row.height):
                raise QueryError(
                    f"{file} has {mask.width} x {mask.height} pixels, its image {row.width} x {row.height}",
                    "A mask must cover the upright image pixel by pixel.",
                )
            box = tuple(row.crop[side] for side in ("left", "top", "right", "bottom"))
            plain = mask.convert("L") if mask.mode == "1" else mask
            _, height, width = self.index.spec.preprocessing["input_size"]
            seen = plain.transform((width, height), Image.Transform.EXTENT, box, Image.Resampling.NEAREST)
        return _numbers(np.asarray(seen))


def patch_cover(mask: Bools, grid: tuple[int, int]) -> NDArray[np.float64]:
    """The mask's share of every patch: float64 [row, column]."""
    rows, columns = grid
    height, width = mask.shape[0] // rows, mask.shape[1] // columns
    patches = mask[: rows * height, : columns * width].reshape(rows, height, columns, width)
    cover: NDArray[np.float64] = patches.mean((1, 3))
    return cover


def _numbers(pixels: NDArray[np.generic]) -> NDArray[np.int32]:
    """Values of a mask; colours as in ImageNet-S: red + 256 * green, where 1000 is void."""
    values = pixels.astype(np.int32)
    if values.ndim == 3:
        values = values[..., 0] + 256 * values[..., 1]
        values[values == VOID] = 0
    return values


def open_masks(index: StoredIndex, folder: str | Path | None = None, names: str | Path | None = None) -> Masks:
    """The masks in a folder; without one, those of the packaged sample where the index was made from its images.

    Args:
        folder: mirrors the image paths: bird/000.jpg has FOLDER/bird/000.png (or .tif, .bmp), of the upright image's
            size.
        names: a text file, one concept a line for the values from 1 on (only the first word counts).

    Returns:
        Masks.

    Raises:
        QueryError: no folder, no name, or no mask that mirrors an image's path.

    Example:
        >>> open_masks(index, "imagenet-s/validation", names="imagenet-s/categories.txt")
    """
    if folder is None:
        if not _made_from(index, IMAGES):
            raise QueryError(
                "no masks: only an index of the packaged sample's images brings its own",
                "Give --masks DIR, a folder that mirrors the image paths.",
            )
        folder = MASKS
    if not Path(folder).is_dir():
        raise QueryError(f"no folder of masks at {folder}", "Give --masks DIR.")
    masks = Masks(index, Path(folder), _read_names(names))
    if masks.images.empty:
        path = index.sql("SELECT path FROM images LIMIT 1").path[0]
        raise QueryError(f"no mask in {folder} mirrors an image", f"It should hold {_stem(path)}.png or its like.")
    return masks


def _read_names(names: str | Path | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    try:
        lines = read_text(names).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(
            f"no readable file of names at {names}", "One name a line, for the values from 1 on."
        ) from error
    return tuple(line.split()[0] for line in lines if line.strip())


def _made_from(index: StoredIndex, folder: Path) -> bool:
    """Whether an index was made from the images in this folder: its own hash of their paths, labels and sizes."""
    digest = hashlib.sha256()
    for path, label in index.sql("SELECT path, label FROM images ORDER BY image_id").itertuples(index=False):
        file = folder / path
        if not file.is_file():
            return False
        digest.update(json.dumps([path, label, file.stat().st_size]).encode() + b"\n")
    return digest.hexdigest() == index.spec.images_sha256


def _stem(path: str) -> str:
    return Path(path).with_suffix("").as_posix()
