"""Load a ViT under timm's name, with weights from timm's hub, from safetensors files, from a folder, or anybody's hub.

    loaded = load_model("vit_base_patch16_224")                         # hub
    loaded = load_model("vit_base_patch16_224", weights="mine.safetensors")
    loaded = load_model("local-dir:my-model")                           # config.json + model.safetensors
    loaded = load_model("hf-hub:ORG/NAME")                              # the same from the Hugging Face hub

Imports torch and timm: only code that runs a model imports this module.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from timm.data import resolve_model_data_config
from torch import nn

from ...schemas.errors import ModelError
from ...schemas.run_spec import Preprocessing
from ..labels.class_names import ClassNames, model_names
from ..labels.imagenet import tag_says_imagenet
from .checkpoints import Checkpoint, check_finite, open_checkpoint, tensors_hash
from .configs import CONFIG_FILE, FORMATS, Config, read_config
from .create import ask_the_hub_once, check_name, create
from .families import in_channels
from .fit import fit
from .hub import HUB, hub_folder, hub_name
from .naming import Translated, resized_positions, translate

LOCAL = "local-dir:"  # before the folder of a model


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode on the CPU, and all that identifies it.

    `model_args` are timm's, `norm_eps` where the norms have another epsilon than those of this name, and `architecture`
    where the name is the hub's: with it, weights from a file need no hub.
    """

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
    download: bool = True,
) -> Loaded:
    """Load a ViT.

    Args:
        name: as timm spells it, `local-dir:FOLDER` for a folder of timm's or transformers' with its config.json, or
            `hf-hub:ORG/NAME` for such a folder on the Hugging Face hub (`@REVISION` may follow).
        weights: a safetensors file, the index of several, or a folder; by default the folder's own, else timm's hub.
        img_size: height and width; by default those that the weights were made for.
        model_args: further arguments of timm.create_model.
        download: whether a model that `hf-hub:` names may come over the network, or from the hub's cache alone.

    Returns:
        A Loaded.

    Raises:
        ModelError: in one line for every way in which that can fail.

    Example:
        >>> load_model("local-dir:my-model").preprocessing["mean"]
    """
    args = dict(model_args or {})
    if img_size:
        args["img_size"] = list(img_size)
    notes: tuple[str, ...] = ()
    if (on_hub := hub_name(name)) is not None:
        model, name, args, notes, imagenet = _from_hub(on_hub, weights, args, download)
    elif name.startswith(LOCAL) or weights is not None:
        model, name, args, notes, imagenet = _from_files(name, weights, args)
    else:
        check_name(name)
        ask_the_hub_once()
        model, imagenet = create(name, args), True
        if tag := _config(model).get("tag"):
            name = f"{name.split('.')[0]}.{tag}"
    model = model.eval().float().requires_grad_(False)
    if in_channels(model) != 3:
        raise ModelError(f"{name} reads {in_channels(model)} channels", "vitdex indexes models of RGB images.")
    check_finite(name, dict(model.named_parameters()))
    names = model_names(int(getattr(model, "num_classes", 0)), _config(model), imagenet)
    return Loaded(model, name, args, _preprocessing(model, args), state_hash(model), names, notes)


def _from_hub(
    on_hub: str, weights: str | Path | None, args: dict[str, Any], download: bool
) -> tuple[nn.Module, str, dict[str, Any], tuple[str, ...], bool]:
    """As `_from_files`, of a model on the hub: its name stays the hub's, and timm's is among its arguments."""
    architecture = args.pop("architecture", None)
    if weights is None or architecture is None:
        architecture = f"{LOCAL}{hub_folder(on_hub, weights is None, download)}"
    model, architecture, args, notes, imagenet = _from_files(architecture, weights, args)
    return model, f"{HUB}{on_hub}", {**args, "architecture": architecture}, notes, imagenet


def _from_files(
    name: str, weights: str | Path | None, args: dict[str, Any]
) -> tuple[nn.Module, str, dict[str, Any], tuple[str, ...], bool]:
    """The model, timm's name of it, all its arguments, what was assumed, and whether its config says ImageNet."""
    local = Path(name.removeprefix(LOCAL)) if name.startswith(LOCAL) else None
    if local and not (local / CONFIG_FILE).exists():
        raise ModelError(f"no readable {CONFIG_FILE} in {local}", FORMATS)
    source = Path(weights or local or "")
    checkpoint = open_checkpoint(source)
    outline = translate(checkpoint.outline())
    folder = local or source
    config = read_config(folder, outline.tensors) if (folder / CONFIG_FILE).exists() else Config()
    if local and config.name is None:
        remedy = f"Say which it is: --model NAME --weights {local}."
        raise ModelError(f"{local} is a '{config.other}' of transformers, of which timm's name is not known", remedy)
    name = cast(str, config.name) if local else name
    check_name(name)
    if name == config.name:
        args = {**config.args, **args}
    elif "norm_eps" in config.args:
        args = {"norm_eps": config.args["norm_eps"], **args}
    fitted = fit(name, args, config, outline)
    found = _tensors(checkpoint, outline, fitted.grid)
    settings = {**fitted.settings, **found, "custom_load": False, "source": None, "num_classes": fitted.classes}
    model = create(
        name, {**fitted.args, "num_classes": fitted.classes}, config.settings if config.whole else None, settings
    )
    _config(model).pop("state_dict", None)  # let the copy go
    notes = (*outline.notes, *config.notes, *fitted.notes)
    return model, name, fitted.args, notes, tag_says_imagenet(config.settings.get("tag"))


def _tensors(checkpoint: Checkpoint, outline: Translated, grid: tuple[int, int] | None) -> dict[str, Any]:
    """Where timm finds the weights: in their file if it can read that itself, else put under its names."""
    if len(checkpoint.files) == 1 and outline.tensors.keys() == checkpoint.shapes.keys():
        return {"file": str(checkpoint.files[0])}
    tensors = translate(checkpoint.tensors()).tensors
    if grid is not None:
        tensors["pos_embed"] = resized_positions(tensors["pos_embed"], grid)
    return {"state_dict": tensors, "file": None}


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


def state_hash(model: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of a model's tensors: the weights, whatever file they came in."""
    return tensors_hash(model.state_dict())
