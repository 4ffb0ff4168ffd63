"""How a model must be made so that given weights fit: its image size, its classes, its pooling, its settings.

Imports torch and timm: only code that runs a model imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ...schemas.errors import ModelError
from .configs import Config
from .create import classifier_of, outline_of
from .naming import Translated

RELATIVE = "relative_position_bias_table"
POSITIONS = ("pos_embed", "visual.positional_embedding", "visual.trunk.pos_embed")
PROJECTIONS = (("visual.proj", 1), ("visual.head.proj.weight", 0))  # CLIP's, and which axis is the classes'
FINE = 224  # torchvision's models of more pixels are SWAG's, which see the whole image


@dataclass(frozen=True)
class Fitted:
    """Arguments for timm.create_model but for the classes, and settings over those of the config.

    `grid` is there where transformers would resize positions to it.
    """

    args: dict[str, Any]
    classes: int
    settings: dict[str, Any] = field(default_factory=dict)
    grid: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def fit(name: str, args: dict[str, Any], config: Config, weights: Translated) -> Fitted:
    """Find the image size (where not given), number of classes, pooling and settings of weights.

    Args:
        name: timm's.
        args: what is known already.
        config: of the weights' folder; empty where there is none.
        weights: with or without values.

    Returns:
        A Fitted.

    Raises:
        ModelError: timm cannot make such a model, or the weights' positions make no grid.

    Example:
        >>> fit("vit_tiny_patch16_224", {}, Config(), translate(open_checkpoint("mine.safetensors").outline())).classes
    """
    tensors = weights.tensors
    heads = ((f"{classifier_of(name)}.weight", 0), *PROJECTIONS)
    classes = next((tensors[key].shape[axis] for key, axis in heads if key in tensors), 0)
    plain = outline_of(name, args, classes)
    parts = dict(plain.named_parameters())
    if "fc_norm.weight" in tensors and "norm.weight" not in tensors and "fc_norm.weight" not in parts:
        args = {**args, "global_pool": "avg"}  # a fine-tune that averages the patches
    stored = _stored_patches(plain, tensors)
    notes: tuple[str, ...] = ()
    if "img_size" not in args:
        args = {**args, **_img_size(plain, stored, config)}
        if stored is None and not config.settings:
            notes = ("the weights do not tell their image size: the model's own is taken (see --img-size)",)
    settings = dict(config.settings)
    if weights.origin == "torchvision":
        settings, note = _of_torchvision(args.get("img_size"))
        notes += (note,)
    elif weights.origin == "transformers" and not config.name:
        notes += (f"no config of transformers is beside the weights: timm's settings of '{name}' are assumed",)
    return Fitted(args, classes, settings, _other_grid(args, stored, weights), notes)


def _img_size(plain: nn.Module, stored: int | None, config: Config) -> dict[str, Any]:
    """The image size for which the weights hold positions, where it is not the architecture's own."""
    embed: Any = getattr(plain, "patch_embed", None)
    size = [int(edge) for edge in config.settings.get("input_size", ())[1:]]
    if embed is None or not hasattr(embed, "num_patches"):
        return {}
    if stored is None:
        return {"img_size": size} if size and config.settings.get("fixed_input_size") else {}
    if stored == embed.num_patches:
        return {}
    high, wide = embed.patch_size
    if size and (size[0] // high) * (size[1] // wide) == stored:
        return {"img_size": size}
    side = isqrt(stored)
    if side * side != stored:
        raise ModelError(f"the weights hold positions of {stored} patches, not a square", "Give --img-size H W.")
    return {"img_size": [side * high, side * wide]}


def _stored_patches(plain: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """Patches for which the weights hold positions, absolute or relative; None where they hold neither.

    A table of relative positions has (2 side - 1)**2 rows, and a few more for prefix tokens, as many as in `plain`.
    """
    embed: Any = getattr(plain, "patch_embed", None)
    if embed is None or not hasattr(embed, "num_patches"):
        return None
    position = getattr(plain, "pos_embed", None)
    stored = next((tensors[key] for key in POSITIONS if key in tensors), None)
    if stored is not None:
        if not isinstance(position, Tensor) or position.ndim != 3:
            return None
        more = int(position.shape[1]) - int(embed.num_patches)
        more += "register_tokens" in tensors  # Meta's: timm adds the first to the class token
        return int(stored.shape[-2]) - more
    for name, table in plain.named_parameters():
        if name.endswith(RELATIVE) and name in tensors:
            rows, columns = embed.grid_size
            more = table.shape[0] - (2 * rows - 1) * (2 * columns - 1)
            return ((isqrt(tensors[name].shape[0] - more) + 1) // 2) ** 2
    return None


def _other_grid(args: dict[str, Any], stored: int | None, weights: Translated) -> tuple[int, int] | None:
    """The grid of patches where transformers' positions are of another."""
    if weights.origin != "transformers" or "img_size" not in args or "pos_embed" not in weights.tensors:
        return None
    size, patch = args["img_size"], weights.tensors["patch_embed.proj.weight"].shape[-2:]
    high, wide = (size, size) if isinstance(size, int) else size
    grid = (high // patch[0], wide // patch[1])
    return grid if stored is not None and grid[0] * grid[1] != stored else None


def _of_torchvision(img_size: Any) -> tuple[dict[str, Any], str]:
    """The settings of torchvision's own weights, and a note that they are assumed."""
    side = max(img_size) if isinstance(img_size, list | tuple) else img_size or FINE
    how = ("bicubic", 1.0) if side > FINE else ("bilinear", FINE / 256)
    settings = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD, "interpolation": how[0], "crop_pct": how[1]}
    note = f"torchvision's settings are assumed: ImageNet's mean and std, {how[0]}, {how[1]:.1%} of the image's middle"
    return settings, note
