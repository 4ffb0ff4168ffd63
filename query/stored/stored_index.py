"""What a finished index holds: tables, arrays, maps, names. Imports no question, no torch, no drawing."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import duckdb
import numpy as np
from numpy.typing import NDArray

from ...schemas.addressed import address_of, is_address, must_lie_here, shown_address
from ...schemas.array_specs import ARRAYS, ATTENTION_ARRAYS, MLP_ARRAYS, VectorArrays, arrays
from ...schemas.errors import QueryError
from ...schemas.layout import Layout
from ...schemas.manifest import read_manifest
from ...schemas.run_spec import EXEMPLARS, LayerSpec, RunSpec, Side, Token
from ...schemas.storage.array_reader import ArrayReader
from ..notes.database import notes_stamp
from . import maps
from .effects import StoredEffects, open_effects
from .elsewhere import brought, reader_of
from .names import ClassTable, at_least, nearest
from .sql import Tables

if TYPE_CHECKING:  # both take long to import, and most questions need neither
    import pandas as pd
    import zarr


class StoredIndex:
    """An index opened for reading, in a folder or at an address (https://, s3://, gs://, az://, hf://datasets/...).

    Any number may be open at once, in any number of processes.

    One of them may be asked by any number of threads, goes on in forked children, and can be pickled: what is pickled
    is where it lies.

    Raises BadIndex where there is none, or none that is finished and of this format. Every method raises DamagedIndex
    where it meets a damaged file, and QueryError once the index is closed.
    """

    def __init__(self, path: str | Path, *, extensions: bool = True) -> None:
        """`extensions`: whether to look at what was added to it; without, only what it was made with."""
        root = brought(str(path)) if is_address(str(path)) else Path(path)
        self.manifest = read_manifest(Layout(root))
        self.layout = Layout(root.resolve())  # the same folder, wherever the program goes from here
        self.spec = RunSpec.from_json(self.manifest["run"])
        self._reader = reader_of(self.layout.root, self.manifest["files"], arrays(self.spec))
        self._effects = open_effects(self.layout, self.manifest, self.spec) if extensions else None
        self._tables: Tables | None = None
        self._opening = threading.Lock()
        self._closed = False
        _OPENED.add(self)

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.layout.root,)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files. What is asked afterwards raises QueryError."""
        self._closed = True
        self._reader.store.close()
        if self._effects is not None:
            self._effects.reader.store.close()
        if self._tables is not None:
            self._tables.close()
            self._tables = None

    def _must_be_open(self) -> None:
        if self._closed:
            raise QueryError(f"this index ({self.layout.root}) is closed", "Open it again, or ask inside the `with`.")

    @property
    def tables(self) -> Tables:
        """The connections behind `sql`; made anew when notes were added since."""
        self._must_be_open()
        tables, stamp = self._tables, notes_stamp(self.layout)
        if tables is None or tables.notes != stamp:
            with self._opening:
                tables = self._tables  # perhaps another thread's by now
                if tables is None or tables.notes != stamp:
                    tables = self._tables = Tables(self.layout, self.spec, self._map_in_sql, self._effects)
        return tables

    @property
    def db(self) -> duckdb.DuckDBPyConnection:
        """DuckDB's own connection, which can only read this index. No question of ours runs in it, not even of the
        served atlas; a second thread of your own needs its `cursor()`."""
        return self.tables.db

    @property
    def name(self) -> str:
        """What it is called: its folder's name, or its address."""
        address = address_of(self.layout.root)
        return self.layout.root.name if address is None else shown_address(address)

    @property
    def reader(self) -> ArrayReader:
        """Arrays by chunk, cell and row, at the speed of the disk and checked: what every question reads through."""
        self._must_be_open()
        return self._reader

    @property
    def effects(self) -> StoredEffects | None:
        """What `vitdex effects` has added, as it was when the index was opened; None where it has not."""
        self._must_be_open()
        return self._effects

    @cached_property
    def arrays(self) -> zarr.Group:
        """The same arrays as a plain Zarr group, for use of your own: zarr's errors, not ours. See FORMAT.md.

        Raises QueryError where the index lies at an address.
        """
        must_lie_here(self.layout.root, "Zarr reads the arrays of an index on this machine")
        from ...schemas.storage.zarr_group import read_group

        return read_group(self.layout.root, ARRAYS, arrays(self.spec))

    def sql(self, query: str, parameters: list[Any] | None = None, timeout: float | None = None) -> pd.DataFrame:
        """Rows of a query.

        It runs in this process, within DuckDB's own limits: 2 GB of memory for tables, sorts and joins, 4 GB of scratch
        space, 1 GB for the answer. DuckDB does not count what its functions on single values take (a text of a
        gigabyte, damerau_levenshtein of long texts) nor what Python makes of an answer, and some of those functions
        hear neither the timeout nor Ctrl-C. For SQL of people whom you do not know, use ask_in_child of
        vitdex.query.console.child, as `vitdex sql` does: a child process can be ended whatever it does.

        Args:
            query: one reading statement; tables and columns are FORMAT.md's.
            parameters: values for `?` or `$1` in it.
            timeout: seconds; None for no limit.

        Returns:
            A DataFrame with the query's own columns.

        Raises:
            QueryError: with DuckDB's complaint, or where the query would write or takes too long.

        Example:
            >>> index.sql("FROM key_neurons WHERE class = ? LIMIT 10", ["coin"])
        """
        return self.tables.ask(query, parameters or [], timeout)

    def look_up(self, query: str, parameters: list[Any]) -> pd.DataFrame:
        """Rows of a query of our own, known to be small: without the checks that `sql` makes, in half the time."""
        return self.tables.look_up(query, parameters)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """class_id, wnid, name of all classes, in the order of the head's rows."""
        return self.sql("SELECT class_id, wnid, class AS name FROM classes ORDER BY class_id")

    @cached_property
    def class_table(self) -> ClassTable:
        """The same, by what people call them."""
        return ClassTable(self.classes)

    def class_id(self, class_: str | int) -> int:
        """The row of a class in the head.

        Args:
            class_: an int is a row; a text is a name, else a WordNet id, else a row's number.

        Raises:
            QueryError: no such class, or several of this name.

        Example:
            >>> index.class_id("coin"), index.class_id(3)
            (3, 3)
        """
        return self.class_table.row(class_)

    def class_name(self, class_: str | int) -> str:
        """The name of a class, given as for class_id."""
        return str(self.classes.name[self.class_id(class_)])

    def image_id(self, image: str | int) -> int:
        """The number of an image given by number, path, or the end of a path. Raises QueryError with the nearest."""
        word = str(image)
        if word.lstrip("-").isdecimal():
            if not 0 <= int(word) < self.spec.images:
                raise QueryError(f"no image {word}", f"Images count from 0 to {self.spec.images - 1}.")
            return int(word)
        ending = self.look_up(
            "SELECT image_id, path FROM images WHERE path = ? OR ends_with(path, '/' || ?) ORDER BY image_id LIMIT 4",
            [word, word],
        )
        if (ending.path == word).any():
            ending = ending[ending.path == word]
        if len(ending) == 1:
            return int(ending.image_id.iloc[0])
        if len(ending):
            raise QueryError(f"several images end in '{word}'", f"{', '.join(ending.path)} ... Give the whole path.")
        raise QueryError(f"no image '{word}'", nearest(word, self.sql("SELECT path FROM images").path.tolist()))

    def readable(self, image: str | int) -> int:
        """The number of an image, as image_id. Raises QueryError where it could not be read."""
        image_id = self.image_id(image)
        if not self.reader.cell("valid", image_id):
            raise QueryError(f"image {image_id} could not be read when the index was made", "See the table failures.")
        return image_id

    def neuron_layer(self, layer: str, unit: int) -> LayerSpec:
        """The layer's record. Raises QueryError, with the nearest names, where there is no such neuron."""
        layers = {spec.name: spec for spec in self.spec.layers}
        if layer not in layers:
            raise QueryError(f"no layer '{layer}'", nearest(str(layer), list(layers)))
        if not 0 <= unit < layers[layer].units:
            raise QueryError(f"no unit {unit} in {layer}", f"Its units count from 0 to {layers[layer].units - 1}.")
        return layers[layer]

    @property
    def hidden_layers(self) -> tuple[LayerSpec, ...]:
        """The layers of the MLPs' neurons, in order of blocks."""
        return self.spec.neuron_layers

    @property
    def ranked_layers(self) -> tuple[LayerSpec, ...]:
        """The layers whose units have value vectors and are ranked for a class: neurons of MLPs, units of attention."""
        return tuple(layer for layer in self.spec.layers if layer.has_value_vectors)

    def vectors_of(self, layer: str) -> tuple[VectorArrays, int]:
        """Where the value vectors of a layer lie: the arrays, and the layer's place in them.

        Raises QueryError for an unknown layer and one without value vectors.
        """
        spec = self.neuron_layer(layer, 0)
        if not spec.has_value_vectors:
            fact = f"{layer} holds coordinates of the stream, which have no value vectors"
            raise QueryError(fact, "Name a layer of fc1 or attn.")
        if spec.kind == "attention":
            return ATTENTION_ARRAYS, self.spec.attention_layers.index(spec)
        return MLP_ARRAYS, self.spec.neuron_layers.index(spec)

    def exemplars(self, layer: str, unit: int, k: int = 15, side: Side = "top", token: Token = "patch") -> pd.DataFrame:
        """The k distinct images at one side of a neuron, best first.

        Args:
            layer: such as 'blocks.4.mlp.fc1'; unit: the neuron in it. A Neuron unpacks: `exemplars(*neuron)`.
            k: how many, at most 100 on top, 20 at the bottom or by the CLS token, 9 quantiles.
            side: 'top', 'bottom' or 'quantile' of the image maxima; of units without a nonlinearity (gated,
                attention) 'bottom' are the lowest minima.
            token: 'patch', or 'cls' for the CLS token's own top.

        Returns:
            Columns rank, image_id, patch, pre (the value that ranks), post (in fc1 layers after the nonlinearity),
            path, label.

        Raises:
            QueryError: no such neuron.

        Example:
            >>> index.exemplars("blocks.4.mlp.fc1", 473, k=15)
        """
        at_least(1, k=k)
        self.neuron_layer(layer, unit)
        return self.look_up(
            "SELECT rank, image_id, patch, pre, post, path, label FROM exemplars JOIN images USING (image_id) "
            "WHERE layer = ? AND unit = ? AND side = ? AND token = ? AND rank <= ? ORDER BY rank",
            [layer, unit, side, token, k],
        )

    def map(self, layer: str, unit: int, image_id: int) -> NDArray[np.float32]:
        """A neuron's values on the patches of an image, as stored: in fc1 layers before the nonlinearity.

        Returns:
            float32 [rows, columns]; NaN if the image was unreadable. From uint8 maps the error is at most
            (max - min) / 510 of the map.

        Raises:
            QueryError: no such neuron or image, or no map of it is stored.

        Example:
            >>> index.map("blocks.4.mlp.fc1", 473, image_id=17)
        """
        values = self._map_in_sql(layer, unit, self.image_id(image_id))
        if values is None:
            fact = f"this index stores the maps of a neuron's top {EXEMPLARS} images, and {image_id} is not among them"
            raise QueryError(fact, "Index again with --maps uint8 for all.")
        return values.reshape(self.spec.grid)

    def inputs(self, image_ids: Sequence[int]) -> NDArray[np.uint8]:
        """The pixels that the model saw: uint8 [image, y, x, channel]. Raises QueryError where none are stored."""
        return maps.stored_inputs(self.reader, self.spec, [self.image_id(i) for i in image_ids])

    def _map_in_sql(self, layer: str, unit: int, image_id: int) -> NDArray[np.float32] | None:
        """The map as one row of patches; None where the index stores the maps of other images alone."""
        self.neuron_layer(layer, unit)
        self.image_id(image_id)
        if self.spec.maps == "none":
            raise QueryError("this index stores no maps", "Index again with --maps uint8 or exemplars.")
        return maps.stored_map(self.reader, self.spec, layer, unit, image_id)


_OPENED: weakref.WeakSet[StoredIndex] = weakref.WeakSet()


def _begin_anew() -> None:
    """In a forked child, which has none of the parent's other threads: connections and locks of its own.

    The parent's connections are never let go of, not even at the end: DuckDB would look for its threads to close them.
    """
    for index in _OPENED:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(index._tables))
        index._tables, index._opening = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_begin_anew)
