"""The sample with --layer attn: attention's units beside the MLP's neurons in SQL, in every command, and in logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import Reference
from effect_by_hand import effect_by_hand
from timm.models.vision_transformer import Block
from vitdex.data.images.preprocess import mean_and_std
from vitdex.data.models.probe import dissect
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import layer_specs, sample_request
from vitdex.indexer.repair import repair
from vitdex.query.commands.main import cli
from vitdex.query.dissect.selectivity import selectivity
from vitdex.query.drawing.class_figures import activations_figure
from vitdex.query.drawing.logit_figure import logit_figure
from vitdex.query.drawing.neuron_figures import selectivity_figure
from vitdex.query.heatmaps.faithfulness import insertion_deletion
from vitdex.query.heatmaps.views import VIEWS, View
from vitdex.query.index import Index
from vitdex.query.model.gradients import effect_on_tokens
from vitdex.query.model.live_model import LiveModel, open_model
from vitdex.schemas.errors import ModelError, QueryError

LAYER, NEURONS = "blocks.4.attn.proj.input", "blocks.4.mlp.fc1"
CLASS = "coin"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attention") / "both.vitdex"
    return build(sample_request(out, layers=("fc1", "attn"), device="cpu", workers=0), Quiet())


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    with Index(path) as opened:
        yield opened


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output


def test_layers_stand_in_the_order_of_the_model(index: Index) -> None:
    rows = index.sql("SELECT layer, block, kind, units FROM layers")
    assert rows.layer.tolist()[:4] == [
        "blocks.0.attn.proj.input", "blocks.0.mlp.fc1", "blocks.1.attn.proj.input", "blocks.1.mlp.fc1",
    ]  # fmt: skip
    assert rows.kind.tolist() == ["attention", "hidden"] * 6
    assert rows.units.tolist() == [192, 768] * 6


def test_key_neurons_hold_attention_units_beside_mlp_neurons(index: Index, reference: Reference) -> None:
    """Their scores from the weights, their contributions from a hook of the test's own."""
    kinds = index.sql("SELECT kind, count(*) AS n FROM key_neurons JOIN layers USING (layer) GROUP BY kind").set_index(
        "kind"
    )
    assert kinds.n.to_dict() == {"attention": 12 * 6 * 192, "hidden": 12 * 6 * 768}
    model: Any = reference.model
    proj, norm, head = model.blocks[4].attn.proj, model.norm, model.head.weight.detach()
    rows = index.sql(
        "SELECT score, folded, contribution, cls_post_mean AS read FROM key_neurons WHERE layer = ? AND class = ? "
        "ORDER BY unit",
        [LAYER, CLASS],
    )
    row = head[index.class_id(CLASS)]
    np.testing.assert_allclose(rows.score, (row @ proj.weight.detach()).numpy(), rtol=1e-4, atol=1e-5)
    kept: dict[str, torch.Tensor] = {}
    hooks = [
        proj.register_forward_pre_hook(lambda m, args: kept.__setitem__("read", args[0][:, 0].clone())),
        norm.register_forward_pre_hook(lambda m, args: kept.__setitem__("stream", args[0][:, 0].clone())),
    ]
    ids = index.sql(
        "SELECT image_id FROM images WHERE class_id = ? ORDER BY image_id", [index.class_id(CLASS)]
    ).image_id
    pixels = torch.from_numpy(index.inputs(ids.tolist())).permute(0, 3, 1, 2) / 255
    mean, std = mean_and_std(index.spec.preprocessing, "cpu")
    with torch.inference_mode():
        reference.model((pixels - mean) / std)
    for hook in hooks:
        hook.remove()
    sigma = (kept["stream"].var(-1, unbiased=False) + norm.eps).sqrt()
    vectors = proj.weight.detach().T
    folded = ((vectors - vectors.mean(1, keepdim=True)) * norm.weight.detach()) @ row
    given = (kept["read"] / sigma[:, None]).mean(0) * folded
    np.testing.assert_allclose(rows["read"], kept["read"].mean(0).numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(rows.folded, folded.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(rows.contribution, given.numpy(), rtol=1e-3, atol=1e-4)
    table = index.key_neurons(CLASS, 5, "contribution", LAYER)
    np.testing.assert_allclose(table.contribution, np.sort(given.numpy())[::-1][:5], rtol=1e-3)
    assert index.classes_of(LAYER, 3, 1).score[0] == pytest.approx(float((head @ proj.weight.detach())[:, 3].max()))


def test_terms_of_a_logit_are_the_sums_of_stored_contributions(index: Index) -> None:
    """What SQL adds up of a class's images, the live pass finds by itself; and all terms are the mean logit."""
    class_id = index.class_id(CLASS)
    terms = index.logit_terms(CLASS)
    assert terms.columns.tolist()[:6] == ["block", "part", "before", "value", "after", "std"]
    stored = index.sql(
        "SELECT block, kind, sum(contribution) AS value FROM key_neurons JOIN layers USING (layer, block) "
        "WHERE class_id = ? GROUP BY block, kind",
        [class_id],
    )
    for block, kind, value in stored.itertuples(index=False):
        part = "attention units" if kind == "attention" else "MLP neurons"
        assert terms.value[(terms.block == block) & (terms.part == part)].item() == pytest.approx(value, abs=1e-4)
    ids = index.sql("SELECT image_id FROM images WHERE class_id = ? ORDER BY image_id", [class_id]).image_id.to_numpy()
    logits = index.reader.whole("logits")[:, class_id].astype(float)
    assert terms.value.sum() == pytest.approx(logits[ids].mean(), rel=1e-4)
    assert (terms.n == len(ids)).all()
    assert terms.after_std.iloc[-1] == pytest.approx(logits[ids].std(ddof=1), rel=1e-3)
    others = np.delete(logits, ids)
    assert abs(terms.others_after.iloc[-1] - others.mean()) < 4 * others.std() / np.sqrt(len(ids))
    assert terms.others.sum() == pytest.approx(terms.others_after.iloc[-1])
    few = index.logit_terms(CLASS, k=3, seed=1)
    assert (few.n.iloc[0], few.others_n.iloc[0]) == (3, 3)
    assert few.equals(index.logit_terms(CLASS, k=3, seed=1))
    assert not few.value.equals(index.logit_terms(CLASS, k=3, seed=2).value)
    one = index.logit_terms(CLASS, "coin/013.jpg")
    assert one.value.sum() == pytest.approx(logits[index.image_id("coin/013.jpg")], rel=1e-4)
    assert "std" not in one


def test_an_index_of_other_layers_has_the_same_terms(index: Index, sample: Index) -> None:
    """The pass runs the model, whatever is indexed of it."""
    assert sample.logit_terms(CLASS, 90).value.tolist() == pytest.approx(index.logit_terms(CLASS, 90).value.tolist())


def test_the_figure_shows_what_the_table_says(index: Index) -> None:
    terms = index.logit_terms(CLASS, k=5)
    figure = logit_figure(terms, "The logit of coin$, here.")
    above, below = cast(Any, figure.axes)
    heights = sorted(bar.get_height() for bar in above.patches)
    assert heights == pytest.approx(sorted(terms.value))
    drawn = {line.get_label(): line.get_ydata() for line in below.get_lines()}
    assert drawn["images of the class (n = 5)"][-1] == terms.after.iloc[-1]
    assert drawn["images of other classes (n = 5)"][-1] == terms.others_after.iloc[-1]
    assert "s.d." in above.get_ylabel()
    assert figure.get_suptitle() == "The logit of coin$, here."
    single: Any = logit_figure(index.logit_terms(CLASS, 90)).axes
    assert "s.d." not in single[0].get_ylabel()
    assert [text.get_text() for text in single[1].get_legend().get_texts()] == ["this image"]


def test_a_stream_that_something_else_writes_to_is_told(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    run_model = LiveModel.__call__

    def with_more(live: LiveModel, pixels: torch.Tensor, names: list[str]) -> object:
        block = live.anatomy.model.get_submodule("blocks.2")
        hook = block.register_forward_hook(lambda m, args, out: out + 1 + out.flip(-1))
        try:
            return run_model(live, pixels, names)
        finally:
            hook.remove()

    monkeypatch.setattr(LiveModel, "__call__", with_more)
    with pytest.raises(QueryError, match="do not add up to this model's logit"):
        index.logit_terms(CLASS, 90)


def test_attention_that_does_not_fit_is_refused_in_one_line() -> None:
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2, "img_size": 32}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **small).eval()
    proj = model.blocks[0].attn.proj
    model.blocks[0].attn.proj = torch.nn.Sequential(proj)
    named = dissect(model, (32, 32))
    assert (len(named.layers), named.attention) == (1, ())
    with pytest.raises(
        ModelError, match=r"'blocks\.0\.attn\.proj' is not a plain linear layer.*Leave --layer attn out"
    ):
        layer_specs(named, ("attn",))
    model.blocks[0].attn.proj = proj
    model.blocks[0].ls1 = torch.nn.Tanh()
    assert "does not reach the stream by a known gain or norm" in dissect(model, (32, 32)).no_attention
    model.blocks[0].ls1, model.blocks[0].attn = torch.nn.Identity(), Unnamed()
    assert dissect(model, (32, 32)).no_attention == "blocks.0 has no 'attn.proj'"


class Unnamed(torch.nn.Module):
    """Attention, if any, whose last layer has no name that is known."""

    def forward(self, x: torch.Tensor, **_: object) -> torch.Tensor:
        return x.mean(1, keepdim=True).expand_as(x)


class Convolved(Block):  # type: ignore[misc]
    """A block in which something else stands between attention and MLP, and answers to what attention writes."""

    def forward(self, x: torch.Tensor, **_: object) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + 0.5 * x.roll(1, 1)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


def test_what_answers_to_attention_is_found_by_the_trial_run() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, embed_dim=24, depth=2, num_heads=2, img_size=32, block_fn=Convolved
    )
    found = dissect(model.eval(), (32, 32))
    assert len(found.layers) == 2
    assert found.no_attention == ("what 'blocks.0.attn.proj' writes does not reach the stream by a known gain or norm")


