"""Plan the extension effects: which images, what stands in a neuron's place, how large it becomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import psutil
from numpy.typing import NDArray

from ...schemas.addressed import address_of, must_lie_here
from ...schemas.database import TABLES_MEMORY
from ...schemas.effects import EFFECTS, EffectsSpec, Replace, Stored, effects_arrays, effects_layers
from ...schemas.errors import STRANGE, DamagedIndex, QueryError
from ...schemas.extension import ExtensionLayout
from ...schemas.run_spec import READOUTS, Precision
from ...schemas.storage.elsewhere import BUCKETS
from ..lookups.key_neurons import needs_head
from ..stored.names import at_least
from ..stored.stored_index import StoredIndex
from .object_masks import ObjectMasks

if TYPE_CHECKING:
    from ..model.live_model import LiveModel

Ints = NDArray[np.int64]

PART_IMAGES = 256
ROW_BYTES = 70  # of a neuron and class in the tables
FLOATS = 9  # of a neuron and class, while the tables are made
NAMED = 3  # classes by name, where the images of more are chosen
FLOAT, DOUBLE = 4, 8  # bytes
HELD = 1.5  # what a pass keeps, malloc's share with it, for each byte that the sizes of its values say
SUMS = 20  # numbers of every neuron of a layer and class that are held while the tables are made


@dataclass(frozen=True)
class EffectsPlan:
    """Everything that is settled before a run. `images` [row] and their `classes` [row], -1 where unreadable."""

    index: StoredIndex
    live: LiveModel
    spec: EffectsSpec
    images: Ints
    classes: Ints
    masks: ObjectMasks | None
    overwrite: bool

    @property
    def layout(self) -> ExtensionLayout:
        return ExtensionLayout.of(self.index.layout.root, EFFECTS)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        of_arrays = sum(array.total_bytes for array in effects_arrays(self.spec, self.index.spec).values())
        return of_arrays + self.of_tables

    @property
    def of_tables(self) -> int:
        """Bytes of the tables among them."""
        return ROW_BYTES * self.units * len(self.present)

    @property
    def scratch(self) -> int:
        """Bytes on disk while the tables are made."""
        return FLOATS * FLOAT * self.units * len(self.present)

    @property
    def units(self) -> int:
        return sum(layer.units for layer in effects_layers(self.spec, self.index.spec))

    @property
    def present(self) -> Ints:
        """The classes that images are asked about, as rows of the head."""
        return np.unique(self.classes[self.classes >= 0])

    @property
    def memory(self) -> int:
        """Bytes at the peak: what this process holds by now, the model among it, and the larger of two stages."""
        run, layers = self.index.spec, effects_layers(self.spec, self.index.spec)
        streams = 4 * run.features  # of a branch and token: the stream, its norm, queries, keys, values, what they give
        held = FLOAT * self.spec.batch_size * run.tokens * sum(2 * layer.units + streams for layer in layers)
        part = FLOAT * self.spec.part_images * self.units * len(self.spec.leaves)
        widest = max(layer.units for layer in layers)
        tables = TABLES_MEMORY + DOUBLE * SUMS * len(self.present) * widest
        passes = int(HELD * held) + 2 * part if self.live.device.type == "cpu" else 2 * part
        return psutil.Process().memory_info().rss + max(passes, tables)


def plan_effects(
    index: StoredIndex,
    replace: Replace = "mean",
    masks: ObjectMasks | None = None,
    classes: Sequence[str | int] | None = None,
    limit: int | None = None,
    stored: Stored = "float32",
    precision: Precision | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    *,
    weights: str | Path | None = None,
    device: str | None = None,
) -> EffectsPlan:
    """Settle everything of a run; see measure_effects for the arguments. Raises QueryError and ModelError."""
    address = address_of(index.layout.root)
    if address is not None and not address.startswith(BUCKETS):
        must_lie_here(index.layout.root, "effects are written into an index on this machine or in a bucket")
    needs_head(index)
    at_least(1, **{k: v for k, v in (("limit", limit), ("batch_size", batch_size)) if v is not None})
    for what, value, known in (("replacement", replace, get_args(Replace)), ("type", stored, get_args(Stored))):
        if value not in known:
            raise QueryError(f"no {what} '{value}'", f"One of {', '.join(known)}.")
    run = index.spec
    layers = index.ranked_layers
    if not layers:
        raise QueryError("this index holds no neurons", "Index again with --layer fc1.")
    if not run.inputs:
        raise QueryError("this index stores no inputs", "Index again without --no-inputs.")
    images, asked, chosen = _images(index, classes or (), limit)
    from ..model.live_model import open_model

    live = open_model(index, weights, device)
    spec = EffectsSpec(
        replace=replace,
        layers=tuple(layer.name for layer in layers),
        chosen=chosen,
        images=len(images),
        images_sha256=hashlib.sha256(json.dumps([images.tolist(), asked.tolist()]).encode()).hexdigest(),
        masks_sha256=None if masks is None else masks.sha256,
        read=run.readout in READOUTS,
        stored=stored,
        precision=precision or run.precision,
        device=str(live.device),
        batch_size=min(batch_size or _batch(index, live), len(images)),
        part_images=ceil(len(images) / ceil(len(images) / PART_IMAGES)),
        versions={name: version(name) for name in ("torch", "timm", "numpy")},
    )
    return EffectsPlan(index, live, spec, images, asked, masks, overwrite)


def _batch(index: StoredIndex, live: LiveModel) -> int:
    """A backward pass keeps what all blocks hold: on a CPU of so few images that it is about what a run holds."""
    return index.spec.batch_size if live.device.type == "cuda" else max(1, index.spec.batch_size // 4)


def _images(index: StoredIndex, classes: Sequence[str | int], limit: int | None) -> tuple[Ints, Ints, str]:
    """Numbers of the images, the class that each is asked about, and which they are in words."""
    table = index.sql(
        "SELECT image_id, coalesce(class_id, predicted) AS asked, crop IS NOT NULL AS readable FROM images "
        "ORDER BY image_id"
    )
    asked = table.asked.where(table.readable).fillna(-1).to_numpy(np.int64)
    if asked.max() >= index.spec.classes:
        raise DamagedIndex(f"the tables name class {asked.max()}, which the head does not have", STRANGE)
    keep, words = np.ones(len(table), bool), []
    if classes:
        rows = list(dict.fromkeys(index.class_id(class_) for class_ in classes))
        keep &= np.isin(asked, rows)
        names = ", ".join(index.class_name(row) for row in rows[:NAMED])
        words.append(f"images of {names if len(rows) <= NAMED else f'{len(rows):,} classes'}")
    if limit is not None:
        keep &= keep.cumsum() <= limit
        words.append(f"the first {limit:,}" if not words else f"at most {limit:,}")
    if not (keep & (asked >= 0)).any():
        raise QueryError("no image of these can be asked about", "Name classes that have images.")
    return np.flatnonzero(keep), asked[keep], "; ".join(words) or "all images"
