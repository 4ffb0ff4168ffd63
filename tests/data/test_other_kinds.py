"""Models of other kinds than a plain ViT, by a file of weights that timm made: read, or refused for the true reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from shaken import pixels, saved, shaken
from vitdex.data.models.create import classifier_of, outline_of
from vitdex.data.models.families import in_channels
from vitdex.data.models.load import load_model
from vitdex.data.models.probe import dissect
from vitdex.schemas.errors import ModelError

HYBRID = "vit_tiny_r_s16_p8_224"
SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
STAGES: dict[str, Any] = {"depths": (1, 1), "num_heads": (1, 2), "embed_dim": 12}


def file_of(folder: Path, name: str, **args: Any) -> tuple[Any, Path]:
    net = shaken(timm.create_model(name, num_classes=3, **args))
    return net, saved(folder / f"{name}.safetensors", net.state_dict())


def test_a_hybrid_reads_what_its_backbone_reads(tmp_path: Path) -> None:
    """Its patches are made of a backbone's many channels; the image has three all the same."""
    net, file = file_of(tmp_path, HYBRID, img_size=64, **SMALL)
    loaded = load_model(HYBRID, file, (64, 64), model_args=SMALL)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels(64)), net(pixels(64)), rtol=1e-5, atol=1e-5)
    anatomy = dissect(loaded.model, (64, 64))
    assert (anatomy.readout.kind, len(anatomy.layers), len(anatomy.attention)) == ("token", 2, 2)


def test_a_hybrid_with_weights_asks_no_hub_for_its_backbone_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm would: the backbones of these are models that have weights on the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    name = "vit_small_resnet26d_224"
    net, file = file_of(tmp_path, name, img_size=64, **SMALL)
    loaded = load_model(name, file, (64, 64), model_args=SMALL)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels(64)), net(pixels(64)), rtol=1e-5, atol=1e-5)
    other = saved(tmp_path / "other.safetensors", {**net.state_dict(), "decoder.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"do not fit 'vit_small_resnet26d_224': not known 'decoder\.weight'\. Give"):
        load_model(name, other, (64, 64), model_args=SMALL)


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", "head"),
        ("deit_tiny_distilled_patch16_224", "head"),
        ("swin_tiny_patch4_window7_224", "head.fc"),
        ("registered_by_a_user_without_a_config", "head"),
    ],
)
def test_the_head_under_timm_s_name_of_it(name: str, classifier: str) -> None:
    assert classifier_of(name) == classifier


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    "name", ["vit_small_r26_s32_224", "vit_small_resnet26d_224", "vit_base_mci_224", "volo_d1_224"]
)
def test_the_channels_of_every_stem_are_those_of_the_image(name: str, channels: int) -> None:
    assert in_channels(outline_of(name, {"in_chans": channels}, 3)) == channels


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", HYBRID])
def test_models_of_other_images_than_rgb_are_refused(name: str, tmp_path: Path) -> None:
    _, file = file_of(tmp_path, name, img_size=64, in_chans=4, **SMALL)
    with pytest.raises(ModelError, match=rf"^{name} reads 4 channels\. vitdex indexes models of RGB images"):
        load_model(name, file, (64, 64), model_args={**SMALL, "in_chans": 4})


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("swin_tiny_patch4_window7_224", STAGES, "its first MLP is 'layers.0.blocks.0.mlp.fc1'"),
        ("swinv2_tiny_window8_256", STAGES, "its first MLP is 'layers.0.blocks.0.mlp.fc1'"),
        (
            "hiera_tiny_224",
            {"embed_dim": 12, "stages": (1, 1, 1, 1)},
            "'blocks.1.mlp.fc1' gives [1, 784, 96], not [image, 3136 tokens, 48 units]",
        ),
        (
            "levit_128s",
            {"embed_dim": (16, 32, 48), "depth": (1, 1, 1)},
            "LevitDistilled has no plain 'blocks.N.mlp.fc1'",
        ),
        (
            "convnext_atto",
            {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)},
            "its first MLP is 'stages.0.blocks.0.mlp.fc1'",
        ),
        ("resnet18", {}, "ResNet has no plain 'blocks.N.mlp.fc1'"),
    ],
)
def test_the_reason_is_the_layer_not_the_weights(name: str, args: dict[str, Any], words: str, tmp_path: Path) -> None:
    """The file is of exactly this model, head and all: that it does not fit would be false."""
    _, file = file_of(tmp_path, name, **args)
    loaded = load_model(name, file, model_args=args)
    assert loaded.model.num_classes == 3
    _, high, wide = loaded.preprocessing["input_size"]
    with pytest.raises(ModelError, match=re.escape(words)) as refusal:
        dissect(loaded.model, (high, wide))
    assert "\n" not in str(refusal.value)
