"""A finished index, to be asked. Light: no torch, no timm.

with Index("imagenet.vitdex") as index:
    index.sql("FROM key_neurons WHERE class = 'goldfish' LIMIT 10")   # pandas.DataFrame
    index.map("blocks.11.mlp.fc1", 2014, image_id=17)                 # float32 [rows, columns]
    index.exemplars("blocks.11.mlp.fc1", 2014, k=15)                  # pandas.DataFrame
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from ..schemas.chunks import Chunks
from ..schemas.errors import QueryError
from ..schemas.integrity import Finding
from ..schemas.layout import Layout
from ..schemas.manifest import read_manifest
from ..schemas.records import EXEMPLARS, LayerSpec, RunSpec
from .connection import ask, connect, python_values
from .key_neurons import KEY_RANKINGS, key_neurons
from .stored import stored_map

if TYPE_CHECKING:
    from .heatmap import Heatmaps
    from .milan import MilanPlan
    from .neuron import NeuronCard


class Index:
    """An index folder opened for reading; any number may be open at once, in any number of processes.

    Raises BadIndex where there is none, or none that is finished and of this format.
    """

    def __init__(self, path: str | Path) -> None:
        self.layout = Layout(Path(path))
        self.manifest = read_manifest(self.layout)
        self.spec = RunSpec.from_json(self.manifest["run"])
        self._db: duckdb.DuckDBPyConnection | None = None
        self._spill: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._spill is not None:
            self._spill.cleanup()
            self._spill = None

    @property
    def db(self) -> duckdb.DuckDBPyConnection:
        """The read-only connection behind `sql`."""
        if self._db is None:
            self._spill = tempfile.TemporaryDirectory(prefix="vitdex-")
            self._db = connect(self.layout, Path(self._spill.name), self._stored_map)
        return self._db

    def verify(self, quick: bool = False) -> list[Finding]:
        """Files that are damaged, missing or foreign, see `verify`; an empty list where all is well."""
        from .verify import verify

        return verify(self.layout.root, quick)

    @cached_property
    def arrays(self) -> zarr.Group:
        """The Zarr group of all arrays, see FORMAT.md."""
        return zarr.open_group(self.layout.arrays, mode="r")

    @cached_property
    def chunks(self) -> Chunks:
        """The same arrays memory-mapped, a chunk at a time: for single cells, and for what is read over and over."""
        return Chunks(self.layout, self.spec)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """class_id, wnid, name of all classes, in the order of the head's rows."""
        return self.sql("SELECT class_id, wnid, class AS name FROM classes ORDER BY class_id")

    def sql(self, query: str, parameters: list[Any] | None = None, timeout: float | None = None) -> pd.DataFrame:
        """Rows of a query as a DataFrame; `timeout` in seconds. Raises QueryError with DuckDB's complaint."""
        return ask(self.db, query, python_values(parameters or []), timeout)

    def look_up(self, query: str, parameters: list[Any]) -> pd.DataFrame:
        """Rows of a query of our own, known to be small: without the checks that `sql` makes, in half the time."""
        return self.db.execute(query, python_values(parameters)).df()

    def exemplars(self, layer: str, unit: int, k: int = 15, side: str = "top", token: str = "patch") -> pd.DataFrame:
        """The k distinct images at one side of a neuron, best first: rank, image_id, patch, pre, post, path, label.

        side: 'top', 'bottom' or 'quantile' of the image maxima; token: 'patch', or 'cls' for the CLS token's own top.
        """
        self.neuron_layer(layer, unit)
        return self.look_up(
            "SELECT rank, image_id, patch, pre, post, path, label FROM exemplars JOIN images USING (image_id) "
            "WHERE layer = ? AND unit = ? AND side = ? AND token = ? AND rank <= ? ORDER BY rank",
            [layer, unit, side, token, k],
        )

    def map(self, layer: str, unit: int, image_id: int) -> NDArray[np.float32]:
        """A neuron's pre-GELU values on the patches of an image: float32 [rows, columns]; NaN if it was unreadable.

        From uint8 maps the error is at most (max - min) / 510 of the map. Raises QueryError where no map is stored.
        """
        values = self._stored_map(layer, unit, self.image_id(image_id))
        if values is None:
            fact = f"this index stores the maps of a neuron's top {EXEMPLARS} images, and {image_id} is not among them"
            raise QueryError(fact, "Index again with --maps uint8 for all.")
        return values.reshape(self.spec.grid)

    def _stored_map(self, layer: str, unit: int, image_id: int) -> NDArray[np.float32] | None:
        """The map as one row of patches; None where the index stores the maps of other images alone."""
        self.neuron_layer(layer, unit)
        self.image_id(image_id)
        if self.spec.maps == "none":
            raise QueryError("this index stores no maps", "Index again with --maps uint8 or exemplars.")
        return stored_map(self.chunks, self.spec, layer, unit, image_id)

    def key_neurons(self, class_: str | int, k: int = 10, by: str = "score", layer: str | None = None) -> pd.DataFrame:
        """A class's k neurons with the largest `by`, best first: rows of the view key_neurons, with `rank`.

        by: 'score', 'probability', 'cosine', 'folded' or 'contribution'; ties go to the earlier block, then unit.
        layer: only neurons of this layer. Raises QueryError for an unknown class, layer or `by`.
        """
        if by not in KEY_RANKINGS:
            raise QueryError(f"no ranking by '{by}'", f"One of {', '.join(KEY_RANKINGS)}.")
        if layer is not None:
            self.neuron_layer(layer, 0)
        return key_neurons(self, self.class_id(class_), k, by, layer)

    def classes_of(self, layer: str, unit: int, k: int = 10) -> pd.DataFrame:
        """The k classes that a neuron's value vector says loudest; see query.neuron.classes_of."""
        from .neuron import classes_of

        return classes_of(self, layer, unit, k)

    def neuron(self, layer: str, unit: int, k: int = 10) -> NeuronCard:
        """A neuron's statistics, thresholds, exemplars, classes and notes in one; see query.neuron.NeuronCard."""
        from .neuron import neuron

        return neuron(self, layer, unit, k)

    def heatmap(self, layer: str, unit: int, image: str | int, view: str = "map", **choices: Any) -> Heatmaps:
        """A neuron over an image; `view` and choices (class_, weights) as in query.heatmap.heatmaps."""
        return self.heatmaps([(layer, unit)], [image], view, **choices)

    def heatmaps(
        self, neurons: Sequence[tuple[str, int]], images: Sequence[str | int], view: str = "map", **choices: Any
    ) -> Heatmaps:
        """Neurons over images, one picture; see query.heatmap.heatmaps."""
        from .heatmap import heatmaps

        return heatmaps(self, neurons, images, view, **choices)

    def class_heatmaps(self, class_: str | int, k: int = 5, images: int = 5, **choices: Any) -> Heatmaps:
        """A class's k key neurons over its images; see query.heatmap.class_heatmaps."""
        from .heatmap import class_heatmaps

        return class_heatmaps(self, class_, k, images, **choices)

    def export_milan(self, root: str | Path, layers: Sequence[str], **choices: Any) -> MilanPlan:
        """Write top exemplars of neurons as a data set for MILAN; choices as in milan.export_milan."""
        from .milan import export_milan

        return export_milan(self, root, layers, **choices)

    @cached_property
    def _named_classes(self) -> dict[str, list[int]]:
        """The numbers of the classes of every name and WordNet id."""
        found: dict[str, list[int]] = {}
        for class_id, wnid, name in self.classes.itertuples(index=False):
            for word in {_plain(name), wnid} - {None}:
                found.setdefault(word, []).append(class_id)
        return found

    def class_id(self, class_: str | int) -> int:
        """The number of a class given by number, name or WordNet id. Raises QueryError with the nearest names."""
        word = str(class_)
        named = self._named_classes.get(_plain(word)) or self._named_classes.get(word, [])
        if len(named) > 1:
            rows = self.classes.iloc[named]
            several = ", ".join((rows.class_id.astype(str) + " (" + rows.wnid.fillna(rows.name) + ")").tolist())
            raise QueryError(f"several classes are named '{word}'", f"Give a number: {several}.")
        if named:
            return named[0]
        if word.lstrip("-").isdecimal():
            if not 0 <= int(word) < len(self.classes):
                raise QueryError(f"no class {word}", f"Classes count from 0 to {len(self.classes) - 1}.")
            return int(word)
        raise QueryError(f"no class '{word}'", nearest(word, self.classes.name.tolist()))

    def image_id(self, image: str | int) -> int:
        """The number of an image given by number, path, or the end of a path. Raises QueryError with the nearest."""
        word = str(image)
        if word.lstrip("-").isdecimal():
            if not 0 <= int(word) < self.spec.images:
                raise QueryError(f"no image {word}", f"Images count from 0 to {self.spec.images - 1}.")
            return int(word)
        found = self.sql(
            "SELECT image_id, path FROM images WHERE path = ? OR ends_with(path, '/' || ?) ORDER BY image_id LIMIT 4",
            [word, word],
        )
        if (found.path == word).any():
            found = found[found.path == word]
        if len(found) == 1:
            return int(found.image_id.iloc[0])
        if len(found):
            raise QueryError(f"several images end in '{word}'", f"{', '.join(found.path)} ... Give the whole path.")
        raise QueryError(f"no image '{word}'", nearest(word, self.sql("SELECT path FROM images").path.tolist()))

    def neuron_layer(self, layer: str, unit: int) -> LayerSpec:
        """The layer's record. Raises QueryError, with the nearest names, where there is no such neuron."""
        layers = {spec.name: spec for spec in self.spec.layers}
        if layer not in layers:
            raise QueryError(f"no layer '{layer}'", nearest(layer, list(layers)))
        if not 0 <= unit < layers[layer].units:
            raise QueryError(f"no unit {unit} in {layer}", f"Its units count from 0 to {layers[layer].units - 1}.")
        return layers[layer]


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def nearest(word: str, names: list[str]) -> str:
    """A remedy: the names most like a word that is none of them."""
    lower = {name.casefold(): name for name in reversed(names)}
    close = [lower[n] for n in difflib.get_close_matches(word.casefold(), list(lower), 3, 0.3)] or names[:3]
    return f"Did you mean {' or '.join(close)}?"
