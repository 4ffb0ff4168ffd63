"""What a model's folder says of it: a config.json of timm's hub format, new or old, or of transformers.

    config = read_config("my-model", outline)
    config.name, config.args         # for timm.create_model
    config.settings                  # mean, std, size, crop, interpolation, names of classes

Imports torch and timm: only code that runs a model imports this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg
from timm.models._hub import load_model_config_from_path
from torch import Tensor

from ...schemas.errors import ModelError
from ...schemas.text_files import read_text

CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
FORMATS = "Give a folder in timm's hub format, or one of transformers."
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}  # by width
# transformers' architectures, and what timm calls them
NAMES = {
    "vit": "vit_{size}_patch{patch}_224",
    "deit": "deit_{size}_patch{patch}_224",
    "dinov2": "vit_{size}_patch{patch}_dinov2",
    "dinov2_with_registers": "vit_{size}_patch{patch}_reg4_dinov2",
    "beit": "beit_{size}_patch{patch}_224",
    "data2vec-vision": "beit_{size}_patch{patch}_224",
    "clip_vision_model": "vit_{size}_patch{patch}_clip_224",
}
ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers


@dataclass(frozen=True)
class Config:
    """A model as its folder describes it. `name` is None where timm has no such architecture: `other` says which.

    `settings` are fields of timm's pretrained_cfg: all that there are if `whole`, else over those of the architecture.
    """

    name: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    other: str = ""
    notes: tuple[str, ...] = ()


def read_config(folder: Path, outline: Mapping[str, Tensor]) -> Config:
    """Read the config of a folder.

    Args:
        folder: with a config.json.
        outline: the tensors of the model by timm's names, with or without values: they tell its width and depth.

    Returns:
        A Config.

    Raises:
        ModelError: the config cannot be read or is of neither kind.

    Example:
        >>> read_config(Path("my-model"), outline).settings["mean"]
    """
    raw = _read_json(folder / CONFIG_FILE)
    if "architecture" in raw:
        return _from_timm(folder, raw)
    if "model_type" in raw:
        return _from_transformers(folder, raw, outline)
    raise ModelError(f"{CONFIG_FILE} in {folder} names no architecture", FORMATS)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"no readable {file.name} in {file.parent}", FORMATS) from error
    if not isinstance(read, dict):
        raise ModelError(f"no readable {file.name} in {file.parent}", FORMATS)
    return read


def _from_timm(folder: Path, raw: dict[str, Any]) -> Config:
    """As timm reads it: mean, std and size at the top (older) or under pretrained_cfg."""
    try:
        settings, name, args = load_model_config_from_path(folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{CONFIG_FILE} in {folder} is not as timm writes it: {error}", FORMATS) from error
    settings.setdefault("label_names", raw.get("labels") or _labels(raw))
    missing = [key for key in ("mean", "std") if not settings.get(key)]
    notes = (f"{CONFIG_FILE} gives no {' and '.join(missing)}: timm's defaults are taken",) if missing else ()
    known = {f.name for f in fields(PretrainedCfg)}
    settings = {key: value for key, value in settings.items() if key in known and value is not None}
    args = {key: value for key, value in (args or {}).items() if key != "num_classes"}  # the weights tell
    return Config(name, args, settings, whole=True, notes=notes)


def _from_transformers(folder: Path, raw: dict[str, Any], outline: Mapping[str, Tensor]) -> Config:
    kind, raw = raw["model_type"], {**raw, **raw.get("vision_config", {})}
    kind = {"clip": "clip_vision_model"}.get(kind, kind)
    settings: dict[str, Any] = {"label_names": _labels(raw)} if _labels(raw) else {}
    notes: tuple[str, ...] = ()
    if (folder / PROCESSOR_FILE).exists():
        settings |= _processing(_read_json(folder / PROCESSOR_FILE), raw)
    else:
        notes = (f"{folder} has no {PROCESSOR_FILE}: timm's mean, std, crop and interpolation are assumed",)
    act = ACTIVATIONS.get(raw.get("hidden_act", "gelu"))
    if kind not in NAMES or "patch_embed.proj.weight" not in outline or act is None:
        other = kind if act else f"{kind} with {raw['hidden_act']}"
        return Config(None, {}, settings, other=other, notes=notes)
    name, args = _architecture(kind, raw, outline)
    if act != "gelu" and not _gated(outline):
        args["act_layer"] = act
    size = settings.get("input_size", (3, *_pair(raw.get("image_size", 224))))
    return Config(name, {**args, "img_size": list(size[1:])}, settings, notes=notes)


def _architecture(kind: str, raw: dict[str, Any], outline: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """timm's name and all arguments in which the model may differ from what the name stands for."""
    width = outline["cls_token"].shape[-1]
    patch = outline["patch_embed.proj.weight"].shape[-1]
    blocks = [int(name.split(".")[1]) for name in outline if name.startswith("blocks.")]
    hidden = outline["blocks.0.mlp.fc1.weight"].shape[0]
    ratio = hidden / width
    args: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": 1 + max(blocks),
        "num_heads": raw["num_attention_heads"],
        "mlp_ratio": ratio if int(width * ratio) == hidden else (hidden + 0.5) / width,  # timm rounds down
        "norm_eps": raw.get("layer_norm_eps", 1e-12),
    }
    template = NAMES[kind]
    if "dist_token" in outline:
        template = template.replace("_patch", "_distilled_patch")
    elif "reg_token" in outline:
        args["reg_tokens"] = outline["reg_token"].shape[1]
    if "blocks.0.attn.qkv.bias" not in outline and "blocks.0.attn.q_bias" not in outline:
        args["qkv_bias"] = False
    if NAMES[kind].startswith("beit"):
        args |= {
            "init_values": 0.1 if "blocks.0.gamma_1" in outline else 0,
            "use_abs_pos_emb": "pos_embed" in outline,
            "use_rel_pos_bias": any(name.startswith("blocks.0.attn.relative") for name in outline),
            "use_shared_rel_pos_bias": any(name.startswith("rel_pos_bias") for name in outline),
            "global_pool": "avg" if raw.get("use_mean_pooling", True) else "token",
        }
    size = "giant" if _gated(outline) else SIZES.get(width, "base").replace("giant", "base")
    exact = template.format(size=size, patch=patch)
    if timm.is_model(exact):
        return exact, args
    usual = 14 if "dino" in template else 16
    return template.format(size=size if _gated(outline) else "base", patch=usual), args


