"""Small models of other kinds than the sample's, on a few images of noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from vitdex.indexer.from_python import build_index

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean of the patches": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "depth": 3}),
    "LayerScale, registers": ("vit_tiny_patch16_224", {"init_values": 0.3, "reg_tokens": 2, "depth": 3}),
    "post-norm": ("vit_relpos_small_patch16_224", {"depth": 3}),
}
GATED: tuple[str, dict[str, Any]] = ("eva02_tiny_patch14_224", {"depth": 3})
SIDE = 64  # pixels


def index_of(name: str, settings: dict[str, Any], folder: Path, side: int = SIDE, **more: Any) -> Path:
    """An index of nine images of three classes through a model of random weights."""
    torch.manual_seed(1)
    settings = {"num_classes": 3, **settings}
    model = timm.create_model(name, img_size=side, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    for number in range(9):
        file = folder / "images" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)).save(file)
    classes = {"num_classes": settings["num_classes"]}
    seen = {"input_size": [3, side, side], "crop_pct": 1.0, "interpolation": "bicubic", **classes}
    config = {"architecture": name, "model_args": {"img_size": side, **settings}, **classes}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": seen}))
    out = folder / "out.vitdex"
    return build_index(out, model=f"local-dir:{folder}", images=folder / "images", device="cpu", workers=0, **more)
