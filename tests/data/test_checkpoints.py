"""Weights as they lie about: wrapped, sharded, of timm's own making, of fine-tunes, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from shaken import pixels, saved, shaken
from timm.models import save_for_hf
from torch import Tensor, nn
from vitdex.data.models.checkpoints import open_checkpoint
from vitdex.data.models.head import read_head
from vitdex.data.models.load import Loaded, load_model
from vitdex.schemas.errors import ModelError

SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
VIT = "vit_tiny_patch16_224"


def small(name: str = VIT, classes: int = 3, size: int = 32, **more: Any) -> Any:
    return shaken(timm.create_model(name, num_classes=classes, img_size=size, **SMALL, **more))


def load(name: str, weights: Path | None = None, **more: Any) -> Loaded:
    return load_model(name, weights, model_args={**SMALL, **more})


def same(loaded: Loaded, source: nn.Module, x: Tensor | None = None) -> None:
    """Both give the same numbers."""
    x = pixels() if x is None else x
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(x), source(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.module.",
        "model.",
        "model.module.",
        "net.backbone.",
    ],
)
@pytest.mark.parametrize(("classes", "size"), [(3, 32), (0, 48)])
def test_prefixes(prefix: str, classes: int, size: int, tmp_path: Path) -> None:
    net = small(classes=classes, size=size)
    file = saved(tmp_path / "w.safetensors", {prefix + name: value for name, value in net.state_dict().items()})
    loaded = load(VIT, file)
    assert loaded.preprocessing["input_size"] == [3, size, size]
    assert loaded.model.num_classes == classes
    assert loaded.notes == ()
    same(loaded, net, pixels(size))


def test_wrappers_inside_a_model_go_too(tmp_path: Path) -> None:
    net = small()
    names = {name: name.replace(".mlp.", ".mlp._orig_mod.") for name in net.state_dict()}
    file = saved(tmp_path / "w.safetensors", {names[name]: value for name, value in net.state_dict().items()})
    same(load(VIT, file), net)


def test_what_lies_beside_a_wrapped_model_is_named(tmp_path: Path) -> None:
    net = small()
    state = {f"model.{name}": value for name, value in net.state_dict().items()}
    file = saved(tmp_path / "w.safetensors", {**state, "criterion.weight": torch.zeros(3)})
    loaded = load(VIT, file)
    assert loaded.notes == ("the weights hold more than the model at 'model.': 'criterion.weight' left out",)
    same(loaded, net)


def test_a_counter_of_averaged_models_is_no_weight(tmp_path: Path) -> None:
    net = small()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    same(load(VIT, saved(tmp_path / "w.safetensors", {**state, "n_averaged": torch.tensor(5)})), net)


def test_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    two = {f"{who}.{name}": value for who in ("teacher", "student") for name, value in state.items()}
    with pytest.raises(ModelError, match=r"several models: 'student\.', 'teacher\.'\. Save the one"):
        load(VIT, saved(tmp_path / "w.safetensors", two))
    twice = {**state, **{f"module.{name}": value for name, value in state.items()}}
    with pytest.raises(ModelError, match=r"a model twice"):
        load(VIT, saved(tmp_path / "twice.safetensors", twice))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        (VIT, {}),
        (VIT, {"global_pool": "avg"}),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}),
        ("beit_base_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
    ],
)
def test_folders_of_timm_s_own_making(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    net = small(name, **args)
    save_for_hf(
        net, str(tmp_path), model_args={**SMALL, "num_classes": 3, "img_size": 32, **args}, safe_serialization=True
    )
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.name == name
    assert "num_classes" not in loaded.model_args
    assert loaded.preprocessing["input_size"] == [3, 32, 32]
    assert tuple(loaded.preprocessing["mean"]) == tuple(net.pretrained_cfg["mean"])
    same(loaded, net)
    again = load_model(loaded.name, tmp_path / "model.safetensors", model_args=loaded.model_args)
    assert again.sha256 == loaded.sha256
    same(again, net)


SETTINGS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32], "crop_pct": 0.8,
            "crop_mode": "squash", "interpolation": "bilinear"}  # fmt: skip
NAMES = ["zebra", "apple", "mouse"]


@pytest.mark.parametrize(
    "config",
    [
        {**SETTINGS, "num_classes": 3, "labels": NAMES},  # before timm 0.9
        {**SETTINGS, "num_classes": 3, "label_names": NAMES, "fixed_input_size": True},
        {"num_classes": 3, "label_names": NAMES, "model_args": SMALL, "pretrained_cfg": SETTINGS},
        {
            "model_args": {**SMALL, "num_classes": 3},
            "pretrained_cfg": {**SETTINGS, "label_names": NAMES, "num_classes": 3},
        },
        {"num_classes": 3, "id2label": dict(enumerate(NAMES)), "pretrained_cfg": {**SETTINGS, "of tomorrow": 1}},
    ],
)
def test_configs_old_and_new(config: dict[str, Any], tmp_path: Path) -> None:
    net = small()
    saved(tmp_path / "model.safetensors", net.state_dict())
    (tmp_path / "config.json").write_text(json.dumps({"architecture": VIT, **config}))
    loaded = load(f"local-dir:{tmp_path}")
    assert {key: value for key, value in loaded.preprocessing.items() if key in SETTINGS} == SETTINGS
    assert loaded.class_names is not None
    assert loaded.class_names.names == tuple(NAMES)
    assert loaded.notes == ()
    same(loaded, net)


def test_a_config_without_mean_takes_timm_s_defaults_and_says_so(tmp_path: Path) -> None:
    saved(tmp_path / "model.safetensors", small().state_dict())
    (tmp_path / "config.json").write_text(json.dumps({"architecture": VIT, "model_args": SMALL, "pretrained_cfg": {}}))
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.notes == ("config.json gives no mean and std: timm's defaults are taken",)
    timms = timm.create_model(f"local-dir:{tmp_path}", pretrained=False)
    assert tuple(loaded.preprocessing["mean"]) == timm.data.resolve_model_data_config(timms)["mean"]


def test_a_folder_whose_images_are_not_square(tmp_path: Path) -> None:
    net = shaken(timm.create_model(VIT, num_classes=3, img_size=(32, 64), **SMALL))
    saved(tmp_path / "model.safetensors", net.state_dict())
    config = {"architecture": VIT, "model_args": SMALL, "pretrained_cfg": {**SETTINGS, "input_size": [3, 32, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model(f"local-dir:{tmp_path}")
    assert loaded.preprocessing["input_size"] == [3, 32, 64]
    same(loaded, net, pixels(32, 64))
    same(load_model(VIT, tmp_path / "model.safetensors", model_args=loaded.model_args), net, pixels(32, 64))


def shards(folder: Path, state: dict[str, Tensor], parts: int = 3) -> Path:
    names = sorted(state)
    where = {name: f"model-{1 + i % parts:05}-of-{parts:05}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        saved(folder / file, {name: state[name] for name in names if where[name] == file})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_shards(prefix: str, tmp_path: Path) -> None:
    net = small()
    index = shards(tmp_path, {prefix + name: value for name, value in net.state_dict().items()})
    same(load(VIT, index), net)
    same(load(VIT, tmp_path), net)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights at .*00002-of"):
        load(VIT, index)


@pytest.mark.parametrize("text", ["{}", "[]", "no", '{"weight_map": {}}', '{"weight_map": {"a": "../a.safetensors"}}'])
def test_an_index_that_names_no_files_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"names no files of tensors"):
        open_checkpoint(tmp_path)


def test_which_file_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights in .*model\.safetensors"):
        open_checkpoint(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no safetensors file but 'pytorch_model\.bin'\. Pickled"):
        open_checkpoint(tmp_path)
    saved(tmp_path / "last.safetensors", {"a": torch.zeros(1)})
    assert open_checkpoint(tmp_path).files == (tmp_path / "last.safetensors",)
    saved(tmp_path / "best.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"'best\.safetensors', 'last\.safetensors'\. Give one"):
        open_checkpoint(tmp_path)
    saved(tmp_path / "model.safetensors", {"b": torch.zeros(1)})
    assert set(open_checkpoint(tmp_path).shapes) == {"b"}


@pytest.mark.parametrize("name", [VIT, "vit_small_patch14_dinov2", "eva02_tiny_patch14_224"])
def test_fine_tunes_that_average_the_patches(name: str, tmp_path: Path) -> None:
    net = small(name, size=56 if "14" in name else 32, global_pool="avg")
    assert "fc_norm.weight" in net.state_dict()
    loaded = load(name, saved(tmp_path / "w.safetensors", net.state_dict()))
    same(loaded, net, pixels(56 if "14" in name else 32))


@pytest.mark.parametrize("size", [28, 42, 70])
@pytest.mark.parametrize("classes", [0, 3])
def test_meta_s_dinov2_with_registers(size: int, classes: int, tmp_path: Path) -> None:
    """Its positions begin with the class token's, which timm adds to the token itself."""
    name = "vit_small_patch14_reg4_dinov2"
    net = small(name, classes, size)
    state = net.state_dict()
    state["register_tokens"], token = state.pop("reg_token"), state.pop("cls_token")
    state["cls_token"], state["mask_token"] = token * 0.25, torch.zeros(1, 24)
    state["pos_embed"] = torch.cat([token * 0.75, state["pos_embed"]], 1)
    loaded = load(name, saved(tmp_path / "w.safetensors", state))
    assert loaded.preprocessing["input_size"] == [3, size, size]
    same(loaded, net, pixels(size))


