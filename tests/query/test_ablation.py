"""Neurons replaced: against forward passes in which independent hooks write the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from effect_by_hand import effect_by_hand
from other_models import MODELS, index_of
from torch import Tensor
from vitdex.query.causal.ablation import ablate, ablation_caption
from vitdex.query.causal.runs import MEASURES, OTHERS, measured
from vitdex.query.commands.main import cli
from vitdex.query.dissect.masks import open_masks, patch_cover
from vitdex.query.drawing.ablation_figure import ablation_figure
from vitdex.query.index import Index
from vitdex.query.model.gradients import effect_on_tokens
from vitdex.query.model.live_model import LiveModel, open_model
from vitdex.query.model.replacement import Substitute, parsed, replaced
from vitdex.query.model.rerun import Rerun
from vitdex.query.stored.names import Neuron
from vitdex.schemas.errors import QueryError

IDS = [0, 45, 99, 300]
NEURONS = [Neuron("blocks.1.mlp.fc1", 5), Neuron("blocks.1.mlp.fc1", 700), Neuron("blocks.4.mlp.fc1", 53)]


@pytest.fixture
def live(sample: Index) -> LiveModel:
    return open_model(sample)


def directly(live: LiveModel, ids: list[int], change: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """Logits with what each MLP's last linear layer reads changed, by hooks of torch alone."""
    modules = dict(live.anatomy.model.named_modules())
    hooks = [
        modules[layer.replace("fc1", "fc2")].register_forward_pre_hook(lambda _, args, of=of: (of(args[0]),))
        for layer, of in change.items()
    ]
    with torch.no_grad():
        logits: Tensor = live.anatomy.model((live.pixels(ids) - live.mean) / live.std)
    for hook in hooks:
        hook.remove()
    return logits


def without(live: LiveModel, replace: str, weight: Tensor | None = None) -> Tensor:
    substitute = Substitute(live, *parsed(replace), seed=3)
    with torch.no_grad(), replaced(live, NEURONS, substitute, IDS, weight):
        logits: Tensor = live(live.pixels(IDS), [])[0]
    return logits


def near(logits: Tensor, expected: Tensor) -> bool:
    return bool((logits - expected).abs().max() <= 1e-5 * (expected.max() - expected.min()))


def set_to(units: list[int], value: Callable[[Tensor], Tensor | float]) -> Callable[[Tensor], Tensor]:
    def change(h: Tensor) -> Tensor:
        h = h.clone()
        h[..., units] = torch.as_tensor(value(h[..., units])).to(h)
        return h

    return change


def always(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda h: value.expand_as(h)


@pytest.mark.parametrize(("replace", "factor"), [("zero", 0.0), ("times:2", 2.0), ("times:-1", -1.0)])
def test_doses(live: LiveModel, replace: str, factor: float) -> None:
    change = {
        "blocks.1.mlp.fc1": set_to([5, 700], lambda h: h * factor),
        "blocks.4.mlp.fc1": set_to([53], lambda h: h * factor),
    }
    expected = directly(live, IDS, change)
    assert near(without(live, replace), expected)
    assert not near(without(live, replace), directly(live, IDS, {}))


def hidden(live: LiveModel, layer: str, ids: list[int]) -> Tensor:
    """What the MLP's last linear layer reads, [image, token, unit]."""
    kept: list[Tensor] = []

    def keep(h: Tensor) -> Tensor:
        kept.append(h)
        return h

    directly(live, ids, {layer: keep})
    return kept[0]


def test_means_are_those_of_all_images(live: LiveModel, sample: Index) -> None:
    """Patches have the mean of all patches, CLS its own."""
    valid = np.flatnonzero(sample.reader.whole("valid")).tolist()
    change = {}
    for layer, units in {"blocks.1.mlp.fc1": [5, 700], "blocks.4.mlp.fc1": [53]}.items():
        h = torch.cat([hidden(live, layer, valid[s : s + 60])[..., units] for s in range(0, len(valid), 60)])
        cls, patches = h[:, 0].mean(0), h[:, 1:].mean((0, 1))
        value = torch.cat([cls[None], patches.expand(h.shape[1] - 1, -1)])
        change[layer] = set_to(units, always(value))
    assert near(without(live, "mean"), directly(live, IDS, change))


def test_other_images_values_stand_at_the_same_tokens(live: LiveModel) -> None:
    substitute = Substitute(live, *parsed("resample"), seed=3)
    donors = [substitute._donor(image_id, 0) for image_id in IDS]
    assert all(donor != image_id for donor, image_id in zip(donors, IDS, strict=True))
    change = {}
    for layer, units in {"blocks.1.mlp.fc1": [5, 700], "blocks.4.mlp.fc1": [53]}.items():
        value = hidden(live, layer, donors)[..., units]
        change[layer] = set_to(units, always(value))
    assert near(without(live, "resample"), directly(live, IDS, change))


def test_subject_and_background(live: LiveModel, sample: Index) -> None:
    """Patches by the mask's cover; CLS keeps what it has. Both together are all patches."""
    masks = open_masks(sample)
    covers = torch.tensor(masks.covers(IDS), dtype=torch.float32)
    for image_id, cover in zip(IDS, covers, strict=True):
        mask = masks.object(image_id)
        assert mask is not None
        assert torch.equal(cover, torch.tensor(patch_cover(mask, sample.spec.grid).reshape(-1), dtype=torch.float32))
    weight = torch.cat([torch.zeros(len(IDS), 1), covers], 1)
    change = {
        "blocks.1.mlp.fc1": set_to([5, 700], lambda h: h * (1 - weight[..., None])),
        "blocks.4.mlp.fc1": set_to([53], lambda h: h * (1 - weight[..., None])),
    }
    assert near(without(live, "zero", weight), directly(live, IDS, change))


def test_the_table_is_what_the_passes_give(live: LiveModel, sample: Index) -> None:
    table = ablate(sample, "coin", NEURONS, replace="zero", images=100, random=3, seed=1).set_index("measure")
    coin = sample.class_id("coin")
    own = sample.sql("SELECT image_id FROM images WHERE class_id = ? ORDER BY 1", [coin]).image_id.tolist()
    change = {
        "blocks.1.mlp.fc1": set_to([5, 700], lambda h: h * 0),
        "blocks.4.mlp.fc1": set_to([53], lambda h: h * 0),
    }
    before, after = (directly(live, own, some).double().numpy() for some in ({}, change))
    for name in MEASURES:
        difference = measured(after, coin)[name] - measured(before, coin)[name]
        assert table.change[name] == pytest.approx(difference.mean(), abs=1e-6)
        assert table.se[name] == pytest.approx(difference.std(ddof=1) / len(own) ** 0.5, abs=1e-6)
    assert table.before["accuracy"] == (before.argmax(1) == coin).mean()
    assert table.n.tolist() == [40] * 6
    row: Any = table.loc["logit"]
    assert row.random_low <= row.random <= row.random_high
    assert row.passes == (abs(row.change) > max(abs(row.random_low), abs(row.random_high)))
    assert list(table.index) == [*MEASURES, *OTHERS]
    told = ablation_caption("coin", "3 neurons", "zero", "everywhere", table, 3)
    assert "n = 40 of its images, 40 of other classes" in told
    assert "passes: more than all of them, by chance once in 4." in told
    figure: Any = ablation_figure(table.reset_index(), told)
    assert figure.get_suptitle().split() == told.split()
    labels = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]
    assert labels[0] == ["logit  (n = 40)", "margin  (n = 40)", "others_logit  (n = 40)"]


