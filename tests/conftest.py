"""One index of the packaged sample, and an independent reading of the same model by plain forward hooks."""

from __future__ import annotations

import os
import shutil

if not shutil.which("nvidia-smi"):  # then kernels for CUDA are interpreted: to be said before torch brings Triton
    os.environ["TRITON_INTERPRET"] = "1"

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import timm
import torch
from bucket import make_bucket, s3_server
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query.causal.effects_run import measure_effects
from vitdex.query.dissect.masks import open_masks
from vitdex.query.index import Index
from vitdex.query.stored.stored_index import StoredIndex


def hear_ctrl_c() -> None:
    """In a child process, before it runs: what a shell starts in its background ignores SIGINT, and Python with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


SAMPLE = Path(str(files("vitdex.data").joinpath("sample")))


def vitdex(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "from vitdex.query.commands.main import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="session", autouse=True)
def configs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where tests have the user's config and cache, instead of the home of whoever runs them."""
    folder = tmp_path_factory.mktemp("configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "session"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(autouse=True)
def own_config(configs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of every test's own, which none has written before."""
    folder = configs / uuid4().hex
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def sample_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole sample, in parts small enough that there are several."""
    out = tmp_path_factory.mktemp("sample") / "sample.vitdex"
    return build(sample_request(out, part_images=100, device="cpu"), Quiet())


@pytest.fixture(scope="session")
def effects_path(sample_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with effects of all images, parts by masks among them."""
    copy = tmp_path_factory.mktemp("effects") / "sample.vitdex"
    shutil.copytree(sample_path, copy)
    with StoredIndex(copy) as index:
        measure_effects(index, masks=open_masks(index))
    return copy


@pytest.fixture
def sample(sample_path: Path) -> Iterator[Index]:
    with Index(sample_path) as index:
        yield index


@dataclass
class Reference:
    """fc1 outputs [image, token, neuron] of every layer, CLS first, and logits: float32, straight from timm."""

    model: torch.nn.Module
    paths: list[str]
    fc1: dict[str, NDArray[np.float32]]
    logits: NDArray[np.float32]


@pytest.fixture(scope="session")
def reference() -> Reference:
    model = timm.create_model(f"local-dir:{SAMPLE / 'model'}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    paths = sorted(p.relative_to(SAMPLE / "images").as_posix() for p in (SAMPLE / "images").rglob("*.jpg"))
    kept: dict[str, list[torch.Tensor]] = {f"blocks.{i}.mlp.fc1": [] for i in range(len(model.blocks))}
    for name, outputs in kept.items():
        model.get_submodule(name).register_forward_hook(lambda m, a, out, outputs=outputs: outputs.append(out))
    logits = []
    with torch.inference_mode():
        for first in range(0, len(paths), 40):
            opened = [Image.open(SAMPLE / "images" / p).convert("RGB") for p in paths[first : first + 40]]
            logits.append(model(torch.stack([transform(image) for image in opened])))
    fc1 = {name: torch.cat(outputs).numpy() for name, outputs in kept.items()}
    return Reference(model, paths, fc1, torch.cat(logits).numpy())


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """What is in the environment of who may use the server of buckets."""
    with s3_server() as access:
        yield access


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new bucket, to which this process has the rights."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return make_bucket(f"bucket-{uuid4().hex[:8]}")


@pytest.fixture
def state_with_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics saved with every part, not once a minute: a small run that is stopped has something to go on from."""
    monkeypatch.setattr("vitdex.indexer.run.part_runner.STATE_SECONDS", 0)
