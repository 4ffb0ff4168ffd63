"""Models of the Hugging Face hub, from a cache that is made here: no network is asked."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from shaken import pixels, shaken
from torch import nn
from vitdex.data.models.load import load_model
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request
from vitdex.query.commands.main import cli
from vitdex.query.index import Index
from vitdex.query.model.live_model import open_model
from vitdex.schemas.errors import ModelError

NAME, REPO = "vit_tiny_patch16_224", "nobody/my-vit"
ARGS = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32}
SETTINGS = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "label_names": ["ant", "bee"]}


def net(classes: int = 2) -> nn.Module:
    made: nn.Module = shaken(timm.create_model(NAME, num_classes=classes, **ARGS))
    return made


def put(cache: Path, model: nn.Module | None, repo: str = REPO, **settings: Any) -> Path:
    """A repository as the hub's client keeps it; without a model, its config alone."""
    root = cache / f"models--{repo.replace('/', '--')}"
    folder = root / "snapshots" / ("0123456789" * 4)
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(folder.name)
    config = {"architecture": NAME, "num_classes": 2, "model_args": ARGS, "pretrained_cfg": {**SETTINGS, **settings}}
    (folder / "config.json").write_text(json.dumps(config))
    if model is not None:
        save_file(model.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("prefix", ["hf-hub:", "hf_hub:"])
def test_a_model_of_the_hub_keeps_its_name_and_brings_its_settings(cache: Path, prefix: str) -> None:
    model = net()
    put(cache, model)
    loaded = load_model(f"{prefix}{REPO}")
    assert loaded.name == f"hf-hub:{REPO}"
    assert (loaded.preprocessing["mean"], loaded.preprocessing["std"]) == (SETTINGS["mean"], SETTINGS["std"])
    assert loaded.class_names is not None
    assert loaded.class_names.names == ("ant", "bee")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(pixels()), model(pixels()))


@pytest.mark.parametrize(("tag", "known"), [("augreg_in1k", True), ("mine", False)])
def test_a_head_of_1000_rows_is_imagenets_where_the_tag_says_so(cache: Path, tag: str, known: bool) -> None:
    """The hub alone says nothing: anybody's model lies there."""
    put(cache, net(1000), label_names=None, tag=tag)
    names = load_model(f"hf-hub:{REPO}").class_names
    assert (names is not None and "tench" in names.names[0]) == known


def test_an_index_finds_its_model_again(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache; and where that is gone, by weights without any config."""
    folder = put(cache, net())
    (tmp_path / "images" / "ant").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (40, 40), (60 * i, 90, 200 - 50 * i)).save(tmp_path / "images" / "ant" / f"{i}.png")
    ask = Request(tmp_path / "out", f"hf-hub:{REPO}", str(tmp_path / "images"), device="cpu", workers=0)
    with Index(build(ask, Quiet())) as index:
        assert (index.spec.model, index.spec.model_args["architecture"]) == (f"hf-hub:{REPO}", NAME)
        stored = index.map("blocks.1.mlp.fc1", 3, 1)
        found = open_model(index, device="cpu").maps("blocks.1.mlp.fc1", [3], [1])[0, 0]
        assert abs(found - stored).max() < 0.02 * abs(found).max()
        (folder / "model.safetensors").rename(tmp_path / "kept.safetensors")
        (folder / "config.json").unlink()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # a stranger's index does not choose what is fetched
        monkeypatch.setattr(socket.socket, "connect", lambda *to: pytest.fail(f"asked the network: {to[1:]}"))
        with pytest.raises(ModelError, match=r"names 'nobody/my-vit' .* not in this machine's cache\. If you trust it"):
            open_model(index, device="cpu")
        again = open_model(index, tmp_path / "kept.safetensors", "cpu").maps("blocks.1.mlp.fc1", [3], [1])[0, 0]
        assert (again == found).all()


def test_what_is_not_there_is_told_in_one_line(cache: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    words = ["index", str(tmp_path / "out"), "--images", str(tmp_path), "--model"]
    run = CliRunner().invoke(cli, [*words, "hf-hub:nobody/nothing"])
    assert "is not in its cache" in str(run.exception) + run.output
    with pytest.raises(ModelError, match=r"no 'a/b/c' on the Hugging Face hub: HFValidationError\. Check ORG/NAME"):
        load_model("hf-hub:a/b/c")
    put(cache, None)
    with pytest.raises(ModelError, match=r"no safetensors of 'nobody/my-vit'\. Pickled checkpoints can run code"):
        load_model(f"hf-hub:{REPO}")
    save_file(net().state_dict(), tmp_path / "own.safetensors")  # the config is there: other weights will do
    assert load_model(f"hf-hub:{REPO}", tmp_path / "own.safetensors").name == f"hf-hub:{REPO}"