@pytest.mark.parametrize("view", VIEWS)
def test_heatmaps(index: Index, view: View) -> None:
    asked = [f"{LAYER}:3", f"{NEURONS}:473"]
    if view == "post":
        with pytest.raises(QueryError, match="holds attention units: no nonlinearity follows it"):
            index.heatmaps(asked, [90], view)
        return
    shown = index.heatmaps(asked, [90], view, CLASS)
    titles = {
        "map": "Value that attn.proj reads on the patches; Activation on the patches, before GELU",
        "contribution": "Value that attn.proj reads or GELU(a) × raw score for coin",
    }
    assert shown.title == titles.get(view, shown.title)
    if view == "contribution":  # no nonlinearity is applied to what has none
        score = index.sql("FROM class_scores WHERE layer = ? AND unit = 3 AND class_id = 2", [LAYER]).score[0]
        np.testing.assert_allclose(shown.values[0, 0], score * index.map(LAYER, 3, 90), rtol=1e-5)


def test_effect_of_an_attention_unit(index: Index) -> None:
    live = open_model(index)
    direct = effect_by_hand(live, live.anatomy.model.get_submodule("blocks.4.attn.proj"), 3, 2, 90)
    found = effect_on_tokens(live, LAYER, [3], 2, 90)
    np.testing.assert_allclose(found.patches.reshape(-1), direct[1:], atol=1e-5 * np.abs(direct).max())
    np.testing.assert_allclose(found.prefix[0], direct[:1], atol=1e-5 * np.abs(direct).max())


