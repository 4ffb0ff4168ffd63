"""What a run is and what it leaves: small frozen records that travel between rooms and into JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, TypedDict, cast

FORMAT = "vitdex"
FORMAT_VERSION = 1

Maps = Literal["uint8", "float16", "exemplars", "none"]
Precision = Literal["float32", "bfloat16", "float16"]
Forward = Literal["plain", "prepared"]  # torch's own, or from weights prepared once a run (indexer/run/prepared.py)
Linear = Literal["fc1", "fc2", "attn"]  # of a block: the neurons, the MLP's outputs, what attention hands to attn.proj
Kind = Literal["hidden", "gated", "attention", "residual"]  # of a layer, see LayerSpec
MLP_KINDS: tuple[Kind, ...] = ("hidden", "gated")  # of key neurons
NO_ACTIVATION = "Identity"  # `activation` of a run whose units are gated: no nonlinearity follows them
Side = Literal["top", "bottom", "quantile"]
Token = Literal["patch", "cls"]

EXEMPLARS = 100  # images kept for the top of a neuron, by its largest patch
OTHER_EXEMPLARS = 20  # images kept for its bottom, and for its top by the CLS token
QUANTILE_EXEMPLARS = 9  # images kept at the deciles of its image maxima
TOKEN_TOP = 5  # neurons kept for every token

# How the head reads the residual stream; where it reads otherwise, contributions are not defined.
READOUTS = {
    "token": "a norm, then token 0",
    "mean": "the mean over the patches, then a norm",
    "mean of normed": "a norm on every patch, then their mean",
}


class Preprocessing(TypedDict):
    """timm's data config: how an image becomes the model's input."""

    input_size: list[int]  # channels, height, width
    interpolation: str
    mean: list[float]
    std: list[float]
    crop_pct: float
    crop_mode: str


@dataclass(frozen=True)
class LayerSpec:
    """One indexed layer: `kind` is 'hidden' for fc1 (key neurons), 'gated' for act(gate) * up as fc2 reads it,
    'attention' for what attn.proj reads (the heads' outputs), and 'residual' for fc2 (stream coordinates)."""

    name: str
    block: int
    kind: Kind
    units: int

    @property
    def has_value_vectors(self) -> bool:
        """Whether its units are read by a last linear layer: an MLP's neurons, and attention's units."""
        return self.kind != "residual"

    @property
    def both_signs(self) -> bool:
        """Whether its units, having no nonlinearity after them, write as much below 0 as above."""
        return self.kind in ("gated", "attention")


class PartsSpec:
    """What records have in common that decide the content of a folder which is filled part by part."""

    images: int
    part_images: int

    @property
    def parts(self) -> tuple[Part, ...]:
        starts = range(0, self.images, self.part_images)
        return tuple(Part(i, s, min(s + self.part_images, self.images)) for i, s in enumerate(starts))

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(json.dumps(asdict(cast(Any, self))))
        return value

    def differences(self, other: Self) -> list[str]:
        """'name: ours, theirs' for every field in which the two differ."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{name}: {mine[name]} now, {theirs[name]} there" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class RunSpec(PartsSpec):
    """All that decides the content of an index. A resumed run must have an equal one."""

    model: str  # timm's name with the tag that it resolved to, or hf-hub:ORG/NAME
    model_args: dict[str, Any]  # timm's own, beyond the name; of a model of the hub also its `architecture`
    weights_sha256: str
    head: str  # 'model', 'none', or the name of the file that brought one
    head_sha256: str
    class_names: str  # where the classes' names come from
    preprocessing: Preprocessing
    activation: str
    layers: tuple[LayerSpec, ...]
    grid: tuple[int, int]  # rows, columns of patches
    prefix: int  # tokens before the patches
    cls: bool  # whether token 0 is a class token
    features: int  # width of what the head reads
    classes: int
    readout: str  # how the head reads the stream, or why contributions are not defined
    precision: Precision
    tf32: bool
    compiled: bool
    device: str
    maps: Maps
    inputs: bool
    source: str
    images: int
    images_sha256: str
    batch_size: int
    part_images: int
    counted_patches: int  # patches of every image that the thresholds count
    versions: dict[str, str] = field(default_factory=dict)
    forward: Forward = "plain"  # as all were that do not say it

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        return self.prefix + self.patches

    @property
    def neurons(self) -> int:
        return sum(layer.units for layer in self.layers)

    @property
    def neuron_layers(self) -> tuple[LayerSpec, ...]:
        """The layers of the MLPs' neurons, in the order of the array value_vectors."""
        return tuple(layer for layer in self.layers if layer.kind in MLP_KINDS)

    @property
    def attention_layers(self) -> tuple[LayerSpec, ...]:
        """The layers of attention's units, in the order of the array attention_vectors."""
        return tuple(layer for layer in self.layers if layer.kind == "attention")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSpec:
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
        names = [f.name for f in fields(LayerSpec)]
        known["layers"] = tuple(LayerSpec(**{name: layer[name] for name in names}) for layer in known["layers"])
        known["grid"] = tuple(known["grid"])
        return cls(**known)


@dataclass(frozen=True)
class Part:
    """Consecutive images [start, stop): the unit of work, of writing and of resuming."""

    index: int
    start: int
    stop: int

    @property
    def images(self) -> int:
        return self.stop - self.start
