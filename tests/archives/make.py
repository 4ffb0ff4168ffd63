"""Make a tiny index of the format as it is now, to be kept for ever: python tests/archives/make.py tests/archives/vN

A model of two blocks with random weights over twelve pictures of three classes, one of them unreadable, all maps and
notes. Beside it answers.json holds what it answers: later versions must still read the one and give the other.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from vitdex.indexer import build_index
from vitdex.query import Index, Neuron, import_descriptions, key_neurons, top_images
from vitdex.query.lookups.key_neurons import named

NEURON = Neuron("blocks.1.mlp.fc1", 5)
SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
CLASSES = ["circle", "line", "square"]


def pictures(folder: Path) -> None:
    """Noise in three folders, and one file that is no picture."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name / f"{i}.png")
    (folder / "line" / "3.png").write_bytes(b"not a picture")


def model(folder: Path) -> None:
    """Random weights in a folder of timm's hub format."""
    torch.manual_seed(0)
    made = timm.create_model("vit_tiny_patch16_224", num_classes=len(CLASSES), **SHAPE)
    folder.mkdir()
    save_file(made.state_dict(), folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": SHAPE, "num_classes": len(CLASSES)}
    pretrained = {"input_size": [3, 32, 32], "label_names": CLASSES, "num_classes": len(CLASSES)}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": pretrained}))


def answers(index: Index) -> dict[str, Any]:
    """What a reader of this index is told."""
    return {
        "classes": index.classes.name.tolist(),
        "failures": index.sql("FROM failures").path.tolist(),
        "key_neurons": [str(neuron) for neuron in named(key_neurons(index, "line", 5))],
        "exemplars": index.exemplars(*NEURON, k=3).image_id.tolist(),
        "top_images": top_images(index, [NEURON, "blocks.0.mlp.fc1"], 3).path.tolist(),
        "map": index.map(*NEURON, image_id=2).round(5).tolist(),
        "descriptions": index.sql("FROM descriptions").description.tolist(),
    }


def main() -> None:
    """Write OUT/index.vitdex and OUT/answers.json."""
    out = Path(sys.argv[1])
    out.mkdir()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        pictures(scratch / "pictures")
        model(scratch / "model")
        build_index(
            out / "tiny",
            model=f"local-dir:{scratch / 'model'}",
            images=scratch / "pictures",
            device="cpu",
            batch_size=4,
        )
        (scratch / "said.csv").write_text(f"layer,unit,description\n{NEURON.layer},{NEURON.unit},noise\n")
        with Index(out / "tiny") as index:
            import_descriptions(index, scratch / "said.csv", "nobody")
            (out / "answers.json").write_text(json.dumps(answers(index), indent=1) + "\n")


if __name__ == "__main__":
    main()