def test_post_is_judged_where_a_nonlinearity_follows(index: Index) -> None:
    small: dict[str, Any] = {"k": 1, "images": 1, "steps": 2, "random": 0}
    for layer in (LAYER, NEURONS):
        judged = insertion_deletion(index, CLASS, layer=layer, **small).areas["view"].tolist()
        assert ("post" in judged) == (layer == NEURONS)
        assert judged[-1] == "centre"


def test_activations_name_what_they_are_of(index: Index, tmp_path: Path) -> None:
    table = run("dissect", "activations", index.layout.root, CLASS, "--csv", "-k", "3", "-o", tmp_path / "a.svg")
    assert "4 attention" in table
    assert "block 4 attention" in (tmp_path / "a.svg").read_text()
    rows = index.sql(
        "SELECT 'all' AS blocks, 1 AS block, 1 AS unit, 1 AS rank, .5 AS mean_max, .2 AS mean_max_others, "
        ".9 AS auroc, 5 AS n, 50 AS n_others"
    )
    figure = activations_figure(rows, CLASS, "score", kinds={"hidden", "attention"})
    words = "largest patch before the nonlinearity or of what attn.proj reads, mean over the images"
    assert figure.legends[0].get_title().get_text() == words


def test_figures_keep_the_kinds_of_a_block_apart(index: Index, tmp_path: Path) -> None:
    every = selectivity(index)
    figure: Any = selectivity_figure(every)
    for axis in figure.axes:
        labels = [text.get_text() for text in axis.get_xticklabels()]
        assert labels[:2] == ["0 attn", "0 fc1"]
        assert len(labels) == 12
    dead = [bar.get_height() for bar in figure.axes[2].patches[:12]]
    assert dead == every.groupby(["block", "layer"]).dead.sum().tolist()
    alone: Any = selectivity_figure(every[every.layer.str.endswith("fc1")])
    assert [text.get_text() for text in alone.axes[0].get_xticklabels()] == list("012345")


