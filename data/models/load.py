"""Load a timm ViT with weights from timm's hub, from a safetensors file, or from a folder in timm's hub format.

    loaded = load_model("vit_base_patch16_224")                         # hub
    loaded = load_model("vit_base_patch16_224", weights="mine.safetensors")
    loaded = load_model("local-dir:my-model")                           # config.json + model.safetensors

Imports torch and timm: only code that runs a model imports this module.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, cast

import timm
import torch
from huggingface_hub import constants, get_session
from safetensors import SafetensorError, safe_open
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ...schemas.errors import ModelError
from ...schemas.run_spec import Preprocessing
from ..labels.class_names import ClassNames, model_names
from ..labels.imagenet import tag_says_imagenet

LOCAL = "local-dir:"  # before the folder of a model in timm's hub format
RELATIVE = "relative_position_bias_table"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode on the CPU, and all that identifies it."""

    model: nn.Module
    name: str
    model_args: dict[str, Any]
    preprocessing: Preprocessing
    sha256: str
    class_names: ClassNames | None  # that the model brings
    notes: tuple[str, ...] = ()  # what was assumed and a user should know


def load_model(
    name: str,
    weights: str | Path | None = None,
    img_size: tuple[int, int] | None = None,
    model_args: dict[str, Any] | None = None,
) -> Loaded:
    """Load `name` as timm spells it. Raises ModelError in one line for every way in which that can fail."""
    args = dict(model_args or {})
    config: dict[str, Any] = {}
    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL))
        config = _read_config(folder)
        name, weights = config["architecture"], weights or folder / WEIGHTS_FILE
        args = {**config.get("model_args", {}), **args}
    _check_name(name)
    if img_size:
        args["img_size"] = list(img_size)
    notes: tuple[str, ...] = ()
    from_hub = weights is None
    if weights is None:
        _ask_the_hub_once()
        model = _create(name, args, {})
    else:
        shapes = read_shapes(Path(weights))
        if "img_size" not in args and not any(key == "pos_embed" or key.endswith(RELATIVE) for key in shapes):
            notes = ("the weights do not tell their image size: the model's own is taken (see --img-size)",)
        args, classes = _fit(name, args, shapes)
        overlay = {
            **config.get("pretrained_cfg", {}),
            "file": str(weights),
            "custom_load": False,
            "num_classes": classes,
        }
        model = _create(name, {**args, "num_classes": classes}, overlay)
    model = model.eval().float().requires_grad_(False)
    if _in_channels(model) != 3:
        raise ModelError(f"{name} reads {_in_channels(model)} channels", "vitdex indexes models of RGB images.")
    record = {**_config(model), **config}
    imagenet = from_hub or tag_says_imagenet(config.get("pretrained_cfg", {}).get("tag"))
    names = model_names(int(getattr(model, "num_classes", 0)), record, imagenet)
    tag = _config(model).get("tag") or ""
    full_name = f"{name.split('.')[0]}.{tag}" if tag and not weights else name
    return Loaded(model, full_name, args, _preprocessing(model, args), state_hash(model), names, notes)


def _preprocessing(model: nn.Module, args: dict[str, Any]) -> Preprocessing:
    """timm's data config of a model, with the image size that it was made with."""
    config = dict(resolve_model_data_config(model))
    if img_size := args.get("img_size"):
        pair = [img_size, img_size] if isinstance(img_size, int) else list(img_size)
        config["input_size"] = (3, *pair)
    plain: Preprocessing = json.loads(json.dumps(config))  # as it will be read again
    return plain


def _config(model: nn.Module) -> dict[str, Any]:
    """timm's record of the weights."""
    return cast(dict[str, Any], model.pretrained_cfg)


