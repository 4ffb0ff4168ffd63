"""Rankings compared by what classes lose: against forward passes with independent hooks, and tests by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from test_ablation import directly
from torch import Tensor
from vitdex.query.causal.captions import of_ranking_pairs, of_rankings
from vitdex.query.causal.rankings import LOSSES, compare_rankings, ranking_means, ranking_pairs
from vitdex.query.causal.runs import OTHERS, measured, random_sets
from vitdex.query.commands.main import cli
from vitdex.query.drawing.rankings_figure import rankings_figure
from vitdex.query.index import Index
from vitdex.query.lookups.class_images import drawn_images
from vitdex.query.lookups.key_neurons import RANKINGS, key_neurons, named
from vitdex.query.model.edits import skipped
from vitdex.query.model.live_model import LiveModel, open_model
from vitdex.query.model.rerun import Rerun
from vitdex.query.stored.names import Neuron
from vitdex.schemas.errors import QueryError

ASKED: dict[str, Any] = {"ks": (3, 1), "classes": ["coin", "bird"], "replace": "zero", "images": 3, "random": 2}


@pytest.fixture
def live(sample: Index) -> LiveModel:
    return open_model(sample)


@pytest.fixture(scope="module")
def passes() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def table(sample_path: Path, passes: list[tuple[int, int]]) -> pd.DataFrame:
    """Two classes by all rankings."""
    with Index(sample_path) as index:
        return compare_rankings(index, **ASKED, progress=lambda done, total: passes.append((done, total)))


def zeroed(neurons: list[Neuron]) -> dict[str, Any]:
    """The changes that `directly` makes: these neurons write nothing."""
    units = {layer: [n.unit for n in neurons if n.layer == layer] for layer, _ in neurons}

    def change(some: list[int], h: Tensor) -> Tensor:
        return h * torch.isin(torch.arange(h.shape[-1]), torch.tensor(some), invert=True)

    return {layer: lambda h, some=some: change(some, h) for layer, some in units.items()}


def losses(live: LiveModel, neurons: list[Neuron], class_id: int) -> dict[str, float]:
    """Changes of every measure by hooks of torch alone."""
    index = live.index
    own, others = drawn_images(index, class_id, 3, 0)
    labels = index.sql("SELECT class_id FROM images ORDER BY image_id").class_id.to_numpy()[others]
    found: dict[str, float] = {}
    for ids, of, end in ((own, class_id, ""), (others, labels, "others_")):
        before, after = (directly(live, ids.tolist(), some).double().numpy() for some in ({}, zeroed(neurons)))
        change = {name: (measured(after, of)[name] - measured(before, of)[name]).mean() for name in LOSSES[:4]}
        found |= {f"{end}{name}": value for name, value in change.items() if not end or f"{end}{name}" in OTHERS}
    return found | {"specific": found["logit"] - found["others_logit"]}


@pytest.mark.parametrize(("by", "k"), [("contribution", 3), ("auroc", 1), ("cosine", 3)])
def test_what_is_lost_is_what_direct_passes_lose(by: Any, k: int, table: pd.DataFrame, live: LiveModel) -> None:
    coin = live.index.class_id("coin")
    row: Any = table[(table["class"] == "coin") & (table.ranking == by) & (table.k == k)].iloc[0]
    expected = losses(live, named(key_neurons(live.index, coin, k, by)), coin)
    assert set(expected) == set(LOSSES)
    assert row[[*LOSSES]].to_dict() == pytest.approx(expected, abs=2e-5)
    assert abs(row.logit) > 0.003


def test_random_neurons_are_of_the_same_layers(table: pd.DataFrame, live: LiveModel) -> None:
    index, coin = live.index, live.index.class_id("coin")
    layers: dict[str, int] = {}
    for layer, _ in sorted(named(key_neurons(index, coin, 3, "score"))):
        layers[layer] = layers.get(layer, 0) + 1
    sets = random_sets(index, layers, 2, (0, coin))
    assert sets[0] != sets[1]
    for seed in ((1, coin), (0, coin + 1)):  # other classes have others, else their means would not be independent
        assert random_sets(index, layers, 2, seed) != sets
    for one in sets:
        assert {layer: sum(n.layer == layer for n in one) for layer in layers} == layers
        assert len({*one}) == 3
    row: Any = table[(table["class"] == "coin") & (table.ranking == "score") & (table.k == 3)].iloc[0]
    expected = [losses(live, one, coin) for one in sets]
    for name in LOSSES:
        assert row[f"random_{name}"] == pytest.approx(np.mean([one[name] for one in expected]), abs=2e-5)


def test_every_ranking_that_the_index_has(table: pd.DataFrame, sample: Index) -> None:
    assert [*table.ranking.unique()] == [by for by in RANKINGS if has(sample, by)]
    assert len(table) == 2 * 2 * table.ranking.nunique()
    assert [*table.k.unique()] == [1, 3]
    assert (table.neurons == table.k).all()
    assert {*table["class"]} == {"coin", "bird"}
    assert {*table.n, *table.n_others} == {3}


def test_a_ranking_that_the_index_lacks(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(index: Index, class_id: int, k: int, by: Any) -> pd.DataFrame:
        if by == "cosine":
            raise QueryError("this index ranks no such neuron by cosine")
        return key_neurons(index, class_id, k, by)

    monkeypatch.setattr("vitdex.query.causal.rankings.key_neurons", without)
    few: dict[str, Any] = {"ks": (1,), "classes": ["coin"], "images": 1, "random": 0}
    found = compare_rankings(sample, **few)
    assert "cosine" not in found.ranking.tolist()
    assert "Not compared: cosine, effect." in of_rankings(sample, found, "mean", 0)
    with pytest.raises(QueryError, match="by cosine"):
        compare_rankings(sample, **few, rankings=["score", "cosine"])


def has(index: Index, by: Any) -> bool:
    try:
        return len(key_neurons(index, "coin", 1, by)) == 1
    except QueryError:
        return False


def test_the_same_neurons_run_once(table: pd.DataFrame, passes: list[tuple[int, int]], sample: Index) -> None:
    """Rankings that agree cost nothing more: the images are those of the distinct sets, told before and after."""
    assert passes[0] == (0, passes[-1][1])
    assert passes[-1][0] == passes[-1][1]
    total = 0
    for class_id in (sample.class_id("coin"), sample.class_id("bird")):
        tops = {by: named(key_neurons(sample, class_id, 3, by)) for by in table.ranking.unique()}
        sets = {frozenset(top[:k]) for top in tops.values() for k in (1, 3)}
        for one in [*sets]:
            layers: dict[str, int] = {}
            for layer, _ in sorted(one):
                layers[layer] = layers.get(layer, 0) + 1
            sets |= {frozenset(drawn) for drawn in random_sets(sample, layers, 2, (0, class_id))}
        total += 6 * (1 + len(sets))
    assert passes[-1][1] == total
    assert total < 2 * 6 * (1 + 3 * 2 * table.ranking.nunique())


def test_later_blocks_alone_give_the_same_answer(live: LiveModel) -> None:
    pixels = live.pixels([0, 45])
    again = Rerun(live, pixels, [0, 3, 5])
    assert torch.equal(again.before, live(pixels, [])[0])
    ran: list[int] = []
    blocks = [live.anatomy.model.get_submodule(f"blocks.{number}") for number in range(6)]
    hooks = [
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))  # type: ignore[union-attr]
        for number, block in enumerate(blocks)
    ]
    for block in (0, 3, 5):
        ran.clear()
        assert torch.equal(again.logits(block), again.before)
        assert ran == [*range(block, 6)]
    for hook in hooks:
        hook.remove()
    with skipped(blocks[:2]), skipped(blocks[:1]):
        assert "forward" in vars(blocks[0])
    assert "forward" not in vars(blocks[0])


def test_classes_are_drawn_where_there_are_more(sample: Index) -> None:
    few: dict[str, Any] = {"ks": (1,), "rankings": ["score"], "images": 1, "random": 0, "limit": 3}
    drawn = [compare_rankings(sample, **few, seed=seed) for seed in (0, 0, 1)]
    assert [table.class_id.nunique() for table in drawn] == [3, 3, 3]
    assert drawn[0].class_id.tolist() == drawn[1].class_id.tolist() != drawn[2].class_id.tolist()
    assert drawn[0].random_logit.isna().all()
    assert "3 of 12 classes" in of_rankings(sample, drawn[0], "mean", 0)
    named_ones = compare_rankings(sample, **few | {"limit": 1}, classes=["coin", "bird"])
    assert named_ones["class"].tolist() == ["coin", "bird"]


def made_up() -> pd.DataFrame:
    """12 classes, three rankings at one k: b loses 0.1 to 1.2 more than a, c differs in two classes alone."""
    steps = np.arange(1, 13) / 10
    frames = []
    for name, change in (("a", -steps), ("b", -2 * steps), ("c", -steps + np.array([0.3, -0.1] + [0] * 10))):
        rows = pd.DataFrame({"class_id": range(12), "class": "x", "ranking": name, "k": 3, "n": 4, "n_others": 4})
        frames.append(rows.assign(**{m: change for m in LOSSES}, **{f"random_{m}": -0.5 * steps for m in LOSSES}))
    return pd.concat(frames, ignore_index=True)


def test_paired_tests_by_hand() -> None:
    pairs = ranking_pairs(made_up(), "a").set_index("ranking")
    assert [*pairs.index] == ["b", "c"]
    b: Any = pairs.loc["b"]
    assert b.difference == pytest.approx(-0.65)
    spread = 2.200985 * np.std(np.arange(1, 13) / 10, ddof=1) / 12**0.5  # Student's t at 11 degrees of freedom
    assert [b.low, b.high] == pytest.approx([-0.65 - spread, -0.65 + spread], abs=1e-6)
    assert b.p == pytest.approx(2 / 2**12)  # of all patterns of twelve signs two are as one-sided
    assert pairs.tested.tolist() == [12, 2]
    c: Any = pairs.loc["c"]
    assert c.p == pytest.approx(1.0)
    assert pairs.p_holm.tolist() == pytest.approx([2 * b.p, 1.0])
    assert pairs.differs.tolist() == [True, False]
    assert pairs.classes.tolist() == [12, 12]


def test_against_random_neurons_every_ranking_has_its_own() -> None:
    pairs = ranking_pairs(made_up(), "random", "specific").set_index("ranking")
    assert [*pairs.index] == ["a", "b", "c"]
    assert pairs.difference[["a", "b"]].tolist() == pytest.approx([-0.325, -0.975])


def test_holm_by_hand() -> None:
    """p of 0.01, 0.04, 0.03, and none: times 3, 1, 2, none falling below one before it."""
    from vitdex.query.causal.rankings import _holm

    corrected = _holm(np.array([0.01, 0.04, 0.03, np.nan, 0.9]))
    np.testing.assert_allclose(corrected, [0.04, 0.09, 0.09, np.nan, 0.9])


def test_what_does_not_differ_is_not_tested() -> None:
    same = made_up().query("ranking == 'a'")
    table = pd.concat([same, same.assign(ranking="b")])
    pairs = ranking_pairs(table, "a")
    assert np.isnan(pairs.p[0])
    assert np.isnan(pairs.p_holm[0])
    assert not pairs.differs[0]
    assert pairs.tested[0] == 0


def test_means_over_classes(table: pd.DataFrame) -> None:
    means = ranking_means(table)
    assert len(means) == 2 * table.ranking.nunique()
    row: Any = means[(means.ranking == "score") & (means.k == 3)].iloc[0]
    rows = table[(table.ranking == "score") & (table.k == 3)]
    assert row.classes == 2
    assert row.margin == pytest.approx(rows.margin.mean())
    assert row.margin_se == pytest.approx(rows.margin.std(ddof=1) / 2**0.5)
    assert row.random_margin == pytest.approx(rows.random_margin.mean())


def test_captions_say_what_was_compared(table: pd.DataFrame, sample: Index) -> None:
    told = of_rankings(sample, table, "zero", 2)
    figure = rankings_figure(ranking_means(table), told)
    assert figure.get_suptitle().split() == told.split()
    (legend,) = figure.legends
    drawn = [text.get_text() for text in legend.get_texts()]
    assert [name for name in drawn if name.startswith("by ")] == [f"by {by}" for by in table.ranking.unique()]
    assert figure.axes[0].get_title() == "the class's images: its logit"
    assert "top 1, 3 neurons, removed together (replaced by zero)" in told
    assert "2 of 12 classes, 3 images of each and 3 of other classes" in told
    assert f"{table.accuracy_before.mean():.3f} on a class's images" in told
    assert "2 sets a class" in told
    assert "Not compared: score" in of_rankings(sample, table[table.ranking != "score"], "zero", 2)
    pairs = ranking_pairs(table, "random")
    told = of_ranking_pairs(pairs, "logit", "zero")
    assert f"Holm for the {len(pairs)} rows" in told
    assert "against random neurons of the same layers" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--class", "coins"], "no class 'coins'"),
        (["--replace", "half"], "no replacement 'half'"),
        (["--by", "score", "--rows", "pairs"], "no ranking 'contribution' to compare with. One of score, random"),
    ],
)
def test_what_cannot_be_asked(words: list[str], told: str, sample_path: Path) -> None:
    few = ["-k", "1", "--images", "1", "--random", "0", "--limit", "1"]
    out = CliRunner().invoke(cli, ["rankings", str(sample_path), *few, *words])
    assert isinstance(out.exception, QueryError)
    assert told in str(out.exception)


def test_the_command(sample_path: Path, tmp_path: Path) -> None:
    words = ["rankings", str(sample_path), "-k", "1", "-k", "2", "--images", "2", "--random", "1", "--class", "coin"]
    rows = {"rankings": "logit_se", "classes": "coin", "pairs": "p_holm"}
    for name, told in rows.items():
        asked = [*words, "--by", "score", "--by", "contribution", "--rows", name, "-o", str(tmp_path / f"{name}.png")]
        out = CliRunner().invoke(cli, asked, catch_exceptions=False)
        assert out.exit_code == 0
        assert told in out.stdout
        assert (tmp_path / f"{name}.png").exists()
