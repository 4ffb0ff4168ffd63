"""What an index holds of effects, where `vitdex effects` has added them: arrays by image, and what they are made by."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...schemas.effects import EFFECTS, PLACES, EffectsSpec, effects_arrays, fault_of_effects
from ...schemas.errors import BadIndex, QueryError
from ...schemas.extension import ExtensionLayout, ExtensionManifest, read_extension
from ...schemas.extension_tables import naming_damage_of
from ...schemas.layout import Layout
from ...schemas.manifest import Manifest
from ...schemas.run_spec import RunSpec
from ...schemas.storage.array_reader import ArrayReader
from .elsewhere import reader_of
from .names import nearest


@dataclass(frozen=True)
class StoredEffects:
    """The extension `effects` of an index of `all_images`. Its arrays have a row for each that was looked at."""

    layout: ExtensionLayout
    manifest: ExtensionManifest
    spec: EffectsSpec
    reader: ArrayReader
    all_images: int

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """The images' numbers in the index, ascending: [row]."""
        numbers = self.reader.whole("image").astype(np.int64)
        if (np.diff(numbers) <= 0).any() or numbers[-1] >= self.all_images:
            raise BadIndex(f"{self.layout.root} is of no images of this index", self.layout.remedy)
        return numbers

    def row(self, image_id: int) -> int:
        """The row of an image. Raises QueryError where it was not looked at."""
        row = int(np.searchsorted(self.images, image_id))
        if row == len(self.images) or self.images[row] != image_id:
            fact = f"the effects of this index are of {self.spec.chosen}, and image {image_id} is not among them"
            raise QueryError(fact, "Make them of more images: vitdex effects --overwrite.")
        return row

    def of_image(self, layer: str, image_id: int, leaf: str = "effect") -> NDArray[np.float32]:
        """An array's values for an image: float32 [neuron]. Raises QueryError where there are none."""
        self.must_have(layer, leaf)
        values: NDArray[np.float32] = self.reader.rows(f"{layer}/{leaf}", [self.row(image_id)])[0].astype(np.float32)
        return values

    def of_neuron(self, layer: str, unit: int, leaf: str = "effect") -> NDArray[np.float32]:
        """An array's values for a neuron: float32 [row]. Raises QueryError where there are none."""
        self.must_have(layer, leaf)
        units = self.reader.specs[f"{layer}/{leaf}"].shape[1]
        if not 0 <= unit < units:
            raise QueryError(f"no unit {unit} in {layer}", f"Its units count from 0 to {units - 1}.")
        every = np.arange(self.spec.images)
        values: NDArray[np.float32] = self.reader.rows(f"{layer}/{leaf}", every, [unit])[:, 0].astype(np.float32)
        return values

    def must_have(self, layer: str, leaf: str = "effect") -> None:
        """Raise QueryError where there is no such array."""
        if layer not in self.spec.layers:
            raise QueryError(f"no effects of {layer}", nearest(layer, list(self.spec.layers)))
        if leaf in self.spec.leaves:
            return
        remedy = f"There are {', '.join(self.spec.leaves)}."
        if leaf in PLACES:
            remedy = "Make effects with masks: vitdex effects --masks DIR --overwrite."
        raise QueryError(f"no '{leaf}' was measured", remedy)


def open_effects(layout: Layout, manifest: Manifest, run: RunSpec) -> StoredEffects | None:
    """The extension, where there is a finished one.

    Raises DamagedIndex where its manifest is damaged, BadIndex where it is of another index, or describes no effects.
    """
    extension = ExtensionLayout.of(layout.root, EFFECTS)
    if not extension.is_there:
        return None
    found = read_extension(extension, manifest)
    if fault := fault_of_effects(found, run):
        raise BadIndex(f"{extension.manifest} describes no effects: {fault}", extension.remedy)
    spec = EffectsSpec.from_json(found["run"])
    specs = effects_arrays(spec, run)
    reader = reader_of(layout.root, found["files"], specs, extension.inside, extension.remedy)
    return StoredEffects(extension, found, spec, reader, run.images)


def no_effects(layout: Layout) -> QueryError:
    """That an index holds no effects, and how it comes to them."""
    extension = ExtensionLayout.of(layout.root, EFFECTS)
    if extension.is_unfinished:
        return QueryError("the effects of this index are unfinished", extension.remedy)
    return QueryError("this index holds no effects", f"Add them: vitdex effects {layout.root}")


def database_of(effects: StoredEffects | None) -> list[Path]:
    """The file of its tables, where there are effects."""
    return [] if effects is None else [effects.layout.database]


def naming_damage_in(effects: StoredEffects | None) -> AbstractContextManager[None]:
    """While inside, DuckDB's complaints about the bytes of these tables are DamagedIndex."""
    return nullcontext() if effects is None else naming_damage_of(effects.layout, effects.manifest)
