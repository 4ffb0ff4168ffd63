"""timm.create_model with its many ways to fail brought down to one. Imports timm: only code that runs a model does."""

from __future__ import annotations

import difflib
import re
from functools import partial
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session
from timm.models import load_pretrained, vision_transformer_hybrid
from torch import nn

from ...schemas.errors import ModelError
from .checkpoints import listed


def check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if "/" in name:
        raise ModelError(f"timm has no model '{name}'", f"If it is one of the hub: --model hf-hub:{name}.")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), 3) or ["vit_base_patch16_224"]
        raise ModelError(f"timm has no model '{architecture}'", f"Did you mean {' or '.join(near)}?")
    tags = [m.partition(".")[2] for m in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(f"'{architecture}' has no weights tagged '{tag}'", f"Its tags: {', '.join(tags) or 'none'}.")


def classifier_of(name: str) -> str:
    """The module that gives the classes, as timm knows it: `head` of most ViTs, the first of a distilled one's two."""
    known = getattr(timm.get_pretrained_cfg(name), "classifier", None) or "head"
    return known if isinstance(known, str) else str(known[0])


def ask_the_hub_once() -> None:
    """Where the hub does not answer, look in its cache alone: its client would try again for a minute."""
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # of httpx, requests or the proxy's, as the client's version has it
        constants.HF_HUB_OFFLINE = True


def create(
    name: str,
    args: dict[str, Any],
    config: dict[str, Any] | None = None,
    overlay: dict[str, Any] | None = None,
) -> nn.Module:
    """A model with weights: those of timm's hub, or those that `overlay` names (a file, a state_dict).

    Args:
        config: timm's pretrained_cfg; by default that of the name.
        overlay: fields of it that differ.
    """
    try:
        return _with_weights(name, _for_timm(args), config, overlay)
    except TypeError as error:
        raise ModelError(f"'{name}' does not take these settings: {error}", "Leave out --img-size.") from error
    except Exception as error:  # timm's filters and the hub's client raise errors of many libraries
        fact = " ".join(str(error).split())[:300]
        if overlay:
            remedy = "Give --model the name of the architecture that was trained, and its own weights."
            raise ModelError(f"the weights do not fit '{name}': {_differences(str(error)) or fact}", remedy) from error
        if isinstance(error, RuntimeError | KeyError | ValueError | AssertionError):
            raise ModelError(f"'{name}' cannot be made: {fact}", "Give --weights FILE.") from error
        remedy = "Check the network, or give --weights FILE (safetensors)."
        raise ModelError(f"no weights for '{name}' from timm's hub: {type(error).__name__}", remedy) from error


def _with_weights(
    name: str, args: dict[str, Any], config: dict[str, Any] | None, overlay: dict[str, Any] | None
) -> nn.Module:
    """timm.create_model, which for a hybrid would also ask the hub for its backbone's own weights, whatever is given.

    With given weights hybrids are therefore made without any, and loaded as timm does it.
    """
    hybrid = bool(overlay) and timm.model_entrypoint(name).__module__ == vision_transformer_hybrid.__name__
    model: nn.Module = timm.create_model(
        name, pretrained=not hybrid, pretrained_cfg=config, pretrained_cfg_overlay=overlay, **args
    )
    if hybrid:
        classes, channels = args["num_classes"], args.get("in_chans", 3)
        load_pretrained(model, None, classes, channels, vision_transformer_hybrid.checkpoint_filter_fn)
    return model


def outline_of(name: str, args: dict[str, Any], classes: int) -> nn.Module:
    """The model without weights, on the device "meta"."""
    with torch.device("meta"):
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **_for_timm({**args, "num_classes": classes}))
            return model
        except (RuntimeError, TypeError, AssertionError, ValueError) as error:
            raise ModelError(f"'{name}' does not take these settings: {error}", "Leave out --img-size.") from error


def _for_timm(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments as timm takes them, from what JSON can hold."""
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
    if "norm_eps" in known:
        known["norm_layer"] = partial(nn.LayerNorm, eps=known.pop("norm_eps"))
    return known


def _differences(message: str) -> str:
    """The first tensors that torch's load_state_dict found missing, not known or of another shape, in one line."""
    found = []
    for words, shown in (("Missing", "missing"), ("Unexpected", "not known")):
        if match := re.search(rf"{words} key\(s\) in state_dict: (.*?)\.\s*$", message, re.MULTILINE):
            names = re.findall(r'"([^"]+)"', match[1])
            found.append(f"{shown} {listed(names)}")
    sizes = re.findall(r"size mismatch for ([^:]+): .*?Size\((.*?)\).*?Size\((.*?)\)", message)
    if sizes:
        name, stored, wanted = sizes[0]
        more = f" and {len(sizes) - 1} more of other shapes" if len(sizes) > 1 else ""
        found.append(f"'{name}' is {stored} and should be {wanted}{more}")
    return "; ".join(found)
