"""Effects of all neurons at once, against plain autograd, exact ablation and the index's own contributions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from other_models import GATED, MODELS, index_of
from scipy.stats import spearmanr
from torch import Tensor
from vitdex.query.causal.effects_run import measure_effects
from vitdex.query.commands.main import cli
from vitdex.query.dissect.masks import open_masks
from vitdex.query.index import Index
from vitdex.query.model.live_model import LiveModel, open_model
from vitdex.query.model.replacement import Substitute, replaced
from vitdex.query.stored.effects import StoredEffects
from vitdex.query.stored.names import Neuron
from vitdex.query.stored.stored_index import StoredIndex

Doubles = NDArray[np.float64]


@pytest.fixture
def index(effects_path: Path) -> Iterator[Index]:
    with Index(effects_path) as index:
        yield index


@pytest.fixture(scope="module", params=[*MODELS, "gated", "attention"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of other kinds, with effects."""
    folder = tmp_path_factory.mktemp("other")
    if request.param == "gated":
        path = index_of(*GATED, folder, side=56)
    elif request.param == "attention":
        path = index_of(*MODELS["LayerScale, registers"], folder, layers=("fc1", "attn"))
    else:
        path = index_of(*MODELS[request.param], folder)
    with StoredIndex(path) as plain:
        measure_effects(plain, batch_size=4)
    return path


def stored(index: StoredIndex) -> StoredEffects:
    assert index.effects is not None
    return index.effects


def answers(live: LiveModel, ids: list[int], classes: Tensor) -> Tensor:
    logits = live(live.pixels(ids), [])[0]
    return logits[torch.arange(len(ids)), classes] - logits.mean(1)


def mean_values(live: LiveModel, layer: str, ids: list[int]) -> Tensor:
    """The mean of what a layer's last linear layer reads: [token, unit], all patches alike."""
    h = torch.cat([values(live, layer, ids[start : start + 60]) for start in range(0, len(ids), 60)])
    prefix = live.spec.prefix
    patches = h[:, prefix:].mean((0, 1)).expand(h.shape[1] - prefix, -1)
    return torch.cat([h[:, :prefix].mean(0), patches])


def values(live: LiveModel, layer: str, ids: list[int]) -> Tensor:
    kept: list[Tensor] = []
    hook = live.layer(layer).out.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        live.anatomy.model((live.pixels(ids) - live.mean) / live.std)
    hook.remove()
    return kept[0]


