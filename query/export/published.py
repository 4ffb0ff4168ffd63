"""What a published index consists of: every file that its manifests list, and these last."""

from __future__ import annotations

from collections.abc import Mapping

from ...schemas.effects import EFFECTS, fault_of_effects
from ...schemas.errors import BadIndex, DamagedIndex
from ...schemas.extension import (
    ExtensionLayout,
    ExtensionManifest,
    extensions_in,
    read_extension,
    seal_extension,
)
from ...schemas.facts import FileFacts, Files
from ...schemas.integrity import listed_files
from ...schemas.layout import Layout
from ...schemas.manifest import LARGEST, Manifest, manifest_sha256, seal_manifest
from ...schemas.storage.plain_files import read_plain
from ..stored.stored_index import StoredIndex


class WholeIndex:
    """An index with its extensions, as they are.

    Attributes:
        copied: the files that are copied, by path in the index.
        written: the content of those that are written anew.
        to_make: the bytes of those that `make` makes.
        left_out: why an extension does not go along, in a line each.
    """

    maps: str | None = None  # what is cut

    def __init__(self, index: StoredIndex) -> None:
        """Raises BadIndex, DamagedIndex where a manifest is not in order."""
        self.index, self.layout, self.manifest = index, index.layout, index.manifest
        self.extensions: dict[ExtensionLayout, ExtensionManifest] = {}
        self.left_out: list[str] = []
        if _raw(self.layout, self.layout.manifest.name) != seal_manifest(self.manifest):
            raise DamagedIndex(f"the manifest of {self.layout.root} is damaged")
        for extension in extensions_in(self.layout.root):
            self._take(extension)
        self.copied = listed_files(self.manifest)
        for extension, its in self.extensions.items():
            self.copied |= {f"{extension.inside}/{path}": facts for path, facts in listed_files(its).items()}
        self.written: dict[str, bytes] = {}
        self.to_make: dict[str, int] = {}

    def _take(self, extension: ExtensionLayout) -> None:
        """An extension that goes along, or the line that says why it does not."""
        if extension.is_unfinished:
            self.left_out.append(f"{extension.inside} is unfinished and was left out")
            return
        its = read_extension(extension, self.manifest)
        if extension.name == EFFECTS and (fault := fault_of_effects(its, self.index.spec)):
            raise BadIndex(f"{extension.root} describes no {EFFECTS}: {fault}", extension.remedy)
        if _raw(self.layout, _manifest_of(extension)) != seal_extension(its):
            raise DamagedIndex(f"{extension.manifest} is damaged", extension.remedy)
        self.extensions[extension] = its

    @property
    def identity(self) -> dict[str, object]:
        """What tells this from whatever else may lie at a place."""
        return {"index": manifest_sha256(self.manifest), "maps": self.maps}

    @property
    def manifest_keys(self) -> list[str]:
        """The manifests, in the order in which they are written."""
        return [*map(_manifest_of, self.extensions), self.layout.manifest.name]

    def make(self, key: str) -> memoryview:
        """The content of a file of `to_make`."""
        raise NotImplementedError

    def sealed(self, made: Mapping[str, FileFacts]) -> Manifest:
        """The manifest of what is published, where `to_make` was made so."""
        return self.manifest

    def last(self, made: Files) -> dict[str, bytes]:
        """What vouches for all other files, in the order in which it is written; the index's own manifest at the end.

        made: the facts of all files of `to_make`.
        """
        out = {_manifest_of(extension): seal_extension(its) for extension, its in self.extensions.items()}
        return {**out, self.layout.manifest.name: seal_manifest(self.sealed(made))}


def _manifest_of(extension: ExtensionLayout) -> str:
    return f"{extension.inside}/{extension.manifest.name}"


def _raw(layout: Layout, key: str) -> bytes:
    try:
        return read_plain(layout.root, key, LARGEST)
    except OSError as error:
        raise DamagedIndex(f"{layout.root / key} cannot be read: {error.strerror}") from error
