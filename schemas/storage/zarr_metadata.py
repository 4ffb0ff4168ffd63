"""What the zarr.json of an index say, made from its arrays' records: what lies there is for other programs alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..array_specs import ArraySpec
from ..run_spec import FORMAT_VERSION

SEPARATOR = {"name": "default", "configuration": {"separator": "/"}}


def root_metadata(declared: Mapping[str, ArraySpec]) -> dict[str, Any]:
    """zarr.json of the root, with that of everything below: Zarr 3, consolidated as zarr-python does it."""
    groups = sorted({path.rpartition("/")[0] for path in declared} - {""})
    inner: dict[str, Any] = {group: {**_group({}), "consolidated_metadata": _consolidated({})} for group in groups}
    inner |= {path: _array(array) for path, array in declared.items()}
    return {**_group({"vitdex_format": FORMAT_VERSION}), "consolidated_metadata": _consolidated(inner)}


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"attributes": attributes, "zarr_format": 3, "node_type": "group"}


def _consolidated(metadata: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": metadata}


def _array(array: ArraySpec) -> dict[str, Any]:
    chunks: list[dict[str, Any]] = [_bytes(array.dtype), {"name": "crc32c"}]
    index = [_bytes("uint64"), {"name": "crc32c"}]
    inner = {"chunk_shape": list(array.chunks), "codecs": chunks, "index_codecs": index, "index_location": "end"}
    return {
        "shape": list(array.shape),
        "data_type": array.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(array.file_shape)}},
        "chunk_key_encoding": SEPARATOR,
        "fill_value": "NaN" if array.dtype.startswith("float") else array.dtype != "bool" and 0,
        "codecs": [{"name": "sharding_indexed", "configuration": inner}] if array.shards else chunks,
        "attributes": {"about": array.about, "vitdex_format": FORMAT_VERSION},
        "dimension_names": list(array.axes),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _bytes(dtype: str) -> dict[str, Any]:
    order = {"configuration": {"endian": "little"}} if np.dtype(dtype).itemsize > 1 else {}
    return {"name": "bytes", **order}
