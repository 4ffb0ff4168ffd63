"""The tables of the extension effects: means over the images of each class, from the arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...schemas.database import attach_for_writing, filling
from ...schemas.effects import EFFECTS_SQL, PLACES, effects_arrays, effects_layers
from ...schemas.facts import Files
from ...schemas.rows import class_keys, insert
from ...schemas.run_spec import LayerSpec
from ...schemas.storage.atomic_files import adopt_file
from ...schemas.storage.room import take_room
from .effects_place import EffectsSite, reader_at
from .effects_plan import EffectsPlan

Doubles = NDArray[np.float64]

CLASSES_AT_ONCE = 50  # in memory as rows
COLUMNS = ("effect", "effect_se", "direct", "through_norm", "indirect", *PLACES, "subject_share")


def write_tables(plan: EffectsPlan, site: EffectsSite) -> Files:
    """Write tables.duckdb. Raises BadIndex on a full disk."""
    layout = site.layout
    temporary = layout.database.with_name(".tables.duckdb.partial")
    with filling(temporary) as db:
        attach_for_writing(db, temporary, "made")
        db.execute("USE made")
        db.execute(EFFECTS_SQL[: EFFECTS_SQL.index("CREATE VIEW")])
        _Tables(plan, site).fill(db)
    return {layout.database.name: adopt_file(temporary, layout.database)}


class _Tables:
    """What the rows are made of: the extension's arrays, and of the index what the head reads of every neuron.

    Classes are counted among those that have images: `present` are their rows in the head, `asked` is an image's place
    among them, -1 for an unreadable image.
    """

    def __init__(self, plan: EffectsPlan, site: EffectsSite) -> None:
        self.plan, self.index, self.site = plan, plan.index, site
        self.specs = effects_arrays(plan.spec, plan.index.spec)
        self.reader = reader_at(plan, site)
        self.layers = effects_layers(plan.spec, plan.index.spec)
        self.present = plan.present
        self.asked = np.where(plan.classes >= 0, np.searchsorted(self.present, plan.classes), -1)
        masked = np.zeros(plan.spec.images, bool)
        if "mask_share" in self.specs:
            masked = np.isfinite(self.reader.whole("mask_share"))
        self.n, self.n_masked = (
            np.bincount(self.asked[some & (self.asked >= 0)], minlength=len(self.present))
            for some in (np.ones_like(masked), masked)
        )

    def fill(self, db: duckdb.DuckDBPyConnection) -> None:
        self._images(db)
        shape = (len(COLUMNS), len(self.present), self.plan.units)
        with tempfile.TemporaryFile(dir=self.site.layout.parts) as file:  # on disk: too large for memory at ImageNet
            take_room(file, 4 * prod(shape))
            every = np.memmap(file, np.float32, "w+", shape=shape)
            first = 0
            for layer in self.layers:
                columns = self._layer(layer)
                for place, name in enumerate(COLUMNS):
                    every[place, :, first : first + layer.units] = columns.get(name, np.nan)
                first += layer.units
            self._rows(db, every)

    def _images(self, db: duckdb.DuckDBPyConnection) -> None:
        asked = self.plan.classes.tolist()
        columns: dict[str, Any] = {
            "image_id": self.plan.images.astype(np.uint32),
            "class_id": pd.array([c if c >= 0 else None for c in asked], "Int64"),
            "logit": self.reader.whole("logit"),
            "mask_share": self.reader.whole("mask_share") if "mask_share" in self.specs else None,
        }
        insert(db, "effect_images", columns)

    def _layer(self, layer: LayerSpec) -> dict[str, Doubles]:
        """Columns of one layer: [class, unit]."""
        n, n_masked = self.n[:, None], self.n_masked[:, None]
        out = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            total, squares = self._sums(layer, "effect", _itself, np.square)
            out["effect"] = total / n
            out["effect_se"] = np.sqrt(np.maximum(squares - total**2 / n, 0) / (n - 1) / n)
            if self.plan.spec.read:
                out["through_norm"] = self._sums(layer, "through_norm", _itself)[0] / n
                out["direct"] = self._direct(layer)
                out["indirect"] = out["effect"] - out["direct"] - out["through_norm"]
            if "mask_share" in self.specs:
                sizes = []
                for place in PLACES:
                    total, size = self._sums(layer, place, _itself, np.abs)
                    out[place] = total / n_masked
                    sizes.append(size)
                out["subject_share"] = sizes[0] / (sizes[0] + sizes[1])
        return out

    def _sums(self, layer: LayerSpec, leaf: str, *of: Callable[[Doubles], Doubles]) -> list[Doubles]:
        """Sums over the images of each class, of functions of an array's values: [class, unit] each."""
        sums = [np.zeros((len(self.present), layer.units)) for _ in of]
        for part in self.plan.spec.parts:
            rows = np.arange(part.start, part.stop)
            values = self.reader.rows(f"{layer.name}/{leaf}", rows).astype(np.float64)
            chosen = np.isfinite(values[:, 0]) & (self.asked[rows] >= 0)
            for place, some in _by_class(self.asked[rows][chosen], values[chosen]):
                for total, function in zip(sums, of, strict=True):
                    total[place] += function(some).sum(0)
        return sums

    def _direct(self, layer: LayerSpec) -> Doubles:
        """The contribution less that of the replacement, and less the mean of all classes': [class, unit]."""
        names, place = self.index.vectors_of(layer.name)
        head = self.index.reader.whole("head").astype(np.float64)
        contrasts = head[self.present] - head.mean(0)
        scores = contrasts @ self.index.reader.chunk(names.folded, place)[0].astype(np.float64).T
        token = 0 if self.index.spec.readout == "token" else -1
        instead = self.reader.whole(f"{layer.name}/replacement")[token].astype(np.float64)
        read = np.zeros((len(self.present), layer.units))
        for part in self.plan.spec.parts:
            asked = self.asked[part.start : part.stop]
            ids = self.plan.images[part.start : part.stop][asked >= 0]
            scale = self.index.reader.rows(f"{layer.name}/scale", ids)[:, None]
            values = self.index.reader.rows(f"{layer.name}/read", ids) - instead * scale
            for row, some in _by_class(asked[asked >= 0], values):
                read[row] += some.sum(0)
        direct: Doubles = scores * read / self.n[:, None]
        return direct

    def _rows(self, db: duckdb.DuckDBPyConnection, every: NDArray[np.float32]) -> None:
        """class_effects, sorted by class, then block and unit; classes without images have no rows."""
        for start in range(0, len(self.present), CLASSES_AT_ONCE):
            some = slice(start, min(start + CLASSES_AT_ONCE, len(self.present)))
            columns: dict[str, Any] = {
                **class_keys(self.layers, self.present[some]),
                "n": np.repeat(self.n[some].astype(np.uint32), self.plan.units),
                "n_masked": np.repeat(self.n_masked[some].astype(np.uint32), self.plan.units),
                "rank_by_effect": _ranks(every[0, some]).ravel(),
            }
            for place, name in enumerate(COLUMNS):
                values = np.array(every[place, some])
                columns[name] = None if np.isnan(values).all() else values.ravel()
            insert(db, "class_effects", columns)


def _itself(values: Doubles) -> Doubles:
    return values


def _ranks(effects: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Ranks from 1 in each row, largest first, ties to the earlier place."""
    ranks = np.empty(effects.shape, np.uint32)
    order = np.argsort(-effects, axis=1, kind="stable")
    np.put_along_axis(ranks, order, np.arange(1, effects.shape[1] + 1, dtype=np.uint32)[None], 1)
    return ranks


def _by_class(classes: NDArray[np.int64], values: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Every class among rows, and its rows."""
    order = np.argsort(classes, kind="stable")
    ends = np.flatnonzero(np.diff(classes[order])) + 1
    for some in np.split(order, ends) if len(order) else ():
        yield int(classes[some[0]]), values[some]
