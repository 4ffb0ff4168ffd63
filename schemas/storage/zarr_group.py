"""The arrays of an index as a Zarr group of zarr-python's, and groups opened under `python -O` too."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import ByteRequest
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.group import GroupMetadata
from zarr.storage import LocalStore, WrapperStore

from ..array_specs import ArraySpec
from ..errors import DamagedIndex
from ..facts import Files, file_facts
from ..run_spec import FORMAT_VERSION
from .plain_files import plain_size
from .zarr_metadata import root_metadata

if not __debug__:  # zarr-python takes 'node_type' out of a group's metadata inside an assert, which -O leaves out
    _from_dict = GroupMetadata.from_dict.__func__

    def _without_node_type(cls: type[GroupMetadata], data: dict[str, Any]) -> GroupMetadata:
        return _from_dict(cls, {name: value for name, value in data.items() if name != "node_type"})

    GroupMetadata.from_dict = classmethod(_without_node_type)


def open_group(folder: Path, **options: Any) -> zarr.Group:
    """`zarr.open_group`."""
    return zarr.open_group(folder, **options)


def read_group(root: Path, folder: str, specs: Mapping[str, ArraySpec]) -> zarr.Group:
    """The arrays in a folder of an index, read-only; their shapes and codecs are the run's, whatever lies there."""
    return zarr.open_group(_Arrays(root, folder, specs), mode="r", zarr_format=3, use_consolidated=True)


def write_metadata(root: Path, folder: str, specs: Mapping[str, ArraySpec]) -> Files:
    """Every zarr.json of a folder of arrays, by zarr-python itself, with consolidated metadata at its root."""
    place = root / folder
    for leftover in place.rglob("zarr.json"):
        leftover.unlink()
    group = open_group(place, mode="a", zarr_format=3, attributes={"vitdex_format": FORMAT_VERSION})
    for array in specs.values():
        declare(group, array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is widely read, though not yet in the specification
        zarr.consolidate_metadata(place, zarr_format=3)
    files = sorted(place.rglob("zarr.json"))
    return {path.relative_to(root).as_posix(): file_facts(path) for path in files}


def declare(root: zarr.Group, array: ArraySpec) -> None:
    """Write an array's metadata; its files are ours to write."""
    root.create_array(
        array.path,
        shape=array.shape,
        dtype=array.dtype,
        chunks=array.chunks,
        shards=array.shards,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=float("nan") if array.dtype.startswith("float") else 0,
        dimension_names=array.axes,
        attributes={"about": array.about, "vitdex_format": FORMAT_VERSION},
    )


class _Arrays(WrapperStore[LocalStore]):  # type: ignore[misc]
    """Chunks from files that are plain files; of metadata the root's alone, which says everything."""

    def __init__(self, root: Path, folder: str, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(LocalStore(root / folder, read_only=True))
        self._root, self._folder = root, folder
        self._metadata = json.dumps(root_metadata(specs)).encode()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key == "zarr.json":
            return prototype.buffer.from_bytes(self._metadata)
        return await super().get(key, prototype, byte_range) if self._is_chunk(key) else None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key == "zarr.json" or (self._is_chunk(key) and await super().exists(key))

    def _is_chunk(self, key: str) -> bool:
        """Whether a key is that of a chunk. Raises DamagedIndex where a link, pipe or device is in its place."""
        if "/c/" not in f"/{key}":
            return False
        try:
            plain_size(self._root, f"{self._folder}/{key}")
        except FileNotFoundError:
            return True
        except OSError as error:
            raise DamagedIndex(f"{self._root / self._folder / key} is {error.strerror}") from error
        return True
