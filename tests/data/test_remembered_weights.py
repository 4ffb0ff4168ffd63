"""A user's own weights are found again by their hash, and nothing else is ever taken for them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import SAMPLE
from safetensors.torch import load_file, save_file
from vitdex.data.models.remembered_weights import remember_weights, remembered_weights
from vitdex.data.packaged import IMAGES, MODEL
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request
from vitdex.query import open_model
from vitdex.query.commands.main import cli
from vitdex.query.index import Index
from vitdex.schemas.errors import ModelError
from vitdex.schemas.user_folders import user_folder

LAYER, SHA = "blocks.1.mlp.fc1", "a" * 64


def own_model(folder: Path, seed: int) -> Path:
    """The sample's architecture with weights of its own, in a folder as `local-dir:` reads it."""
    shutil.copytree(SAMPLE / "model", folder)
    draw, file = torch.Generator().manual_seed(seed), next(folder.glob("*.safetensors"))
    state = {name: one + 0.01 * torch.randn(one.shape, generator=draw) for name, one in load_file(file).items()}
    save_file(state, file, {"format": "pt"})
    return folder


def index_of(out: Path, model: str, weights: Path | None = None) -> Path:
    return build(Request(out, model, str(IMAGES), weights, limit=3, maps="none", device="cpu", workers=0), Quiet())


def direct_map(folder: Path, index: Index) -> np.ndarray:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    found: list[torch.Tensor] = []
    model.get_submodule(LAYER).register_forward_hook(lambda m, a, out: found.append(out))
    mean, std = (torch.tensor(index.spec.preprocessing[k])[:, None, None] for k in ("mean", "std"))
    pixels = torch.from_numpy(index.inputs([0])).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        model((pixels - mean) / std)
    return found[0][0, 1:, 7].reshape(8, 8).numpy()


def test_the_weights_of_an_index_are_found_again(tmp_path: Path) -> None:
    folder = own_model(tmp_path / "mine", 1)
    out = index_of(tmp_path / "mine.vitdex", f"local-dir:{folder}")
    with Index(out) as index:
        assert remembered_weights(index.spec.weights_sha256) == folder
        found = open_model(index, device="cpu").maps(LAYER, [7], [0])[0, 0]
        np.testing.assert_allclose(found, direct_map(folder, index), atol=1e-4)
    words = ["heatmap", str(out), "--neuron", f"{LAYER}:7", "--image", "0", "--view", "neuron-gradient"]
    asked = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "h.png")], catch_exceptions=False)
    assert asked.exit_code == 0


def test_weights_given_once_are_found_again(tmp_path: Path, own_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_model(tmp_path / "mine", 2)
    file = next(folder.glob("*.safetensors"))
    architecture = json.loads((folder / "config.json").read_text())["architecture"]
    out = index_of(tmp_path / "mine.vitdex", f"local-dir:{folder}")
    shutil.rmtree(own_config)
    with Index(out) as index:
        sha = index.spec.weights_sha256
        with pytest.raises(ModelError, match=rf"weights of {architecture} are not those .* Give --weights FILE"):
            open_model(index, device="cpu")
        wrong = next(own_model(tmp_path / "other", 3).glob("*.safetensors"))
        with pytest.raises(ModelError, match="are not those"):
            open_model(index, wrong, "cpu")
        assert remembered_weights(sha) is None  # what was not proved is not remembered
        monkeypatch.chdir(folder)
        open_model(index, file.name, "cpu")
        monkeypatch.chdir(tmp_path)
        assert remembered_weights(sha) == file  # whole, wherever the next question is asked
        open_model(index, device="cpu")


def test_weights_that_are_gone_or_others_are_named(tmp_path: Path) -> None:
    folder = own_model(tmp_path / "mine", 4)
    out = index_of(tmp_path / "mine.vitdex", f"local-dir:{folder}")
    with Index(out) as index:
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(ModelError) as gone:
            open_model(index, device="cpu")
        said = f"{folder}, where the weights lay that {out} was made with, is not there any more. Give --weights FILE"
        assert str(gone.value).startswith(said)
        own_model(folder, 5)
        with pytest.raises(ModelError, match=r"mine, where .*, holds others now. Give --weights FILE"):
            open_model(index, device="cpu")
        open_model(index, tmp_path / "elsewhere", "cpu")
        assert remembered_weights(index.spec.weights_sha256) == tmp_path / "elsewhere"
        open_model(index, device="cpu")


def test_what_is_packaged_needs_no_memory(own_config: Path, tmp_path: Path) -> None:
    out = index_of(tmp_path / "sample.vitdex", f"local-dir:{MODEL}")
    assert not own_config.exists()
    with Index(out) as index:
        remember_weights(index.spec.weights_sha256, tmp_path / "gone")
        open_model(index, device="cpu")


@pytest.mark.parametrize(
    "content", [b"", b"no JSON", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"%s": 1}' % SHA.encode(),
                b'{"%s": "../mine"}' % SHA.encode(), b'{"%s": "/a\\u0000b"}' % SHA.encode()]
)  # fmt: skip
def test_a_damaged_config_says_nothing_and_is_mended(content: bytes, tmp_path: Path) -> None:
    file = user_folder("config") / "weights.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    assert remembered_weights(SHA) is None
    remember_weights(SHA, tmp_path)
    assert remembered_weights(SHA) == tmp_path


def test_many_remember_at_once(tmp_path: Path) -> None:
    places = {f"{i:064}": tmp_path / str(i) for i in range(24)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remember_weights, places, places.values()))
    assert {sha: remembered_weights(sha) for sha in places} == places
    assert [p.name for p in user_folder("config").iterdir() if p.suffix == ".json"] == ["weights.json"]


def test_where_nothing_can_be_written_nothing_is_remembered(
    own_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_config.write_text("a file where the folder would be")
    remember_weights(SHA, tmp_path)
    assert remembered_weights(SHA) is None

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("APPDATA", raising=False)
    remember_weights(SHA, tmp_path)
    assert remembered_weights(SHA) is None


@pytest.mark.parametrize(
    ("kind", "linux", "macos", "windows"),
    [
        ("config", ".config/vitdex", "Library/Application Support/vitdex", ("APPDATA", "Roaming/vitdex")),
        ("cache", ".cache/vitdex", "Library/Caches/vitdex", ("LOCALAPPDATA", "Local/vitdex/Cache")),
    ],
)
def test_the_folder_is_the_systems_own(
    kind: Literal["config", "cache"],
    linux: str,
    macos: str,
    windows: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    variable = f"XDG_{kind.upper()}_HOME"
    assert user_folder(kind) == Path(os.environ[variable]) / "vitdex"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv(variable, "not/absolute")
    for system, folder in (("linux", linux), ("darwin", macos)):
        monkeypatch.setattr(sys, "platform", system)
        assert user_folder(kind) == tmp_path / folder
    monkeypatch.setattr(sys, "platform", "win32")
    given, folder = windows
    monkeypatch.setenv(given, str(tmp_path / Path(folder).parts[0]))
    assert user_folder(kind) == tmp_path / folder
    monkeypatch.delenv(given)
    assert user_folder(kind) == tmp_path / "AppData" / folder
