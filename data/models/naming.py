"""Tensors under other libraries' names, put under timm's: torchvision's, transformers', and wrappers around any model.

    translate({"module.patch_embed.proj.weight": ..., ...})      # what a trainer wrapped
    translate({"vit.embeddings.cls_token": ..., ...})            # a ViT of transformers
    translate({"conv_proj.weight": ..., ...})                    # one of torchvision

What timm's own filters read (CLIP's names, Meta's DINOv2, ...) is left to them. Works on tensors without values too.
Imports torch: only code that runs a model imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...schemas.errors import ModelError
from .checkpoints import listed

Origin = Literal["timm", "torchvision", "transformers", "CLIP", "unknown"]

# Of DataParallel, torch.compile, FSDP and activation checkpointing, around a model or a part of it.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A tensor that every model of a naming has. What stands before it in a file is a prefix of the model.
ANCHORS: dict[str, Origin] = {
    "embeddings.patch_embeddings.projection.weight": "transformers",
    "embeddings.patch_embedding.weight": "transformers",  # CLIP's
    "conv_proj.weight": "torchvision",
    "patch_embed.proj.weight": "timm",
    "class_embedding": "CLIP",
}
TRUNK = "visual.trunk."  # timm reads it together with the head that stands beside it
TOWERS = ("visual.", TRUNK, "vision_encoder.", "vision_model.")  # what stands beside them is a text model
ONE_MODEL = "Save the one that you mean by itself (safetensors.torch.save_file)."
HEADS = re.compile(r"(?:classifier|cls_classifier|distillation_classifier|visual_projection)\.")

TORCHVISION = (
    (r"class_token", "cls_token"),
    (r"conv_proj\.(.+)", r"patch_embed.proj.\1"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"encoder\.ln\.(.+)", r"norm.\1"),
    (r"heads\.head\.(.+)", r"head.\1"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.(.+)", r"blocks.\1.\2"),
    (r"(blocks\.\d+)\.ln_(\d)\.(.+)", r"\1.norm\2.\3"),
    (r"(blocks\.\d+)\.self_attention\.in_proj_(.+)", r"\1.attn.qkv.\2"),
    (r"(blocks\.\d+)\.self_attention\.out_proj\.(.+)", r"\1.attn.proj.\2"),
    (r"(blocks\.\d+)\.mlp\.(?:0|linear_1)\.(.+)", r"\1.mlp.fc1.\2"),
    (r"(blocks\.\d+)\.mlp\.(?:3|linear_2)\.(.+)", r"\1.mlp.fc2.\2"),
)
# Files have the names of transformers 4, modules of transformers 5 others. Each rule sees what those before it left.
TRANSFORMERS = (
    (r"embeddings\.(?:cls_token|class_embedding)", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.(?:position_embeddings|position_embedding\.weight)", "pos_embed"),
    (r"embeddings\.(?:patch_embeddings\.projection|patch_embedding)\.(.+)", r"patch_embed.proj.\1"),
    (r"(?:pre_layrnorm|pre_layernorm)\.(.+)", r"norm_pre.\1"),
    (r"(?:layernorm|post_layernorm)\.(.+)", r"norm.\1"),
    (r"pooler\.layernorm\.(.+)", r"fc_norm.\1"),
    (r"(?:classifier|cls_classifier|visual_projection)\.(.+)", r"head.\1"),
    (r"distillation_classifier\.(.+)", r"head_dist.\1"),
    (r"(?:encoder\.relative_position_bias|shared_position_bias)\.(.+)", r"rel_pos_bias.\1"),
    (r"(?:encoder\.)?layers?\.(\d+)\.(.+)", r"blocks.\1.\2"),
    (r"(blocks\.\d+)\.(?:layernorm_before|layer_norm1|norm1)\.(.+)", r"\1.norm1.\2"),
    (r"(blocks\.\d+)\.(?:layernorm_after|layer_norm2|norm2)\.(.+)", r"\1.norm2.\2"),
    (r"(blocks\.\d+)\.(?:attention|self_attn)\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.(.+)", r"\1.attn.\2.\3"),
    (r"(blocks\.\d+)\.(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.(.+)", r"\1.attn.proj.\2"),
    (r"(blocks\.\d+)\.(?:attention\.attention\.)?relative_position_bias\.(.+)", r"\1.attn.\2"),
    (r"(blocks\.\d+)\.intermediate\.dense\.(.+)", r"\1.mlp.fc1.\2"),
    (r"(blocks\.\d+)\.output\.dense\.(.+)", r"\1.mlp.fc2.\2"),
    (r"(blocks\.\d+)\.mlp\.weights_in\.(.+)", r"\1.mlp.fc1.\2"),
    (r"(blocks\.\d+)\.mlp\.(?:weights_out|down_proj)\.(.+)", r"\1.mlp.fc2.\2"),
    (r"(blocks\.\d+)\.layer_scale(\d)\.lambda1", r"\1.ls\2.gamma"),
    (r"(blocks\.\d+)\.lambda_(\d)", r"\1.gamma_\2"),
)
UNUSED = re.compile(r"(?:^|\.)(?:mask_token|position_ids|relative_position_index)$|^pooler\.dense\.")
JOINED = {"qkv": ("attn", ("q", "k", "v")), "fc1": ("mlp", ("gate_proj", "up_proj"))}  # one linear layer in timm


@dataclass(frozen=True)
class Translated:
    """Tensors as timm names them, whose names they had, and what a user should know of it."""

    tensors: dict[str, Tensor]
    origin: Origin
    notes: tuple[str, ...]


def translate(tensors: dict[str, Tensor]) -> Translated:
    """Put a checkpoint's tensors under timm's names.

    Args:
        tensors: by the names that they have in the file; they may be without values (on the device "meta").

    Returns:
        A Translated. A checkpoint of no known naming comes back as it is, for timm to judge.

    Raises:
        ModelError: the file holds several models, so that none is meant.

    Example:
        >>> translate({"module.patch_embed.proj.weight": weight}).tensors.keys()
        dict_keys(['patch_embed.proj.weight'])
    """
    plain = {WRAPPERS.sub("", name): value for name, value in tensors.items()}
    if len(plain) < len(tensors):
        raise ModelError("the file holds a model twice, with 'module.' before its names and without", ONE_MODEL)
    plain.pop("n_averaged", None)  # a counter of torch's AveragedModel
    origin, prefix = _find_model(plain)
    if origin == "transformers":
        outer = prefix[: prefix.rstrip(".").rfind(".") + 1]  # 'net.' of 'net.vit.': its heads stand beside 'vit.'
        taken = {n: n.removeprefix(prefix) for n in plain if n.startswith(prefix)}
        taken |= {n: n.removeprefix(outer) for n in plain if n.startswith(outer) and HEADS.match(n.removeprefix(outer))}
    elif prefix.endswith(TRUNK):
        outer = prefix.removesuffix(TRUNK)
        taken = {n: n.removeprefix(outer) for n in plain if n.startswith(outer)}
    else:
        taken = {n: n.removeprefix(prefix) for n in plain if n.startswith(prefix)}
    inner = {name: plain[old] for old, name in taken.items()}
    notes = _left_out(prefix, [name for name in plain if name not in taken])
    if origin == "torchvision":
        inner = {_renamed(name, TORCHVISION): value for name, value in inner.items()}
    elif origin == "CLIP":
        inner = {f"visual.{name}": value for name, value in inner.items()}  # so that timm's filter knows it
    elif origin == "transformers":
        inner, more = _from_transformers(inner)
        notes += more
    return Translated(inner, origin, notes)


def _find_model(names: Iterable[str]) -> tuple[Origin, str]:
    """Whose names these are, and what stands before them. Raises ModelError where the file holds several models."""
    for anchor, origin in ANCHORS.items():
        prefixes = sorted(n.removesuffix(anchor) for n in names if n == anchor or n.endswith(f".{anchor}"))
        if "" in prefixes or len(prefixes) == 1:
            return origin, min(prefixes)
        if prefixes:
            raise ModelError(f"the file holds several models: {listed(prefixes)}", ONE_MODEL)
    return "unknown", ""


def _left_out(prefix: str, names: list[str]) -> tuple[str, ...]:
    """A note on what is beside the model in its file, unless it is a text model's or of a task other than classes."""
    if not names or prefix.endswith(TOWERS):
        return ()
    return (f"the weights hold more than the model at '{prefix}': {listed(sorted(names))} left out",)


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, new in rules:
        name = re.sub(rf"^{pattern}$", new, name)
    return name