def by_autograd(live: LiveModel, layer: str, ids: list[int], classes: Tensor, instead: Tensor) -> Tensor:
    """(h - h') dL/dh on every token: [image, token, unit]."""
    leaves: list[Tensor] = []

    def cut(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        leaves.append(args[0].detach().requires_grad_())
        return (leaves[0],)

    hook = live.layer(layer).out.register_forward_pre_hook(cut)
    logits = live.anatomy.model((live.pixels(ids) - live.mean) / live.std)
    hook.remove()
    chosen = logits[torch.arange(len(ids)), classes] - logits.mean(1)
    gradient = torch.autograd.grad(chosen.sum(), leaves[0])[0]
    return (leaves[0].detach() - instead) * gradient


def test_effects_are_those_of_autograd(other: Path) -> None:
    with Index(other) as index:
        live, effects, ids = open_model(index, other.parent), stored(index), list(range(9))
        classes = torch.arange(9) // 3
        for layer in effects.spec.layers:
            expected = by_autograd(live, layer, ids, classes, mean_values(live, layer, ids)).sum(1).numpy()
            found = np.stack([effects.of_image(layer, image) for image in ids])
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_three_parts_by_way_make_an_effect(other: Path) -> None:
    """In the last block nothing is left for later blocks: its effect is direct and through the norm."""
    with Index(other) as index:
        effects = stored(index)
        table = index.sql("SELECT * FROM class_effects JOIN layers USING (layer)")
        sums = table.direct + table.through_norm + table.indirect
        np.testing.assert_allclose(sums, table.effect, atol=1e-6 * table.effect.abs().max())
        last = table[(table.block == table.block.max()) & table.kind.isin(("hidden", "gated"))]
        assert last.indirect.abs().max() < 2e-6 * last.effect.abs().max() + 1e-7
        assert table[table.block == 0].indirect.abs().max() > 1e-3 * table.effect.abs().max()
        assert set(effects.spec.layers) == set(table.layer)


def test_of_the_last_block_patches_have_none(index: Index) -> None:
    last = stored(index).spec.layers[-1]
    for place in ("subject", "background"):
        every = stored(index).reader.rows(f"{last}/effect_{place}", np.arange(index.spec.images))
        assert (every == 0).all()
    assert np.abs(stored(index).of_image(last, 5, "effect_prefix")).max() > 1e-2
    table = index.sql("SELECT max(abs(indirect)) AS most FROM class_effects WHERE layer = ?", [last])
    assert table.most[0] < 1e-6


def test_three_parts_by_place_make_an_effect(index: Index) -> None:
    effects = stored(index)
    for layer in effects.spec.layers:
        every = {
            leaf: effects.reader.rows(f"{layer}/{leaf}", np.arange(index.spec.images)) for leaf in effects.spec.leaves
        }
        sums = every["effect_subject"] + every["effect_background"] + every["effect_prefix"]
        np.testing.assert_allclose(sums, every["effect"], atol=1e-5)
    first = effects.spec.layers[0]
    assert np.abs(effects.of_image(first, 5, "effect_subject")).max() > 1e-3


def test_places_are_the_masks(index: Index) -> None:
    """Patch by patch from autograd, weighted by the mask."""
    live, layer, ids = open_model(index), "blocks.2.mlp.fc1", [3, 77]
    asked = index.sql("SELECT class_id FROM images WHERE image_id IN (3, 77) ORDER BY image_id").class_id
    instead = torch.from_numpy(stored(index).reader.whole(f"{layer}/replacement").copy())
    rows = torch.cat([instead[:1], instead[1:].expand(live.spec.patches, -1)])
    by_token = by_autograd(live, layer, ids, torch.tensor(asked.to_numpy(np.int64)), rows).numpy()
    cover = open_masks(index).covers(ids)
    expected = np.einsum("np,npu->nu", cover, by_token[:, 1:])
    found = np.stack([stored(index).of_image(layer, image, "effect_subject") for image in ids])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    share = index.sql("SELECT mask_share FROM effect_images WHERE image_id IN (3, 77) ORDER BY image_id").mask_share
    np.testing.assert_allclose(share, cover.mean(1), rtol=1e-6)


def test_what_stands_in_the_neurons_place(index: Index) -> None:
    live, every = open_model(index), list(range(index.spec.images))
    for layer in ("blocks.0.mlp.fc1", "blocks.5.mlp.fc1"):
        expected = mean_values(live, layer, every)[:2]
        found = stored(index).reader.whole(f"{layer}/replacement")
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_direct_part_is_the_contribution(sample_path: Path, tmp_path: Path) -> None:
    """With zero in its place: the contribution to the class, less the mean of those to all classes."""
    copy = shutil.copytree(sample_path, tmp_path / "zero.vitdex")
    with StoredIndex(copy) as plain:
        measure_effects(plain, replace="zero")
    with Index(copy) as index:
        table = index.sql(
            "SELECT e.direct, a.contribution, s.folded, mean_folded FROM class_effects e "
            "JOIN class_activations a USING (layer, unit, class_id) JOIN class_scores s USING (layer, unit, class_id) "
            "JOIN (SELECT layer, unit, avg(folded) AS mean_folded FROM class_scores GROUP BY ALL) USING (layer, unit) "
            "WHERE abs(s.folded) > 1e-3"
        )
        expected = table.contribution * (1 - table.mean_folded / table.folded)
        assert len(table) > 40_000
        np.testing.assert_allclose(table.direct, expected, atol=1e-5 * table.contribution.abs().max())
        assert stored(index).reader.whole("blocks.1.mlp.fc1/replacement").max() == 0


def test_the_estimate_orders_as_exact_ablation_does(index: Index) -> None:
    """Rank correlation over image x neuron, of the 20 largest and 60 random neurons of every block."""
    live, effects, draw = open_model(index), stored(index), np.random.default_rng(0)
    ids = list(range(0, 480, 60))
    classes = torch.tensor([image // 40 for image in ids])
    substitute = Substitute(live, "mean")
    with torch.inference_mode():
        before = answers(live, ids, classes)
    for layer in effects.spec.layers:
        every = np.stack([effects.of_image(layer, image) for image in ids])
        largest = np.argsort(-np.abs(every).mean(0))[:20]
        units = np.unique([*largest, *draw.choice(every.shape[1], 60, replace=False)])
        exact = []
        for unit in units.tolist():
            with torch.inference_mode(), replaced(live, [Neuron(layer, unit)], substitute, ids):
                exact.append(before - answers(live, ids, classes))
        found = spearmanr(every[:, units].ravel(), torch.stack(exact, 1).numpy().ravel())[0]
        assert found >= 0.95, (layer, found)


def test_tables_are_means_of_arrays(index: Index) -> None:
    effects, layer = stored(index), "blocks.3.mlp.fc1"
    own = index.sql("SELECT image_id FROM images WHERE class_id = 4 ORDER BY image_id").image_id.to_numpy()
    table = index.sql("FROM class_effects WHERE layer = ? AND class_id = 4 ORDER BY unit", [layer])
    values = {leaf: np.stack([effects.of_image(layer, i, leaf) for i in own]) for leaf in effects.spec.leaves}
    for leaf in values:
        np.testing.assert_allclose(table[leaf], values[leaf].mean(0), atol=1e-7)
    np.testing.assert_allclose(table.effect_se, values["effect"].std(0, ddof=1) / len(own) ** 0.5, atol=1e-7)
    subject, background = (np.abs(values[f"effect_{place}"]).sum(0) for place in ("subject", "background"))
    np.testing.assert_allclose(table.subject_share, subject / (subject + background), rtol=1e-4)
    assert set(table.n) == set(table.n_masked) == {len(own)}
    every = index.sql("SELECT effect, rank_by_effect FROM class_effects WHERE class_id = 4 ORDER BY rank_by_effect")
    assert (np.diff(every.effect) <= 0).all()
    assert every.rank_by_effect.tolist() == list(range(1, index.spec.neurons + 1))


def test_rankings_by_effect(index: Index) -> None:
    found = index.key_neurons("coin", 5, "effect")
    view = index.sql("FROM key_neurons WHERE class = 'coin' ORDER BY effect DESC LIMIT 5")
    assert found.unit.tolist() == view.unit.tolist()
    assert found.rank_by_effect.tolist() == [1, 2, 3, 4, 5]
    columns = [name for name in found if name not in ("rank", "class", "wnid", "layer")]
    np.testing.assert_allclose(found[columns].astype(float), view[columns].astype(float), rtol=1e-6)
    out = CliRunner().invoke(cli, ["top", str(index.layout.root), "--class", "coin", "--by", "effect", "-k", "2"])
    assert str(Neuron("blocks.5.mlp.fc1", int(found.unit[0]))) in out.output


def test_a_neurons_card_has_its_effects(index: Index, sample: Index) -> None:
    card = index.neuron("blocks.5.mlp.fc1", 16, k=3)
    assert card.effects["class"][0] == "coin"
    assert card.effects.rank_by_effect[0] == 1
    assert len(card.effects) == 3
    assert card.picture().height > sample.neuron("blocks.5.mlp.fc1", 16, k=3).picture().height
    assert sample.neuron("blocks.5.mlp.fc1", 16).effects.empty


def test_answers_are_of_the_indexs_own_head(sample: Index, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from vitdex.indexer import index_with_head

    weight, bias = torch.randn(5, 192), torch.arange(5.0)
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    path = index_with_head(sample.layout.root, tmp_path / "head.safetensors", tmp_path / "second.vitdex")
    with StoredIndex(path) as second:
        live = open_model(second)
        with torch.inference_mode():
            found = live(live.pixels([3, 90]), [])[0].numpy()
        near = second.reader.rows("logits", [3, 90])
        np.testing.assert_allclose(found, near, atol=2e-2)  # of features in float16
        features = values_of_head(live, [3, 90])
        np.testing.assert_allclose(found, (features @ weight.T + bias).numpy(), atol=1e-4)


def values_of_head(live: LiveModel, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        model: Any = live.anatomy.model
        found: Tensor = model.forward_head(
            model.forward_features((live.pixels(ids) - live.mean) / live.std), pre_logits=True
        )
    return found
