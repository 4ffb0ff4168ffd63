"""What a run can be at all: bounds that keep every size computed from it small and every name inside the index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from .run_spec import RunSpec

NUMBERS = 2**16  # units, patches and classes of a token: arrays hold their numbers as uint16
IMAGES = 2**32  # tables hold their numbers as UINTEGER
WIDTH = 2**20  # features, classes, parts, pixels a side
LETTERS = 200  # of a layer's name
LAYER = re.compile(r"\w+(\.\w+)*", re.ASCII)  # a module's path, which becomes folders
TIMM = re.compile(r"\w+(\.[\w.-]+)?", re.ASCII)  # a model's name with its tag
HUB = re.compile(r"hf-hub:[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)
# What timm.create_model itself takes: a run never has it, and it could name files and addresses.
NOT_THE_MODELS = {
    "model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
    "scriptable", "exportable", "no_jit", "features_only", "pretrained_strict", "pretrained_filter_fn",
    "pretrained_custom_load", "url", "file",
}  # fmt: skip


def beyond_bounds(run: RunSpec) -> str | None:
    """What is impossible about a run whose fields have the right types; None for a possible one."""
    return next(_impossible(run), None)


def _impossible(run: RunSpec) -> Iterator[str]:
    for name, value, least, most in (
        ("images", run.images, 1, IMAGES),
        ("batch_size", run.batch_size, 1, IMAGES),
        ("part_images", run.part_images, 1, run.images),
        ("prefix", run.prefix, 0, NUMBERS),
        ("grid[0]", run.grid[0], 1, NUMBERS),
        ("grid[1]", run.grid[1], 1, NUMBERS),
        ("tokens", run.tokens, 1, NUMBERS),
        ("counted_patches", run.counted_patches, 0, run.patches),
        ("features", run.features, 1, WIDTH),
        ("classes", run.classes, 0, WIDTH),
    ):
        if not least <= value <= most:
            yield f"{name} is {value}, not from {least} to {most}"
    yield from _impossible_layers(run)
    yield from _impossible_preprocessing(run)
    if ".." in run.model or not (TIMM.fullmatch(run.model) or HUB.fullmatch(run.model)):
        yield f"model is {run.model[:80]!r}, no name of timm or of its hub"
    if not TIMM.fullmatch(str(run.model_args.get("architecture", "vit"))):
        yield "model_args.architecture is no name of timm"
    for name, value in run.model_args.items():
        if name in NOT_THE_MODELS or not name.isidentifier() or not _is_setting(value):
            yield f"model_args.{name[:80]} is no setting of a model"


def _impossible_layers(run: RunSpec) -> Iterator[str]:
    names = [layer.name for layer in run.layers]
    if not names or len(set(names)) < len(names):
        yield "layers are none, or two have one name"
    for layer in run.layers:
        if len(layer.name) > LETTERS or not LAYER.fullmatch(layer.name):
            yield f"a layer is named {layer.name[:80]!r}"
        if not (1 <= layer.units <= NUMBERS and 0 <= layer.block <= NUMBERS):
            yield f"{layer.name} has {layer.units} units in block {layer.block}"
    for alike in (run.neuron_layers, run.attention_layers):
        if any(a.units != b.units for a, b in pairwise(alike)):
            yield "layers of value vectors differ in their units"


def _impossible_preprocessing(run: RunSpec) -> Iterator[str]:
    made = run.preprocessing
    size = made["input_size"]
    if len(size) != 3 or size[0] != 3 or not all(1 <= side <= NUMBERS for side in size):
        yield f"input_size is {str(size)[:80]}"
    if len(made["mean"]) != 3 or len(made["std"]) != 3 or not all(value > 0 for value in made["std"]):
        yield "mean and std are not those of three channels"
    if not 0 < made["crop_pct"] <= 10:
        yield f"crop_pct is {made['crop_pct']}"


def _is_setting(value: Any) -> bool:
    """Whether a value can be an argument of a model: a short text, a moderate number, true, or a few of these."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return len(value) <= 16 and all(not isinstance(one, list | dict) and _is_setting(one) for one in value)
    if isinstance(value, str):
        return len(value) <= 100 and not value.startswith(("/", "http", "file:"))
    return value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= NUMBERS)