def _from_transformers(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A ViT of transformers: its names, and what timm keeps in other shapes or in one tensor."""
    kept = {n: v for n, v in tensors.items() if not UNUSED.search(n)}
    out = _joined({_renamed(name, TRANSFORMERS): value for name, value in kept.items()})
    out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    width = out["cls_token"].shape[-1]
    if "pos_embed" in out:
        out["pos_embed"] = out["pos_embed"].reshape(1, -1, width)
    if "reg_token" in out:  # timm adds the first position to the class token itself
        out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
        out["pos_embed"] = out["pos_embed"][:, 1:]
    if "dist_token" in out and "head_dist.weight" not in out:
        out["reg_token"] = out.pop("dist_token")  # no head reads it, and its position is its own
    if "head.weight" not in out:
        return out, ()
    if out["head.weight"].shape[1] != width:
        for name in ("head.weight", "head.bias"):
            out.pop(name, None)
        return out, ("the classifier reads the class token beside the mean of patches: it is left out",)
    if "head.bias" not in out:  # CLIP's projection, which has a bias in timm
        out["head.bias"] = out["head.weight"].new_zeros(len(out["head.weight"]))
    return out, ()


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers that timm has in one linear layer: q, k and v; the gate and the values of a gated MLP.

    Keys without a bias (BEiT's) leave q_bias and v_bias, as timm names them.
    """
    out = dict(tensors)
    for one, (module, parts) in JOINED.items():
        for first in [n for n in tensors if n.endswith(f".{module}.{parts[0]}.weight")]:
            stem = first.removesuffix(f"{parts[0]}.weight")
            for what in ("weight", "bias"):
                found = {part: out.pop(f"{stem}{part}.{what}") for part in parts if f"{stem}{part}.{what}" in out}
                if len(found) == len(parts):
                    out[f"{stem}{one}.{what}"] = torch.cat(list(found.values()))
                else:
                    out |= {f"{stem}{part}_{what}": value for part, value in found.items()}
    return out


def resized_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions [1, prefix + side * side, d] for another grid, as transformers resizes them while it runs.

    timm resizes with other weights of neighbours (it smooths): results would differ in the third digit.
    """
    side = isqrt(positions.shape[1])
    prefix = positions.shape[1] - side * side
    table = positions[:, prefix:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    smooth = prefix == 0  # models with registers: their class token has taken its position
    table = interpolate(table, size=grid, mode="bicubic", align_corners=False, antialias=smooth)
    return torch.cat([positions[:, :prefix].float(), table.flatten(2).transpose(1, 2)], dim=1)