CLIP = [("blocks.", "transformer.resblocks."), ("norm_pre", "ln_pre"), ("norm1", "ln_1"), ("norm2", "ln_2"),
        ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("attn.qkv.", "attn.in_proj_"),
        ("attn.proj", "attn.out_proj"), ("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"),
        ("cls_token", "class_embedding")]  # fmt: skip


@pytest.mark.parametrize("prefix", ["visual.", "module.visual.", "model.visual.", ""])
def test_clip_s_own_names(prefix: str, tmp_path: Path) -> None:
    name = "vit_base_patch16_clip_224"
    net = small(name, classes=12)
    state: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        new = key
        for ours, theirs in CLIP:
            new = new.replace(ours, theirs)
        if key in ("pos_embed", "cls_token"):
            value = value.squeeze()
        if key.startswith("norm."):
            new = key.replace("norm.", "ln_post.")
        if key == "head.weight":
            new, value = "proj", value.T
        if key != "head.bias":
            state[prefix + new] = value
    with torch.no_grad():
        net.head.bias.zero_()
    if prefix:
        state["transformer.resblocks.0.ln_1.weight"] = torch.zeros(8)  # of the text model
    loaded = load(name, saved(tmp_path / "w.safetensors", state))
    assert loaded.model.num_classes == 12
    assert loaded.notes == ()
    same(loaded, net)