def _gated(outline: Mapping[str, Tensor]) -> bool:
    fc1, fc2 = outline["blocks.0.mlp.fc1.weight"], outline["blocks.0.mlp.fc2.weight"]
    return fc1.shape[0] == 2 * fc2.shape[1]


def _labels(raw: dict[str, Any]) -> list[str] | None:
    """Names of the rows by id2label, unless they are only numbered (LABEL_0)."""
    try:
        by_row = {int(row): str(name) for row, name in (raw.get("id2label") or {}).items()}
    except (ValueError, AttributeError):
        return None
    names = [by_row[row] for row in sorted(by_row)]
    numbered = all(name == f"LABEL_{row}" for row, name in enumerate(names))
    return None if numbered or sorted(by_row) != list(range(len(by_row))) else names


def _processing(raw: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """What an image processor of transformers does, as timm's settings. Raises ModelError where timm cannot do it."""
    factor = raw.get("rescale_factor", 1 / 255) if raw.get("do_rescale", True) else 1.0
    if abs(factor * 255 - 1) > 1e-6:
        raise ModelError(
            f"{PROCESSOR_FILE} scales pixels by {factor:g}, not by 1/255", "vitdex feeds pixels of 0 to 1."
        )
    normal = raw.get("do_normalize", True)
    edge, squash = _resize(raw.get("size", config.get("image_size", 224)))
    crop = _pair(raw.get("crop_size", edge)) if raw.get("do_center_crop", False) else edge
    pct = crop[0] / edge[0]
    if int(crop[0] / pct) != edge[0]:
        pct = crop[0] / (edge[0] + 0.5)  # timm rounds down
    return {
        "input_size": (3, *crop),
        "mean": tuple(raw["image_mean"]) if normal else (0.0, 0.0, 0.0),
        "std": tuple(raw["image_std"]) if normal else (1.0, 1.0, 1.0),
        "interpolation": RESAMPLING[raw.get("resample", 2)],
        "crop_pct": pct,
        "crop_mode": "squash" if squash else "center",
    }


def _resize(size: Any) -> tuple[tuple[int, int], bool]:
    """Height and width that an image is resized to, and whether both are met (it is squashed) or the shorter only."""
    if isinstance(size, dict) and "shortest_edge" in size:
        return (size["shortest_edge"],) * 2, False
    return _pair(size), True


def _pair(size: Any) -> tuple[int, int]:
    """Height and width, given as one number, two or a dictionary."""
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else size["shortest_edge"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])
