"""Stores against the conformance suite; the array reader over any of them against zarr-python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from store_conformance import StoreConformance
from vitdex.query import Index
from vitdex.schemas.array_specs import arrays
from vitdex.schemas.errors import DamagedIndex
from vitdex.schemas.storage.array_reader import ArrayReader
from vitdex.schemas.storage.elsewhere import CHANGED
from vitdex.schemas.storage.local_store import LocalStore
from vitdex.schemas.storage.remote_store import RemoteStore
from vitdex.schemas.storage.store import Bytes, Piece, Store
from web_server import on_the_web


class Memory:
    """A store of bytes in memory, without local files: what another kind of store looks like to the reader."""

    def __init__(self, folder: Path) -> None:
        self.files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def _file(self, key: str) -> bytes:
        if key not in self.files:
            raise DamagedIndex(f"{key} is missing or cannot be read")
        return self.files[key]

    def read(self, key: str, start: int, length: int) -> Bytes:
        found = np.frombuffer(self._file(key)[start : start + length], np.uint8)
        if len(found) != length:
            raise DamagedIndex(f"{key} ends before byte {start + length:,}")
        return found

    def ahead(self, pieces: Iterable[Piece]) -> None:
        pass

    def size(self, key: str) -> int:
        return len(self._file(key))

    def local_path(self, key: str) -> Path | None:
        return None

    def close(self) -> None:
        pass


class TestLocalStore(StoreConformance):
    def make(self, folder: Path) -> Store:
        return LocalStore(folder)


class TestMemory(StoreConformance):
    def make(self, folder: Path) -> Store:
        return Memory(folder)


class TestRemoteStore(StoreConformance):
    remedy = re.escape(CHANGED)

    @pytest.fixture(autouse=True)
    def web(self, tmp_path: Path) -> Iterator[None]:
        with on_the_web(tmp_path) as self.served:
            yield

    def make(self, folder: Path) -> Store:
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        return RemoteStore(self.served.address, sizes)


LAYER = "blocks.2.mlp.fc1"


@pytest.fixture(params=["local", "memory"])
def reader(request: pytest.FixtureRequest, sample: Index) -> ArrayReader:
    root = sample.layout.root
    return ArrayReader(LocalStore(root) if request.param == "local" else Memory(root), arrays(sample.spec))


def direct(sample: Index, path: str) -> NDArray[np.generic]:
    return np.asarray(cast(zarr.Array, sample.arrays[path])[...])


def test_every_array_is_zarrs(sample: Index, reader: ArrayReader) -> None:
    for path, spec in reader.specs.items():
        if spec.chunks[1:] == spec.shape[1:]:
            np.testing.assert_array_equal(reader.whole(path), direct(sample, path))


def test_rows_cells_and_columns_are_zarrs(sample: Index, reader: ArrayReader) -> None:
    rows, units = [479, 3, 101, 3], [700, 5, 699]
    for path in (f"{LAYER}/map", f"{LAYER}/max"):
        whole = direct(sample, path)
        np.testing.assert_array_equal(reader.rows(path, rows, units), whole[np.ix_(rows, units)])
        np.testing.assert_array_equal(reader.rows(path, rows), whole[rows])
        positions = np.array([[3, 479], [0, 200]]), np.array([[5], [767]])
        for checked in (True, False):
            np.testing.assert_array_equal(reader.cells(path, *positions, checked=checked), whole[positions])
        np.testing.assert_array_equal(reader.cell(path, 101, 5), whole[101, 5])
        assert reader.rows(path, [], units).shape == (0, 3, *whole.shape[2:])
        nothing = reader.cells(path, np.empty((0, 2), np.int64), np.zeros((1, 2), np.int64))
        assert nothing.shape == (0, 2, *whole.shape[2:])
    np.testing.assert_array_equal(reader.column("logits", 3), direct(sample, "logits")[:, 3])
    np.testing.assert_array_equal(reader.rows("inputs", rows), direct(sample, "inputs")[rows])


def test_single_cells_are_read_without_their_chunk(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """checked=False is there for its speed: a few bytes a cell, whatever lies around it."""
    reader, read = ArrayReader(LocalStore(sample.layout.root), arrays(sample.spec)), 0
    store = reader.store.read

    def counted(key: str, start: int, length: int) -> Bytes:
        nonlocal read
        read += length
        return store(key, start, length)

    monkeypatch.setattr(reader.store, "read", counted)
    reader.cells(f"{LAYER}/map", np.array([1, 300]), np.array([7, 500]), checked=False)
    assert read == 2 * 64
