"""ViTs of transformers and torchvision, small and with random weights: the logits are those of their own library."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from shaken import pixels, saved, shaken
from torch import Tensor, nn
from torchvision.models import VisionTransformer, vit_b_16  # type: ignore[import-untyped]
from torchvision.models.vision_transformer import ViT_B_16_Weights  # type: ignore[import-untyped]
from vitdex.data.images.preprocess import Preprocess
from vitdex.data.models.load import load_model
from vitdex.data.models.probe import dissect
from vitdex.schemas.errors import ModelError

SHAPE: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip
NAMES = {0: "zebra", 1: "apple", 2: "mouse"}
CLASSES: dict[str, Any] = {"id2label": NAMES, "label2id": {name: row for row, name in NAMES.items()}}


def logits(model: Any, x: Tensor) -> Tensor:
    answer: Tensor = model(x).logits
    return answer


def class_token(model: Any, x: Tensor) -> Tensor:
    answer: Tensor = model(x).last_hidden_state[:, 0]
    return answer


def embeds(model: Any, x: Tensor) -> Tensor:
    answer: Tensor = model(x).image_embeds
    return answer


Answer = Callable[[Any, Tensor], Tensor]
Made = tuple[Any, Answer, str]  # a model or how it is made, what it answers, timm's name
ViT, DeiT, Beit = hf.ViTConfig, hf.DeiTConfig, hf.BeitConfig
Dino, Registers = hf.Dinov2Config, hf.Dinov2WithRegistersConfig
WIDE = {**SHAPE, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
CLIP = {**SHAPE, "projection_dim": 12}
MODELS: dict[str, Made] = {
    "ViT": (lambda: hf.ViTForImageClassification(ViT(**SHAPE, **CLASSES)), logits, "vit_base_patch16_224"),
    "ViT, tiny": (lambda: hf.ViTForImageClassification(ViT(**WIDE, **CLASSES)), logits, "vit_tiny_patch16_224"),
    "ViT, patch 8, no biases, tanh": (
        lambda: hf.ViTForImageClassification(
            ViT(**{**SHAPE, "patch_size": 8}, **CLASSES, qkv_bias=False, hidden_act="gelu_new")
        ),
        logits,
        "vit_base_patch8_224",
    ),
    "ViT, another epsilon": (
        lambda: hf.ViTForImageClassification(ViT(**SHAPE, **CLASSES, layer_norm_eps=0.1)),
        logits,
        "vit_base_patch16_224",
    ),
    "ViT without a head": (lambda: hf.ViTModel(ViT(**SHAPE)), class_token, "vit_base_patch16_224"),
    "DeiT": (lambda: hf.DeiTForImageClassification(DeiT(**SHAPE, **CLASSES)), logits, "deit_base_patch16_224"),
    "DeiT with its teacher": (
        lambda: hf.DeiTForImageClassificationWithTeacher(DeiT(**SHAPE, **CLASSES)),
        logits,
        "deit_base_distilled_patch16_224",
    ),
    "DeiT without a head": (lambda: hf.DeiTModel(DeiT(**SHAPE)), class_token, "deit_base_patch16_224"),
    "DINOv2": (lambda: hf.Dinov2Model(Dino(**SHAPE, mlp_ratio=3)), class_token, "vit_base_patch14_dinov2"),
    "DINOv2, small": (
        lambda: hf.Dinov2Model(Dino(**{**SHAPE, "hidden_size": 384, "patch_size": 14, "image_size": 42})),
        class_token,
        "vit_small_patch14_dinov2",
    ),
    "DINOv2, its classifier": (
        lambda: hf.Dinov2ForImageClassification(Dino(**SHAPE, **CLASSES)),
        lambda model, x: class_token(model.dinov2, x),
        "vit_base_patch14_dinov2",
    ),
    "DINOv2, SwiGLU": (
        lambda: hf.Dinov2Model(Dino(**SHAPE, use_swiglu_ffn=True)),
        class_token,
        "vit_giant_patch14_dinov2",
    ),
    "DINOv2 with registers": (
        lambda: hf.Dinov2WithRegistersModel(Registers(**SHAPE)),
        class_token,
        "vit_base_patch14_reg4_dinov2",
    ),
    "DINOv2 with 2 registers": (
        lambda: hf.Dinov2WithRegistersModel(Registers(**SHAPE, num_register_tokens=2)),
        class_token,
        "vit_base_patch14_reg4_dinov2",
    ),
    "BEiT": (
        lambda: hf.BeitForImageClassification(Beit(**SHAPE, **CLASSES, use_relative_position_bias=True)),
        logits,
        "beit_base_patch16_224",
    ),
    "BEiT, shared and absolute positions": (
        lambda: hf.BeitForImageClassification(
            Beit(**SHAPE, **CLASSES, use_shared_relative_position_bias=True, use_absolute_position_embeddings=True)
        ),
        logits,
        "beit_base_patch16_224",
    ),
    "BEiT, no gain, class token": (
        lambda: hf.BeitForImageClassification(
            Beit(
                **SHAPE, **CLASSES, layer_scale_init_value=0.0, use_mean_pooling=False, use_relative_position_bias=True
            )
        ),
        logits,
        "beit_base_patch16_224",
    ),
    "Data2Vec": (
        lambda: hf.Data2VecVisionForImageClassification(
            hf.Data2VecVisionConfig(**SHAPE, **CLASSES, use_relative_position_bias=True)
        ),
        logits,
        "beit_base_patch16_224",
    ),
    "CLIP": (
        lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**CLIP)),
        embeds,
        "vit_base_patch16_clip_224",
    ),
    "CLIP, GELU": (
        lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**CLIP, hidden_act="gelu")),
        embeds,
        "vit_base_patch16_clip_224",
    ),
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    hf.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    hf.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@pytest.fixture(params=list(MODELS.values()), ids=list(MODELS))
def made(request: pytest.FixtureRequest) -> Made:
    torch.manual_seed(0)
    make, answer, name = request.param
    return shaken(make()), answer, name


def same(found: nn.Module, expected: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(found(x), expected(x), rtol=1e-5, atol=1e-5)


def test_folders_of_transformers(made: Made, tmp_path: Path) -> None:
    model, answer, name = made
    model.save_pretrained(tmp_path)
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.name == name
    x = pixels(model.config.image_size)
    same(loaded.model, lambda x: answer(model, x), x)
    assert any("preprocessor_config.json" in note for note in loaded.notes)
    if answer is logits:
        assert loaded.class_names is not None
        assert loaded.class_names.names == ("zebra", "apple", "mouse")
    # what an index records is enough to load the file alone once more
    again = load_model(
        loaded.name, tmp_path / "model.safetensors", model_args=json.loads(json.dumps(loaded.model_args))
    )
    assert again.sha256 == loaded.sha256
    same(again.model, lambda x: answer(model, x), x)


def test_modules_of_this_version_s_own_names(made: Made, tmp_path: Path) -> None:
    """What transformers 5 calls its modules; a trainer that saves a state_dict writes those names."""
    model, answer, _ = made
    model.save_pretrained(tmp_path)
    recorded = load_model(f"local-dir:{tmp_path}")
    state = {f"net.{name}": value for name, value in model.state_dict().items()}
    loaded = load_model(recorded.name, saved(tmp_path / "own.safetensors", state), model_args=recorded.model_args)
    same(loaded.model, lambda x: answer(model, x), pixels(model.config.image_size))


def test_shards_of_transformers(tmp_path: Path) -> None:
    model = shaken(hf.ViTForImageClassification(ViT(**SHAPE, **CLASSES)))
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    same(load_model(f"local-dir:{tmp_path}").model, lambda x: logits(model, x), pixels())


def test_the_probe_run_proves_them(tmp_path: Path) -> None:
    model = shaken(hf.ViTForImageClassification(ViT(**SHAPE, **CLASSES)))
    model.save_pretrained(tmp_path)
    anatomy = dissect(load_model(f"local-dir:{tmp_path}").model, (32, 32))
    assert (len(anatomy.layers), anatomy.units, anatomy.readout.kind) == (2, 64, "token")


@pytest.mark.parametrize("size", [48, 64, 80])
@pytest.mark.parametrize("made", [MODELS["DINOv2"], MODELS["DINOv2 with registers"]], indirect=True, ids=["no", "yes"])
def test_positions_are_resized_as_transformers_does(made: Made, size: int, tmp_path: Path) -> None:
    """A processor that cuts images of another size than the model's, as DINOv2's does."""
    model, answer, _ = made
    model.save_pretrained(tmp_path)
    hf.BitImageProcessor(crop_size=size, size={"shortest_edge": size}).save_pretrained(tmp_path)
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.preprocessing["input_size"] == [3, size, size]
    assert loaded.notes == ()
    same(loaded.model, lambda x: answer(model, x), pixels(size))


PROCESSORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "squashed": (hf.ViTImageProcessor(size={"height": 48, "width": 48}), {"crop_mode": "squash", "crop_pct": 1.0}),
    "squashed, then cut": (
        hf.DeiTImageProcessor(size={"height": 60, "width": 60}, crop_size=48),
        {"crop_mode": "squash", "crop_pct": 0.8, "interpolation": "bicubic"},
    ),
    "shorter edge, then cut": (
        hf.BitImageProcessor(size={"shortest_edge": 56}, crop_size=48, resample=2),
        {"crop_mode": "center", "interpolation": "bilinear"},
    ),
    "not normalised": (
        hf.ViTImageProcessor(size={"height": 48, "width": 48}, do_normalize=False),
        {"mean": [0, 0, 0], "std": [1, 1, 1]},
    ),
}


@pytest.mark.parametrize(("processor", "settings"), PROCESSORS.values(), ids=PROCESSORS)
def test_processors(processor: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    """The same picture comes out, up to how the two libraries round a resized pixel."""
    shaken(hf.ViTForImageClassification(ViT(**{**SHAPE, "image_size": 48}))).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = load_model(f"local-dir:{tmp_path}").preprocessing
    assert {key: found[key] for key in settings} == settings  # type: ignore[literal-required]
    ramp = torch.linspace(0, 255, 90)[:, None, None].repeat(1, 70, 3)
    ramp[..., 1] = torch.linspace(255, 0, 70)
    image = Image.fromarray(ramp.byte().numpy())
    theirs = processor(image, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0)
    theirs = theirs * torch.tensor(found["std"]) + torch.tensor(found["mean"])
    ours = torch.from_numpy(Preprocess(found)(image)[0].copy()) / 255
    assert ours.shape == theirs.shape == (48, 48, 3)
    assert (ours - theirs).abs().max() < 3 / 255


@pytest.mark.parametrize("edge", [256, 354, 375, 400, 422])
def test_every_edge_is_met_when_timm_rounds(edge: int) -> None:
    from vitdex.data.models.configs import _processing

    raw = {
        "size": {"shortest_edge": edge},
        "crop_size": 224,
        "do_center_crop": True,
        "image_mean": [0] * 3,
        "image_std": [1] * 3,
    }
    assert int(224 / _processing(raw, {})["crop_pct"]) == edge


def test_a_processor_of_other_numbers_is_refused(tmp_path: Path) -> None:
    hf.ViTForImageClassification(ViT(**SHAPE)).save_pretrained(tmp_path)
    hf.ViTImageProcessor(rescale_factor=1 / 127.5).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"scales pixels by 0\.00784"):
        load_model(f"local-dir:{tmp_path}")


def test_an_architecture_that_timm_has_no_name_for(tmp_path: Path) -> None:
    """The folder's weights may fit a name all the same, and its processor and epsilon hold."""
    model = shaken(hf.ViTForImageClassification(ViT(**SHAPE, **CLASSES)))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "ours"}))
    hf.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is a 'ours' of transformers.*--model NAME --weights"):
        load_model(f"local-dir:{tmp_path}")
    args = {"embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 64.5 / 24, "norm_eps": 1e-12}
    loaded = load_model("vit_base_patch16_224", tmp_path, model_args=args)
    assert tuple(loaded.preprocessing["mean"]) == (0.1, 0.2, 0.3)
    same(loaded.model, lambda x: logits(model, x), pixels())


def test_a_file_of_transformers_alone_says_what_is_assumed(tmp_path: Path) -> None:
    model = shaken(hf.ViTForImageClassification(ViT(**SHAPE, **CLASSES)))
    file = saved(tmp_path / "w.safetensors", model.state_dict())
    loaded = load_model(
        "vit_base_patch16_224", file, model_args={"embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 64.5 / 24}
    )
    assert any("timm's settings of 'vit_base_patch16_224' are assumed" in note for note in loaded.notes)


TV: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 64, "patch_size": 16}


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("size", [32, 48, 240])
def test_torchvision(prefix: str, size: int, tmp_path: Path) -> None:
    model = shaken(VisionTransformer(image_size=size, num_classes=3, **TV))
    file = saved(tmp_path / "w.safetensors", {prefix + name: value for name, value in model.state_dict().items()})
    args = {"embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 64.5 / 24}
    loaded = load_model("vit_base_patch16_224", file, model_args=args)
    same(loaded.model, model, pixels(size))
    assert tuple(loaded.preprocessing["mean"]) == (0.485, 0.456, 0.406)
    assert any("torchvision's settings are assumed" in note for note in loaded.notes)
    assert loaded.preprocessing["interpolation"] == ("bicubic" if size > 224 else "bilinear")


def test_torchvision_s_own_settings() -> None:
    """What its V1 weights of 224 pixels are given with."""
    from vitdex.data.models.fit import _of_torchvision

    theirs = ViT_B_16_Weights.IMAGENET1K_V1.transforms()
    settings, _ = _of_torchvision(None)
    assert [settings["mean"], settings["std"]] == [tuple(theirs.mean), tuple(theirs.std)]
    assert theirs.crop_size[0] / theirs.resize_size[0] == settings["crop_pct"]
    assert theirs.interpolation.value == settings["interpolation"]


def test_a_whole_vit_b_16_by_its_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = shaken(vit_b_16(num_classes=3))
    loaded = load_model("vit_base_patch16_224", saved(tmp_path / "w.safetensors", model.state_dict()))
    # in float64: twelve blocks of that width differ by 2e-5 in float32 where two ways of adding do
    same(loaded.model.double(), model.double(), pixels(224)[:1].double())
