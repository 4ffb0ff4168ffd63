"""What neurons cause on the object and outside: against the arrays, and exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from vitdex.query.causal.subject import subject_effects
from vitdex.query.commands.main import cli
from vitdex.query.dissect.masks import open_masks
from vitdex.query.drawing.subject_figure import subject_figure
from vitdex.query.index import Index
from vitdex.query.model.live_model import open_model
from vitdex.query.stored.names import Neuron
from vitdex.schemas.errors import QueryError

COIN = 2


@pytest.fixture
def index(effects_path: Path) -> Iterator[Index]:
    with Index(effects_path) as index:
        yield index


def first_neurons(index: Index, k: int) -> list[Neuron]:
    """Of the blocks before the last, by mean effect on coins."""
    assert index.effects is not None
    ids = index.sql("SELECT image_id FROM images WHERE class_id = ?", [COIN]).image_id.tolist()
    means = {
        Neuron(layer, unit): value
        for layer in index.effects.spec.layers[:-1]
        for unit, value in enumerate(np.stack([index.effects.of_image(layer, i) for i in ids]).mean(0))
    }
    return sorted(means, key=lambda neuron: -means[neuron])[:k]


def test_shares_are_of_the_arrays(index: Index) -> None:
    assert index.effects is not None
    row = subject_effects(index, k=4).set_index("class").loc["coin"]
    ids = index.sql("SELECT image_id FROM images WHERE class_id = ?", [COIN]).image_id.to_numpy(np.int64)
    shares, sums = [], np.zeros(3)
    for layer, unit in first_neurons(index, 4):
        parts = [
            index.effects.of_neuron(layer, unit, f"effect_{at}")[ids] for at in ("subject", "background", "prefix")
        ]
        sizes = [np.abs(part).sum() for part in parts[:2]]
        shares.append(sizes[0] / sum(sizes))
        sums += [part.mean() for part in parts]
    assert row.share == pytest.approx(np.mean(shares), rel=1e-5)
    np.testing.assert_allclose(row[["subject", "background", "prefix"]].astype(float), sums, atol=1e-6)
    assert row.mask_share == pytest.approx(open_masks(index).covers(ids.tolist()).mean(), rel=1e-6)
    assert row.random_low <= row.random <= row.random_high
    assert row.passes == (row.share > max(row.mask_share, row.random_high))
    figure = subject_figure(subject_effects(index, k=4))
    assert figure.axes[0].get_xlabel() == "share of |effect| on the object, of that on all patches"


def test_random_neurons_share_no_more_than_all_do(index: Index) -> None:
    """Chance: the mean over many sets is that of all other neurons of the layers."""
    row = subject_effects(index, k=4, random=500).set_index("class").loc["coin"]
    first = first_neurons(index, 4)
    others = []
    for layer, _ in first:
        table = index.sql(
            "SELECT unit, subject_share FROM class_effects WHERE class_id = ? AND layer = ?", [COIN, layer]
        )
        others.append(table.subject_share[~table.unit.isin([unit for of, unit in first if of == layer])].mean())
    assert row.random == pytest.approx(np.mean(others), abs=0.005)


def test_exactly(index: Index) -> None:
    """The fall of the logit, by hooks of torch that replace the neurons by their means on the object alone."""
    masks, live = open_masks(index), open_model(index)
    row = subject_effects(index, k=3, masks=masks, images=1000).set_index("class").loc["coin"]
    ids = index.sql("SELECT image_id FROM images WHERE class_id = ?", [COIN]).image_id.tolist()
    cover = torch.from_numpy(masks.covers(ids)).float()

    def answers(neurons: list[Neuron]) -> torch.Tensor:
        modules, hooks = dict(live.anatomy.model.named_modules()), []
        for layer, unit in neurons:
            query = "SELECT post_mean FROM neurons WHERE layer = ? AND unit = ?"
            mean = float(index.sql(query, [layer, unit]).post_mean[0])

            def change(_: torch.nn.Module, args: tuple[torch.Tensor], unit: int = unit, mean: float = mean) -> object:
                h = args[0].clone()
                h[:, 1:, unit] += cover * (mean - h[:, 1:, unit])
                return (h,)

            hooks.append(modules[layer.replace("fc1", "fc2")].register_forward_pre_hook(change))
        with torch.no_grad():
            logits = live.anatomy.model((live.pixels(ids) - live.mean) / live.std)
        for hook in hooks:
            hook.remove()
        found: torch.Tensor = logits[:, COIN] - logits.mean(1)
        return found

    fall = answers([]) - answers(first_neurons(index, 3))
    assert row.fall_subject == pytest.approx(float(fall.mean()), abs=1e-5)
    assert row.se_subject == pytest.approx(float(fall.std() / len(ids) ** 0.5), rel=1e-4)


def test_what_cannot_be_asked(sample: Index, index: Index) -> None:
    with pytest.raises(QueryError, match="this index holds no effects"):
        subject_effects(sample)
    with pytest.raises(QueryError, match="no ranking by 'size'"):
        subject_effects(index, by="size")  # type: ignore[arg-type]


def test_the_command(effects_path: Path, tmp_path: Path) -> None:
    words = ["subject", str(effects_path), "-k", "5", "-o", str(tmp_path / "subject.png")]
    out = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert out.exit_code == 0
    assert "first 5 neurons by effect cause on patches" in out.stderr
    assert "12 classes" in out.stderr
    assert (tmp_path / "subject.png").exists()