def test_positions_of_another_size_are_resized_as_timm_does(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", small(size=48).state_dict())
    settings = {"file": str(file), "num_classes": 3, "custom_load": False}
    for size in (32, 64, 80):
        timms = timm.create_model(
            VIT, pretrained=True, pretrained_cfg_overlay=settings, num_classes=3, img_size=size, **SMALL
        )
        same(load_model(VIT, file, (size, size), SMALL), timms.eval(), pixels(size))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"blocks.1.mlp.fc2.bias": None, "norm.bias": None},
            r"missing 'blocks\.1\.mlp\.fc2\.bias', 'norm\.bias'\. Give",
        ),
        ({"decoder.weight": torch.zeros(2)}, r"not known 'decoder\.weight'"),
        (
            {"norm.weight": torch.zeros(7), "norm.bias": torch.zeros(7)},
            r"'norm\.weight' is \[7\] and should be \[24\] and 1",
        ),
    ],
)
def test_the_first_tensors_that_differ_are_named(change: dict[str, Tensor | None], words: str, tmp_path: Path) -> None:
    state = {**small().state_dict(), **change}
    file = saved(tmp_path / "w.safetensors", {name: value for name, value in state.items() if value is not None})
    with pytest.raises(ModelError, match=words) as refusal:
        load(VIT, file)
    assert "\n" not in str(refusal.value)


def test_weights_of_another_kind_of_model(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", {"stem.weight": torch.zeros(3), "stages.0.gamma": torch.zeros(3)})
    with pytest.raises(ModelError, match=r"missing 'cls_token', .* more; not known 'stages\.0\.gamma', 'stem\.weight'"):
        load(VIT, file)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    for name in ("model.pth", "pytorch_model.bin", "model.safetensors"):
        torch.save({"head.weight": Trap()}, tmp_path / name)
        with pytest.raises(ModelError, match=r"not a safetensors file\. Pickled"):
            load(VIT, tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["blocks.1.mlp.fc1.weight", "head.weight", "pos_embed", "norm.bias"])
def test_weights_that_are_not_finite_are_named(name: str, value: float, tmp_path: Path) -> None:
    state = small().state_dict()
    state[name].view(-1)[3] = value
    with pytest.raises(
        ModelError, match=rf"^some weights of {VIT} are not finite \(NaN or Inf\): '{name}'\. The training"
    ):
        load(VIT, saved(tmp_path / "w.safetensors", state))


def test_a_run_that_diverged_is_told_by_its_first_tensors(tmp_path: Path) -> None:
    state = {name: torch.full_like(value, torch.nan) for name, value in small().state_dict().items()}
    with pytest.raises(
        ModelError, match=r"all weights .* 'cls_token', 'pos_embed', 'patch_embed\.proj\.weight' and 2\d more"
    ):
        load(VIT, saved(tmp_path / "w.safetensors", state))


def test_values_that_overflowed_when_they_were_saved_are_found(tmp_path: Path) -> None:
    state = {name: (value * 1e6).half() for name, value in small().state_dict().items()}
    with pytest.raises(ModelError, match=r"not finite"):
        load(VIT, saved(tmp_path / "w.safetensors", state))


@pytest.mark.parametrize("what", ["weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_refused(what: str, value: float, tmp_path: Path) -> None:
    head = {"weight": torch.zeros(3, 24), "bias": torch.zeros(3)}
    head[what].view(-1)[1] = value
    with pytest.raises(ModelError, match=rf"some weights of the head in h\.safetensors are not finite .*'{what}'"):
        read_head(saved(tmp_path / "h.safetensors", head))