@pytest.mark.parametrize(
    "words",
    [
        ["blocks"], ["regions", CLASS], ["regions", CLASS, "--quantile", "image:80", "--neurons"],
        ["focus", "--layer", LAYER, "--random", "2"], ["concepts", "--layer", LAYER], ["shared", "--top", "10"],
        ["context", "-k", "3"], ["carriers"],
        ["similarity"], ["selectivity", "--blocks"], ["agreement"], ["pairs", CLASS, "--by", "margin"],
        ["sets", CLASS, "--by", "margin"], ["composed", "--by", "margin", "--candidates", "20"], ["fires", "90"],
        ["logits", CLASS, "-k", "2"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_dissect(path: Path, tmp_path: Path, words: list[str]) -> None:
    run("dissect", words[0], path, *words[1:], "-o", tmp_path / "figure.svg")


def test_look_ups_exports_and_generated_images(path: Path, tmp_path: Path) -> None:
    assert "attn.proj.input" in run("top", path, "--class", CLASS, "--by", "score", "--layer", LAYER)
    run("top", path, "--neuron", f"{LAYER}:7", "-o", tmp_path / "one.png")
    run("neighbours", path, "0", "--neuron", LAYER)
    run("sql", path, f"SELECT activation_map('{LAYER}', 7, 0)")
    run("export", "milan", path, tmp_path / "milan", "--layer", LAYER, "--units", "0-3", "-k", "3")
    run("export", "milan", path, tmp_path / "exact", "--layer", LAYER, "--units", "3", "-k", "2", "--exact")
    run("export", "clip-dissect", path, tmp_path / "clip", "--layer", LAYER)
    with Index(path) as index:
        assert index.neuron(LAYER, 7).picture().height > 0
    made = ["generate", path, "--neuron", f"{LAYER}:7", "-k", "1", "--snapshot", "2"]
    refused = CliRunner().invoke(cli, [*map(str, made), "--post"])
    assert "has no nonlinearity after it" in refused.output + str(refused.exception)


def test_an_index_of_attention_alone(tmp_path: Path) -> None:
    """Its arrays are made again; questions about MLPs alone say what they need."""
    ask = sample_request(tmp_path / "attn.vitdex", layers=("attn",), limit=45, device="cpu", workers=0, maps="none")
    with Index(build(ask, Quiet())) as index:
        assert {layer.kind for layer in index.spec.layers} == {"attention"}
        assert "value_vectors" not in index.arrays
        assert len(index.key_neurons(CLASS, 3)) == 3
        for command in ("agreement", "composition"):
            refused = CliRunner().invoke(cli, ["dissect", command, str(index.layout.root)])
            assert "holds no neurons of MLPs" in refused.output + str(refused.exception)
        file = index.layout.root / "activations.zarr" / "folded_attention_vectors" / "c" / "2" / "0" / "0"
        before = file.read_bytes()
    file.write_bytes(before[:-8])
    assert repair(ask, Quiet()) == ["activations.zarr/folded_attention_vectors/c/2/0/0"]
    assert file.read_bytes() == before
