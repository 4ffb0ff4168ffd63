"""Zarr groups opened by zarr-python, under `python -O` too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
from zarr.core.group import GroupMetadata

if not __debug__:  # zarr-python takes 'node_type' out of a group's metadata inside an assert, which -O leaves out
    _from_dict = GroupMetadata.from_dict.__func__

    def _without_node_type(cls: type[GroupMetadata], data: dict[str, Any]) -> GroupMetadata:
        return _from_dict(cls, {name: value for name, value in data.items() if name != "node_type"})

    GroupMetadata.from_dict = classmethod(_without_node_type)


def open_group(folder: Path, **options: Any) -> zarr.Group:
    """`zarr.open_group`."""
    return zarr.open_group(folder, **options)
