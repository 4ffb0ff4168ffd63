"""The files of one layer's exemplar set, written as fast as the disk takes them, in little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...schemas.storage.atomic_files import DirectFile
from ..stored.maps import top_maps
from ..stored.stored_index import StoredIndex
from .milan_masks import milan_masks

if TYPE_CHECKING:
    from ..model.live_model import LiveModel

BLOCK_BYTES = 100_000_000  # maps or images held at once


@dataclass(frozen=True)
class Exemplars:
    """The top exemplars of some units of a layer; arrays [unit, k], best first."""

    layer: str
    units: NDArray[np.int64]  # [unit]
    image_ids: NDArray[np.int64]
    patches: NDArray[np.uint16]  # of the largest value
    activations: NDArray[np.float32]  # the largest value

    def __getitem__(self, rows: slice) -> Exemplars:
        return Exemplars(self.layer, self.units[rows], self.image_ids[rows], self.patches[rows], self.activations[rows])


def top_exemplars(index: StoredIndex, layer: str, units: NDArray[np.int64], k: int) -> Exemplars:
    """The k distinct images with a unit's largest patches: MILAN ranks by the maximum over the patches, as we do."""
    rows = index.sql(
        "SELECT image_id, patch, pre FROM exemplars WHERE layer = ? AND side = 'top' AND token = 'patch' AND rank <= ? "
        "ORDER BY unit, rank",
        [layer, k],
    )
    ids, patches, pre = (rows[name].to_numpy().reshape(-1, k)[units] for name in ("image_id", "patch", "pre"))
    return Exemplars(layer, units, ids.astype(np.int64), patches.astype(np.uint16), pre)


def exemplar_maps(index: StoredIndex, top: Exemplars, live: LiveModel | None = None) -> NDArray[np.float32]:
    """Maps of exemplars as stored or, with a model, computed anew: float32 [unit, k, rows, columns]."""
    if live:
        from ..model.exact_thresholds import live_maps

        return live_maps(live, top.layer, top.units, top.image_ids)
    found = top_maps(index.reader, index.spec, top.layer, top.units, top.image_ids, top.patches)
    return found.reshape(*top.image_ids.shape, *index.spec.grid)


def write_small(folder: Path, top: Exemplars) -> None:
    """units.npy, ids.csv and activations.csv, in the formats of MILAN's own."""
    np.save(folder / "units.npy", top.units)
    np.savetxt(folder / "ids.csv", top.image_ids, fmt="%i", delimiter=",")
    np.savetxt(folder / "activations.csv", top.activations, fmt="%.5e", delimiter=",")


def write_masks(
    path: Path,
    index: StoredIndex,
    top: Exemplars,
    thresholds: NDArray[np.float32],
    size: int,
    live: LiveModel | None,
    wrote: Callable[[int], None],
) -> None:
    """uint8 [unit, k, 1, y, x] of 0 and 1. The thresholds [unit] are the units' own."""
    units, k = top.image_ids.shape
    block = max(1, BLOCK_BYTES // (k * index.spec.patches * 4))
    with npy_file(path, (units, k, 1, size, size)) as file:
        for first in range(0, units, block):
            here = slice(first, first + block)
            for maps, threshold in zip(exemplar_maps(index, top[here], live), thresholds[here], strict=True):
                file.write(milan_masks(maps, threshold, (size, size)).data.cast("B"))
                wrote(k * size * size)


def write_images(path: Path, index: StoredIndex, top: Exemplars, size: int, wrote: Callable[[int], None]) -> None:
    """uint8 [unit, k, 3, y, x], RGB, some units at a time: each of their images is read, resized and turned once."""
    units, k = top.image_ids.shape
    block = max(1, BLOCK_BYTES // (k * 3 * size**2))
    with npy_file(path, (units, k, 3, size, size)) as file:
        for first in range(0, units, block):
            ids = top.image_ids[first : first + block].ravel()
            planes = np.empty((len(ids), 3, size, size), np.uint8)
            for image_id in np.unique(ids).tolist():
                planes[ids == image_id] = resized(index.reader.cell("inputs", image_id), size).transpose(2, 0, 1)
            file.write(planes.data.cast("B"))
            wrote(planes.nbytes)


def resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """An input [y, x, channel] at the size of the set, by Pillow's antialiased bicubic filter."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


@contextmanager
def npy_file(path: Path, shape: tuple[int, ...]) -> Iterator[DirectFile]:
    """A new .npy file of uint8 in C order, open after its header; flushed to the disk at the end."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with DirectFile(path) as file:
        file.write(header.getvalue())
        yield file
