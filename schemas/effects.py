"""The extension `effects`: what an answer loses without each neuron, image by image. FORMAT.md has it in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import Any, Literal

import numpy as np

from .array_specs import ArraySpec, units_per_chunk
from .extension import EXTENSION_ARRAYS, ExtensionManifest
from .manifest import fault_of_ends
from .run_spec import LayerSpec, PartsSpec, Precision, RunSpec
from .shapes import misfit

EFFECTS = "effects"  # the extension's name
CHUNK_BYTES = 2**16  # of some neurons of a layer over a part: one read, whether of a neuron or of an image
EFFECTS_SQL = resources.files("vitdex.schemas").joinpath("effects.sql").read_text(encoding="utf-8")

Replace = Literal["mean", "zero"]
REPLACED: dict[Replace, str] = {"mean": "its mean", "zero": "zero"}  # in words
Stored = Literal["float32", "float16"]
PLACES = ("effect_subject", "effect_background", "effect_prefix")  # parts of an effect, where images have masks


@dataclass(frozen=True)
class EffectsSpec(PartsSpec):
    """All that decides the content of the extension."""

    replace: Replace
    layers: tuple[str, ...]  # in the index's order
    chosen: str  # which images, in words
    images: int
    images_sha256: str  # of their numbers and classes
    masks_sha256: str | None  # of the masks' shares of the patches; None without masks
    read: bool  # whether contributions are defined, and with them the direct part
    stored: Stored
    precision: Precision
    device: str
    batch_size: int
    part_images: int
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of a layer's arrays [image, neuron]."""
        return ("effect", *(["through_norm"] if self.read else []), *(PLACES if self.masks_sha256 else ()))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EffectsSpec:
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
        return cls(**{**known, "layers": tuple(known["layers"])})


def fault_of_effects(manifest: ExtensionManifest, run: RunSpec) -> str | None:
    """What no manifest of effects says of such an index, though whoever wrote it sealed it; None where all is well."""
    if fault := misfit(manifest["run"], EffectsSpec, "run"):
        return fault
    spec = EffectsSpec.from_json(manifest["run"])
    return _impossible(spec, run) or fault_of_ends(effects_arrays(spec, run), manifest["files"])


def _impossible(spec: EffectsSpec, run: RunSpec) -> str | None:
    """What is impossible about such an extension of such an index; None for a possible one."""
    known = [layer.name for layer in run.layers if layer.has_value_vectors]
    if not spec.layers or list(spec.layers) != [name for name in known if name in spec.layers]:
        return "its layers are not those of the index"
    for name, value, most in (("images", spec.images, run.images), ("part_images", spec.part_images, spec.images)):
        if not 1 <= value <= most:
            return f"{name} is {value}, not from 1 to {most}"
    return None


def effects_layers(spec: EffectsSpec, run: RunSpec) -> tuple[LayerSpec, ...]:
    """The records of its layers, in the index's order."""
    return tuple(layer for layer in run.layers if layer.name in spec.layers)


def effects_arrays(spec: EffectsSpec, run: RunSpec) -> dict[str, ArraySpec]:
    """Every array of the extension, by path."""
    return {a.path: a for a in (*_of_images(spec), *_of_layers(spec, run))}


def _of_images(spec: EffectsSpec) -> Iterator[ArraySpec]:
    n, part = spec.images, spec.part_images
    for path, dtype, about in (
        ("image", "uint32", "the image's number in the index"),
        ("class", "int32", "the class whose logit is asked about; -1 where the image could not be read"),
        ("logit", "float32", "that logit minus the mean of all classes' logits"),
        *([("mask_share", "float32", "the object's share of the patches")] if spec.masks_sha256 else []),
    ):
        yield ArraySpec(path, ("image",), (n,), dtype, (part,), None, about, EXTENSION_ARRAYS)


ABOUT = {
    "effect": "estimated fall of the logit, were the neuron replaced on all tokens",
    "through_norm": "its share by the divisor of the final norm alone",
    "effect_subject": "its share on the patches, by the mask's cover",
    "effect_background": "its share on the patches, by what the mask leaves free",
    "effect_prefix": "its share on the tokens before the patches",
}


def _of_layers(spec: EffectsSpec, run: RunSpec) -> Iterator[ArraySpec]:
    n, part, size = spec.images, spec.part_images, np.dtype(spec.stored).itemsize
    for layer in effects_layers(spec, run):
        some = units_per_chunk(layer.units, part * size, CHUNK_BYTES)
        for leaf in spec.leaves:
            yield ArraySpec(
                f"{layer.name}/{leaf}",
                ("image", "neuron"),
                (n, layer.units),
                spec.stored,
                (part, some),
                (part, layer.units),
                ABOUT[leaf],
                EXTENSION_ARRAYS,
            )
        shape = (run.prefix + 1, layer.units)
        about = "what stands in a neuron's place after the nonlinearity: on every prefix token, then on the patches"
        yield ArraySpec(
            f"{layer.name}/replacement", ("token", "neuron"), shape, "float32", shape, None, about, EXTENSION_ARRAYS
        )
