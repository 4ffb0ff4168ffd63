"""A finished index, to be asked. Light: no torch, no timm.

with Index("imagenet.vitdex") as index:
    index.sql("FROM key_neurons WHERE class = 'goldfish' LIMIT 10")   # pandas.DataFrame
    index.map("blocks.11.mlp.fc1", 2014, image_id=17)                 # float32 [rows, columns]
    index.exemplars("blocks.11.mlp.fc1", 2014, k=15)                  # pandas.DataFrame
"""

from __future__ import annotations

import difflib
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from ..schemas.codes import decode_map
from ..schemas.errors import QueryError
from ..schemas.layout import Layout
from ..schemas.manifest import read_manifest
from ..schemas.records import LayerSpec, RunSpec
from .connection import connect


class Index:
    """An index folder opened for reading; any number may be open at once, in any number of processes.

    Raises BadIndex where there is none, or none that is finished and of this format.
    """

    def __init__(self, path: str | Path) -> None:
        self.layout = Layout(Path(path))
        self.manifest = read_manifest(self.layout)
        self.spec = RunSpec.from_json(self.manifest["run"])
        self._db: duckdb.DuckDBPyConnection | None = None

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

    @property
    def db(self) -> duckdb.DuckDBPyConnection:
        """The read-only connection behind `sql`."""
        if self._db is None:
            self._db = connect(self.layout.database)
        return self._db

    @cached_property
    def arrays(self) -> zarr.Group:
        """The Zarr group of all arrays, see FORMAT.md."""
        return zarr.open_group(self.layout.arrays, mode="r")

    def sql(self, query: str, parameters: list[Any] | None = None) -> pd.DataFrame:
        """Rows of a query as a DataFrame. Raises QueryError with the first line of DuckDB's complaint."""
        plain = [p.item() if isinstance(p, np.generic) else p for p in parameters or []]
        try:
            result = self.db.execute(query, plain)
            return result.df() if result.description else pd.DataFrame()
        except duckdb.Error as error:
            raise QueryError(str(error).strip().splitlines()[0], "The tables: vitdex info OUT --tables.") from error

    def exemplars(self, layer: str, unit: int, k: int = 15, side: str = "top", token: str = "patch") -> pd.DataFrame:
        """The k distinct images at one side of a neuron, best first: rank, image_id, patch, pre, post, path, label.

        side: 'top', 'bottom' or 'quantile' of the image maxima; token: 'patch', or 'cls' for the CLS token's own top.
        """
        self.neuron_layer(layer, unit)
        return self.sql(
            "SELECT rank, image_id, patch, pre, post, path, label FROM exemplars JOIN images USING (image_id) "
            "WHERE layer = ? AND unit = ? AND side = ? AND token = ? AND rank <= ? ORDER BY rank",
            [layer, unit, side, token, k],
        )

    def map(self, layer: str, unit: int, image_id: int) -> NDArray[np.float32]:
        """A neuron's pre-GELU values on the patches of an image: float32 [rows, columns]; NaN if it was unreadable.

        From uint8 maps the error is at most (max - min) / 510 of the map. Raises QueryError where no map is stored.
        """
        self.neuron_layer(layer, unit)
        if not 0 <= image_id < self.spec.images:
            raise QueryError(f"no image {image_id}", f"Images count from 0 to {self.spec.images - 1}.")
        if self.spec.maps == "none":
            raise QueryError("this index stores no maps", "Index again with --maps uint8 or exemplars.")
        if self.spec.maps == "float16":
            values = self._cells(f"{layer}/map", image_id, unit).astype(np.float32)
        else:
            low, high = (self._cells(f"{layer}/{leaf}", image_id, unit) for leaf in ("min", "max"))
            values = decode_map(self._codes(layer, unit, image_id), low, high)
        return values.reshape(self.spec.grid)

    def _codes(self, layer: str, unit: int, image_id: int) -> NDArray[np.uint8]:
        if self.spec.maps == "uint8":
            return self._cells(f"{layer}/map", image_id, unit)
        kept = self.exemplars(layer, unit, k=self.spec.images)
        found = kept.loc[kept.image_id == image_id, "rank"]
        if found.empty:
            raise QueryError(
                f"this index stores maps of a neuron's top {len(kept)} images, and {image_id} is not among them",
                "Index again with --maps uint8 for all.",
            )
        return self._cells(f"{layer}/exemplar_map", unit, int(found.iloc[0]) - 1)

    def _cells(self, path: str, *position: int) -> NDArray[Any]:
        array = self.arrays[path]
        assert isinstance(array, zarr.Array)
        return np.asarray(array[position])

    def neuron_layer(self, layer: str, unit: int) -> LayerSpec:
        """The layer's record. Raises QueryError, with the nearest names, where there is no such neuron."""
        layers = {spec.name: spec for spec in self.spec.layers}
        if layer not in layers:
            near = difflib.get_close_matches(layer, layers, 3, 0.3) or list(layers)[:3]
            raise QueryError(f"no layer '{layer}'", f"Did you mean {' or '.join(near)}?")
        if not 0 <= unit < layers[layer].units:
            raise QueryError(f"no unit {unit} in {layer}", f"Its units count from 0 to {layers[layer].units - 1}.")
        return layers[layer]