def test_measures_by_hand() -> None:
    logits = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 0.5]])
    found = measured(logits, 1)
    assert found["logit"].tolist() == [1.0, pytest.approx(-1 + 0.5 / 3)]
    assert found["margin"].tolist() == [1.0, -1.5]
    assert found["probability"][0] == pytest.approx(np.exp(3) / np.exp([1, 3, 2]).sum())
    assert found["accuracy"].tolist() == [1.0, 0.0]


@pytest.fixture(params=MODELS)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    """A model of another kind on a few images."""
    with Index(index_of(*MODELS[request.param], tmp_path)) as index:
        yield index


def test_other_models(other: Index) -> None:
    """The mean on every kind of token, by one pass over all images; and later blocks run alone."""
    live, ids = open_model(other), list(range(9))
    neurons = [Neuron("blocks.0.mlp.fc1", 3), Neuron("blocks.2.mlp.fc1", 10)]
    change = {}
    for layer, unit in neurons:
        h = hidden(live, layer, ids)[..., [unit]]
        prefix = other.spec.prefix
        patches = h[:, prefix:].mean().expand(h.shape[1] - prefix, 1)
        value = torch.cat([h[:, :prefix].mean(0), patches])
        change[layer] = set_to([unit], always(value))
    with torch.no_grad(), replaced(live, neurons, Substitute(live, "mean"), ids):
        found = live(live.pixels(ids), [])[0]
    expected = directly(live, ids, change)
    assert near(found, expected)
    assert not near(expected, directly(live, ids, {}))
    again = Rerun(live, live.pixels(ids), [0, 2])
    with replaced(live, neurons, Substitute(live, "mean"), ids):
        assert torch.equal(again.logits(0), found)
    assert torch.equal(again.logits(2), again.before)


def test_effect_on_tokens_of_other_models(other: Index) -> None:
    """Patches and every prefix token, each beside its own mean."""
    live = open_model(other)
    for layer, unit in (("blocks.0.mlp.fc1", 3), ("blocks.2.mlp.fc1", 10)):
        fc2 = live.anatomy.model.get_submodule(layer.replace("fc1", "fc2"))
        direct = effect_by_hand(live, fc2, unit, 1, 4)
        found = effect_on_tokens(live, layer, [unit], 1, 4)
        both = np.concatenate([found.prefix[0], found.patches.reshape(-1)])
        assert len(both) == other.spec.tokens
        np.testing.assert_allclose(both, direct, atol=1e-5 * np.abs(direct).max())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--replace", "half"], "no replacement 'half'. One of mean, zero"),
        (["--replace", "times:x"], "no replacement 'times:x'"),
        (["--replace", "zero:1"], "no replacement 'zero:1'"),
        (["--neuron", "blocks.9.mlp.fc1:1"], "blocks.9.mlp.fc1"),
        (["--where", "subject", "--masks", "nowhere"], "no folder of masks at nowhere"),
    ],
)
def test_what_cannot_be_asked(words: list[str], told: str, sample_path: Path) -> None:
    out = CliRunner().invoke(cli, ["ablate", str(sample_path), "--class", "coin", *words])
    assert isinstance(out.exception, QueryError)
    assert told in str(out.exception)


def test_the_command(sample_path: Path, tmp_path: Path) -> None:
    words = ["ablate", str(sample_path), "--class", "coin", "-k", "2", "--random", "2", "--images", "4"]
    out = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "coin.png")], catch_exceptions=False)
    assert out.exit_code == 0
    assert "What the answer on coin loses without its first 2 neurons by contribution" in out.stderr
    assert "n = 4 of its images, 4 of other classes" in out.stderr
    assert (tmp_path / "coin.png").exists()