def _in_channels(model: nn.Module) -> int:
    projection = getattr(getattr(model, "patch_embed", None), "proj", None)
    return int(getattr(projection, "in_channels", 3))


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), 3) or ["vit_base_patch16_224"]
        raise ModelError(f"timm has no model '{architecture}'", f"Did you mean {' or '.join(near)}?")
    tags = [m.partition(".")[2] for m in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(f"'{architecture}' has no weights tagged '{tag}'", f"Its tags: {', '.join(tags) or 'none'}.")


def _ask_the_hub_once() -> None:
    """Where the hub does not answer, look in its cache alone: its client would try again for a minute."""
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # of httpx, requests or the proxy's, as the client's version has it
        constants.HF_HUB_OFFLINE = True


def _create(name: str, args: dict[str, Any], overlay: dict[str, Any]) -> nn.Module:
    """timm.create_model with its many ways to fail brought down to one."""
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay or None, **known)
        return model
    except TypeError as error:
        raise ModelError(f"'{name}' does not take these settings: {error}", "Leave out --img-size.") from error
    except (RuntimeError, KeyError, ValueError, AssertionError) as error:
        fact = " ".join(str(error).split())[:300]
        if overlay:
            remedy = "Give the weights of this very model, as saved by timm."
            raise ModelError(f"the weights do not fit '{name}': {fact}", remedy) from error
        raise ModelError(f"'{name}' cannot be made: {fact}", "Give --weights FILE.") from error
    except Exception as error:  # the hub's client raises errors of many libraries
        raise ModelError(
            f"no weights for '{name}' from timm's hub: {type(error).__name__}",
            "Check the network, or give --weights FILE (safetensors).",
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"no readable {CONFIG_FILE} in {folder}", "Give a folder in timm's hub format.") from error
    if "architecture" not in config:
        raise ModelError(f"{CONFIG_FILE} in {folder} names no architecture", "Give a folder in timm's hub format.")
    return config


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file; anything else is refused, pickles above all."""
    try:
        with safe_open(file, "pt") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelError(f"no weights at {file}", "Give a safetensors file.") from error
    except (SafetensorError, OSError) as error:
        remedy = "Pickled checkpoints can run code: convert them with safetensors.torch.save_file."
        raise ModelError(f"{file} is not a safetensors file", remedy) from error


def _fit(name: str, args: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Any], int]:
    """Image size (where not given) and number of classes as the weights' shapes show them."""
    classes = shapes["head.weight"][0] if "head.weight" in shapes else 0
    with torch.device("meta"):
        try:
            plain = timm.create_model(name, pretrained=False, num_classes=classes, **args)
        except (RuntimeError, TypeError, AssertionError, ValueError) as error:
            raise ModelError(f"'{name}' does not take these settings: {error}", "Leave out --img-size.") from error
    embed = getattr(plain, "patch_embed", None)
    if "img_size" in args or embed is None:
        return args, classes
    patches = _stored_patches(plain, shapes)
    if patches is None or patches == embed.num_patches:
        return args, classes
    side = isqrt(patches)
    if side * side != patches:
        raise ModelError(f"the weights hold positions of {patches} patches, not a square", "Give --img-size H W.")
    patch = embed.patch_size
    return {**args, "img_size": [side * patch[0], side * patch[1]]}, classes


def _stored_patches(plain: nn.Module, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Patches for which the weights hold positions, absolute or relative; None where they hold neither.

    A table of relative positions has (2 side - 1)**2 rows, and a few more for prefix tokens, as many as in `plain`.
    """
    embed: Any = plain.patch_embed
    position, stored = getattr(plain, "pos_embed", None), shapes.get("pos_embed")
    if stored is not None:
        fits = isinstance(position, Tensor) and position.ndim == len(stored) == 3
        return stored[1] - (position.shape[1] - embed.num_patches) if fits else None  # type: ignore[union-attr]
    for name, table in plain.named_parameters():
        if name.endswith(RELATIVE) and name in shapes:
            rows, columns = embed.grid_size
            more = table.shape[0] - (2 * rows - 1) * (2 * columns - 1)
            return ((isqrt(shapes[name][0] - more) + 1) // 2) ** 2
    return None


def state_hash(model: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of a model's tensors: the weights, whatever file they came in."""
    return tensors_hash(model.state_dict())


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
