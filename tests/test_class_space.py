"""Value vectors in class space, for small random models of many families, against the state dict and plain hooks.

Every gain, norm and bias is shaken, so that one that is forgotten shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request
from vitdex.query import Index
from vitdex.schemas.errors import ModelError
from vitdex.schemas.load import load_model
from vitdex.schemas.model import dissect

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}

# name, arguments, how the head reads, prefix tokens
FAMILIES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "cls": ("vit_tiny_patch16_224", {"img_size": 48}, "token", 1),
    "layerscale": ("deit3_small_patch16_224", {"img_size": 48}, "token", 1),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, "token", 5),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 48}, "token", 2),
    "gap, fc_norm, gamma_2": ("beit_base_patch16_224", {"img_size": 48}, "mean", 1),
    "gap behind the norm": ("vit_medium_patch16_gap_240", {"img_size": 48}, "mean of normed", 0),
    "post-norm": ("vit_base_patch16_rpn_224", {"img_size": 48, "fc_norm": True}, "mean", 0),
    "post-norm behind the norm": ("vit_relpos_base_patch32_plus_rpn_256", {"img_size": 96}, "mean of normed", 0),
    "not square": ("vit_tiny_patch16_224", {"img_size": [32, 64]}, "token", 1),
}


def small_model(name: str, arguments: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **{**SMALL, **arguments}).eval().requires_grad_(False)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor += torch.randn_like(tensor) * (0.3 if tensor.ndim == 1 else 0.05)
            assert key
    return model


def hub_folder(model: nn.Module, name: str, arguments: dict[str, Any], folder: Path) -> str:
    """The model as timm's hub stores one."""
    import json

    size = arguments["img_size"]
    config = {
        "architecture": name,
        "model_args": {k: v for k, v in {**SMALL, **arguments}.items() if k != "num_classes"},
        "pretrained_cfg": {
            "input_size": [3, *(size if isinstance(size, list) else [size, size])],
            "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "crop_pct": 1.0, "crop_mode": "squash",
            "interpolation": "bicubic", "label_names": ["ant", "bee", "cat"],
        },
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    return f"local-dir:{folder}"


def pictures(root: Path, count: int = 9) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        folder = root / ["ant", "bee", "cat"][i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return root


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_folds_and_contributions(family: str, tmp_path: Path) -> None:
    name, arguments, kind, prefix = FAMILIES[family]
    model = small_model(name, arguments)
    where = hub_folder(model, name, arguments, tmp_path / "model")
    request = Request(tmp_path / "a", where, str(pictures(tmp_path / "images")), device="cpu", workers=0, batch_size=4)
    with Index(build(request, Quiet())) as index:
        assert (index.spec.readout, index.spec.prefix) == (kind, prefix)
        head = model.get_classifier()  # type: ignore[operator]
        head = head[0] if isinstance(head, tuple) else head
        rows = index.sql("FROM class_scores ORDER BY layer, unit, class_id")
        values = torch.cat([block.mlp.fc2.weight.T for block in model.blocks])  # type: ignore[union-attr]
        score = values @ head.weight.T
        np.testing.assert_allclose(rows.score, score.reshape(-1), atol=1e-5)
        np.testing.assert_allclose(rows.probability, score.softmax(1).reshape(-1), atol=1e-6)
        np.testing.assert_allclose(
            rows.cosine, cosine_similarity(values[:, None], head.weight[None], dim=2).reshape(-1), atol=1e-5
        )
        folded = torch.cat([fold(model, block, block.mlp.fc2.weight.T) for block in model.blocks]) @ head.weight.T  # type: ignore[union-attr]
        np.testing.assert_allclose(rows.folded, folded.reshape(-1), atol=2e-5)
        check_contributions(index, model, head)


def final_norm(model: nn.Module) -> nn.LayerNorm:
    """The norm before the head: `fc_norm` where there is one."""
    after: Any = getattr(model, "fc_norm", None)
    before: Any = model.norm
    return after if isinstance(after, nn.LayerNorm) else before


def fold(model: nn.Module, block: Any, vectors: Tensor) -> Tensor:
    """E's view of vectors at fc2's output, straight from the definition."""
    if is_post_norm(block):
        vectors = (vectors - vectors.mean(-1, keepdim=True)) * block.norm2.weight
    elif getattr(block, "gamma_2", None) is not None:
        vectors = vectors * block.gamma_2
    elif hasattr(block, "ls2") and hasattr(block.ls2, "gamma"):
        vectors = vectors * block.ls2.gamma
    return (vectors - vectors.mean(-1, keepdim=True)) * final_norm(model).weight


def is_post_norm(block: Any) -> bool:
    return "Post" in type(block).__name__


def check_contributions(index: Index, model: nn.Module, head: nn.Linear) -> None:
    """Sum over neurons + fc2's bias = what the block's MLP adds to the stream, seen through the head."""
    stream: dict[str, Tensor] = {}
    blocks: list[Any] = list(model.blocks)  # type: ignore[arg-type]
    for i, block in enumerate(blocks):
        written = block.norm2 if is_post_norm(block) else block.mlp
        written.register_forward_hook(lambda m, a, out, i=i: stream.__setitem__(f"mlp{i}", out))
    blocks[-1].register_forward_hook(lambda m, a, out: stream.__setitem__("last", out))
    pixels = torch.from_numpy(index.arrays["inputs"][:]).permute(0, 3, 1, 2) / 255
    config = index.spec.preprocessing
    x = (pixels - torch.tensor(config["mean"])[:, None, None]) / torch.tensor(config["std"])[:, None, None]
    with torch.inference_mode():
        output = model(x)
    np.testing.assert_allclose(index.arrays["logits"][:], output, atol=1e-4)
    prefix, kind, eps = index.spec.prefix, index.spec.readout, final_norm(model).eps
    for i, block in enumerate(blocks):
        added = stream[f"mlp{i}"]
        if is_post_norm(block):
            added = added - block.norm2.bias  # no neuron's: a constant of the block
        elif getattr(block, "gamma_2", None) is not None:
            added = added * block.gamma_2
        elif hasattr(block, "ls2") and hasattr(block.ls2, "gamma"):
            added = added * block.ls2.gamma
        centred = (added - added.mean(-1, keepdim=True)) * final_norm(model).weight
        last = stream["last"]
        if kind == "token":
            share = centred[:, 0] / (last[:, 0].var(-1, unbiased=False) + eps).sqrt()[:, None]
        elif kind == "mean":
            pooled = last[:, prefix:].mean(1)
            share = centred[:, prefix:].mean(1) / (pooled.var(-1, unbiased=False) + eps).sqrt()[:, None]
        else:
            sigma = (last.var(-1, unbiased=False) + eps).sqrt()[..., None]
            share = (centred / sigma)[:, prefix:].mean(1)
        truth = share @ head.weight.T
        layer = f"blocks.{i}.mlp.fc1"
        folded = index.arrays["folded_vectors"][:][i] @ head.weight.T.numpy()
        bias = index.arrays["folded_biases"][:][i] @ head.weight.T.numpy()
        read, scale = index.arrays[f"{layer}/read"][:], index.arrays[f"{layer}/scale"][:]
        np.testing.assert_allclose(read @ folded + scale[:, None] * bias, truth, atol=2e-5)
        rows = index.sql("FROM class_activations WHERE layer = ? ORDER BY class_id, unit", [layer])
        labels = index.sql("SELECT class_id FROM images ORDER BY image_id").class_id.to_numpy()
        mean = np.stack([read[labels == c].mean(0) * folded[:, c] for c in range(3)])
        np.testing.assert_allclose(rows.contribution, mean.ravel(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("eva02_tiny_patch14_224", {"depth": 2}, "'blocks.0.mlp.fc1' has 1024 units but its fc2 reads 512"),
        ("swin_tiny_patch4_window7_224", {}, "its first MLP is 'layers.0.blocks.0.mlp.fc1'"),
        ("vit_small_plus_patch16_dinov3", {"depth": 2}, "its first MLP is 'blocks.0.mlp.fc1_g'"),
        ("beit3_base_patch16_224", {"depth": 2}, "something stands between 'blocks.0.mlp.fc1'"),
    ],
)
def test_other_mlps_are_refused_with_the_layer_named(name: str, arguments: dict[str, Any], message: str) -> None:
    model = timm.create_model(name, **arguments).eval()
    with pytest.raises(ModelError, match=message):
        dissect(model, model.pretrained_cfg["input_size"][1:])


def test_class_count_and_image_size_come_from_the_weights(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("vit_tiny_patch16_224", tmp_path / "w.safetensors")
    assert loaded.preprocessing["input_size"] == [3, 64, 64]
    assert loaded.model.num_classes == 7
    assert all(
        (a == b).all() for a, b in zip(model.state_dict().values(), loaded.model.state_dict().values(), strict=True)
    )


def test_a_head_from_a_file(tmp_path: Path) -> None:
    name, arguments = "vit_small_patch14_reg4_dinov2", {"img_size": 56, "num_classes": 0}
    model = small_model(name, arguments)
    where = hub_folder(model, name, arguments, tmp_path / "model")
    rows = torch.randn(2, 24)
    save_file({"weight": rows}, tmp_path / "head.safetensors", {"classes": '["bee", "wasp"]'})
    images = str(pictures(tmp_path / "images"))
    request = Request(tmp_path / "a", where, images, head=tmp_path / "head.safetensors", device="cpu", workers=0)
    with Index(build(request, Quiet())) as index:
        features = index.arrays["features"][:].astype(np.float32)
        np.testing.assert_allclose(index.arrays["logits"][:], features @ rows.numpy().T, atol=2e-2)
        assert index.sql("SELECT class FROM classes ORDER BY class_id")["class"].tolist() == ["bee", "wasp"]
        assert index.sql("SELECT DISTINCT label FROM images WHERE class_id = 0").label.tolist() == ["bee"]
        assert index.sql("SELECT count(*) n FROM key_neurons WHERE contribution IS NOT NULL").n[0] == 2 * 96
    save_file({"weight": torch.randn(2, 23)}, tmp_path / "narrow.safetensors")
    with pytest.raises(ModelError, match=r"reads 23 features, the model gives 24"):
        build(Request(tmp_path / "b", where, images, head=tmp_path / "narrow.safetensors"), Quiet())


def test_a_model_without_a_head_and_both_layers(tmp_path: Path) -> None:
    name, arguments = "vit_small_patch14_reg4_dinov2", {"img_size": 56, "num_classes": 0}
    where = hub_folder(small_model(name, arguments), name, arguments, tmp_path / "model")
    images = str(pictures(tmp_path / "images"))
    request = Request(tmp_path / "a", where, images, layers=("fc1", "fc2"), device="cpu", workers=0)
    with Index(build(request, Quiet())) as index:
        kinds = index.sql("SELECT layer, kind, units FROM layers ORDER BY block, kind")
        assert kinds.kind.tolist() == ["hidden", "residual"] * 2
        assert kinds.units.tolist() == [96, 24] * 2
        assert index.sql("SELECT count(*) n FROM class_scores").n[0] == 0
        assert index.sql("SELECT count(*) n FROM class_activations WHERE auroc IS NOT NULL").n[0] == 2 * 120 * 3
        assert index.sql("SELECT class FROM classes ORDER BY class_id")["class"].tolist() == ["ant", "bee", "cat"]
