"""The shareable cut of an index with all maps: the one that `vitdex index --maps exemplars` would have made.

Maps are nearly all of an index, and most of them nobody looks at: the cut keeps those of each neuron's top exemplars.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...schemas.array_specs import ARRAYS, arrays
from ...schemas.effects import EFFECTS
from ...schemas.errors import STRANGE, DamagedIndex, QueryError
from ...schemas.extension import EXTENSIONS, ExtensionLayout, seal_extension
from ...schemas.facts import FileFacts, Files, content_facts
from ...schemas.manifest import Manifest, content_sha256, manifest_sha256, seal_manifest
from ...schemas.storage.chunk_files import encode_file
from ..stored.stored_index import StoredIndex
from .destinations import Outgoing
from .published import WholeIndex

TOP = "SELECT unit, rank, image_id FROM exemplars WHERE layer = ? AND side = 'top' AND token = 'patch'"


class MapCut(WholeIndex):
    """An index with the maps of its exemplars alone. Raises QueryError where it does not hold all maps in bytes."""

    maps = "exemplars"

    def __init__(self, index: StoredIndex) -> None:
        _must_hold_codes(index)
        super().__init__(index)
        self.spec = replace(index.spec, maps="exemplars")
        self.arrays = arrays(self.spec)
        self.run = {**self.manifest["run"], "maps": "exemplars"}
        for extension in [one for one in self.extensions if one.name != EFFECTS]:
            del self.extensions[extension]
            self.copied = {path: f for path, f in self.copied.items() if not path.startswith(f"{extension.inside}/")}
            self.left_out.append(f"{extension.inside} was left out: it may need the maps that are cut")
        self.layers = {
            spec.part_file(0): path.rpartition("/")[0]
            for path, spec in self.arrays.items()
            if path.endswith("/exemplar_map")
        }
        self.to_make = {key: self.arrays[f"{layer}/exemplar_map"].file_bytes for key, layer in self.layers.items()}
        self._leave_out_maps()

    def _leave_out_maps(self) -> None:
        """Take the maps out of what is copied, of the ledger's entries and of what Zarr says."""
        before = arrays(self.index.spec)
        maps = {file for path, spec in before.items() if path not in self.arrays for file in spec.file_names}
        layout = self.layout
        self.written = {layout.key(layout.run): _json(self.run), **_zarr_files(self)}
        for key in (layout.key(layout.entry(part.index)) for part in self.spec.parts):
            entry = _record(layout.root, key, self.copied.get(key))
            files = {path: facts for path, facts in entry.get("files", {}).items() if path not in maps}
            self.written[key] = _json({**entry, "files": files})
        zarr = {path for path in self.copied if path.startswith(f"{ARRAYS}/") and path.endswith("/zarr.json")}
        self.copied = {p: f for p, f in self.copied.items() if p not in maps | zarr | self.written.keys()}
        for key in map(_run_of, self.extensions):  # which names the index
            self.copied.pop(key, None)

    def make(self, key: str) -> memoryview:
        """exemplar_map of a layer: the codes of the maps of each neuron's top exemplars, as they are stored."""
        layer = self.layers[key]
        spec = self.arrays[f"{layer}/exemplar_map"]
        found = np.array(self.index.tables.rows(TOP, [layer]), np.int64).reshape(-1, 3)
        unit, rank, image = found.T
        if ((rank < 1) | (rank > spec.shape[1])).any():
            raise DamagedIndex(f"the tables name exemplars of {layer} beyond rank {spec.shape[1]}", STRANGE)
        codes = np.zeros(spec.shape, np.uint8)
        codes[unit, rank - 1] = self.index.reader.cells(f"{layer}/map", image, unit)
        return encode_file(codes, spec)

    def sealed(self, made: Mapping[str, FileFacts]) -> Manifest:
        files = {p: f for p, f in self.copied.items() if not p.startswith(f"{EXTENSIONS}/")}
        files |= {p: content_facts(c) for p, c in self.written.items()} | dict(made)
        note = f"maps of exemplars alone, by 'vitdex publish', of the index with manifest {self._source[:12]}"
        cut: Any = {
            **self.manifest,
            "run": self.run,
            "notes": [*self.manifest["notes"], note],
            "files": dict(sorted(files.items())),
        }
        return cut  # type: ignore[no-any-return]

    @property
    def _source(self) -> str:
        return manifest_sha256(self.manifest)

    def last(self, made: Files) -> dict[str, bytes]:
        """Also the run.json of extensions, which name the index that they belong to."""
        manifest = self.sealed(made)
        bound = {"index_sha256": content_sha256(manifest)}
        out: dict[str, bytes] = {}
        for extension, its in self.extensions.items():
            path = extension.run.relative_to(extension.root).as_posix()
            facts = its["files"].get(path)
            run = _json({**_record(extension.root, path, facts), **bound})
            sealed: Any = {**its, **bound, "files": {**its["files"], path: content_facts(run)}}
            out |= {_run_of(extension): run, f"{extension.inside}/{extension.manifest.name}": seal_extension(sealed)}
        return {**out, self.layout.manifest.name: seal_manifest(manifest)}


def _must_hold_codes(index: StoredIndex) -> None:
    maps = index.spec.maps
    if maps == "exemplars":
        raise QueryError(f"{index.name} holds the maps of its exemplars alone already", "Leave out --maps.")
    if maps == "float16":
        fact = f"{index.name} holds maps in float16, from which the bytes of --maps exemplars do not follow exactly"
        raise QueryError(fact, "Index again with --maps exemplars.")
    if maps == "none":
        raise QueryError(f"{index.name} holds no maps", "Leave out --maps.")


def _run_of(extension: ExtensionLayout) -> str:
    return f"{extension.inside}/{extension.run.relative_to(extension.root).as_posix()}"


def _record(root: Path, key: str, facts: tuple[int, str] | None) -> dict[str, Any]:
    """A file of JSON, as its manifest lists it. Raises DamagedIndex where it is another, or holds something else."""
    if facts is None:
        raise DamagedIndex(f"the manifest does not list {root / key}", STRANGE)
    try:
        found = json.loads(b"".join(Outgoing(key, FileFacts(*facts), root).pieces()))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("files", {}), dict):
        raise DamagedIndex(f"{root / key} holds no record", STRANGE)
    return found


def _zarr_files(cut: MapCut) -> dict[str, bytes]:
    """Every zarr.json of the arrays, by zarr-python, as a run writes them."""
    from ...schemas.storage.zarr_group import write_metadata

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return {path: (root / path).read_bytes() for path in write_metadata(root, ARRAYS, cut.arrays)}


def _json(content: Mapping[str, Any]) -> bytes:
    """As run.json and the ledger's entries are written."""
    return json.dumps(content, indent=1).encode()
