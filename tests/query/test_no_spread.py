"""An index of one image, of images alike, of one class: what cannot be told is left out, in one line."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from vitdex import query
from vitdex.indexer.from_python import build_index
from vitdex.query.commands.main import cli
from vitdex.query.dissect.sum_search import Measure
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

KINDS = {"one image, one class": (1, 1), "one image, two classes": (1, 2), "images alike": (4, 3)}  # images, classes


@pytest.fixture(scope="module", params=KINDS)
def index_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, classes = KINDS[request.param]
    folder = tmp_path_factory.mktemp("few")
    (folder / "images" / "a").mkdir(parents=True)
    for number in range(images):
        Image.linear_gradient("L").convert("RGB").save(folder / "images" / "a" / f"{number}.png")
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=classes).state_dict(), folder / "weights.safetensors")
    out = folder / "few.vitdex"
    return build_index(
        out, model="test_vit", images=folder / "images", weights=folder / "weights.safetensors", device="cpu", workers=0
    )


@pytest.mark.parametrize("what", [["--neuron", "blocks.2.mlp.fc1:3"], ["--class", "0", "--over", "logit"]])
def test_generate_says_what_cannot_be_told(what: list[str], index_path: Path, tmp_path: Path) -> None:
    own = shutil.copytree(index_path, tmp_path / "own.vitdex")
    weights = str(index_path.parent / "weights.safetensors")
    words = ["generate", str(own), *what, "--snapshot", "1", "-k", "2", "--weights", weights]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        out = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "made.png")], catch_exceptions=False)
    assert out.exit_code == 0
    assert "ratio and percentile cannot be told: the index holds one image, or images alike" in out.output
    assert " inf" not in out.output
    assert "nan" not in out.output.casefold()
    with Index(own) as index:
        assert index.sql("SELECT count(*) AS n FROM generated WHERE ratio IS NOT NULL AND NOT isnan(ratio)").n[0] == 0


@pytest.mark.parametrize("by", ["probability", "margin"])
def test_sums_against_no_other_class(by: Measure, index_path: Path) -> None:
    with Index(index_path) as index:
        for ask in (query.neuron_pairs, query.neuron_sets, lambda i, c, by: query.composed_classes(i, by)):
            if index.spec.classes == 1:
                with pytest.raises(QueryError, match=r"^this index has one class, and a sum is judged against the oth"):
                    ask(index, 0, by=by)
            else:
                assert isinstance(ask(index, 0, by=by), pd.DataFrame)


L = "blocks.4.mlp.fc1"
COUNTED: dict[str, Callable[[Index, int], object]] = {
    "exemplars": lambda i, k: i.exemplars(L, 1, k),
    "key_neurons": lambda i, k: i.key_neurons(0, k),
    "classes_of": lambda i, k: i.classes_of(L, 1, k),
    "neuron": lambda i, k: i.neuron(L, 1, k),
    "class_heatmaps": lambda i, k: i.class_heatmaps(0, k),
    "top_images": lambda i, k: query.top_images(i, [(L, 1)], k),
    "neighbours": lambda i, k: query.neighbours(i, 0, [(L, 1)], k),
    "class_images": lambda i, k: query.class_images(i, 0, k),
    "neuron_pairs": lambda i, k: query.neuron_pairs(i, 0, k=k),
    "class_regions": lambda i, k: query.class_regions(i, 0, k=k),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("k", [0, -1])
def test_how_many(name: str, k: int, sample: Index) -> None:
    with pytest.raises(QueryError, match=f"^k is {k}; at least 1$"):
        COUNTED[name](sample, k)
