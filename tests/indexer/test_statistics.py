"""Rankings and class statistics on made-up values with ties, against loops that anyone can check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from vitdex.indexer.statistics.bins import EDGES, HALF, bin_of, where_bins_lie
from vitdex.indexer.statistics.exemplar_maps import RunningMaps, key_ids
from vitdex.indexer.statistics.image_ranks import Means, largest, rank_images, score_ranks
from vitdex.indexer.statistics.saved_state import merge_state, pack_by_layer, pack_state, sums_in_order
from vitdex.indexer.statistics.sorting import transpose
from vitdex.indexer.statistics.threshold_counts import Statistics, counted_patches, pick_patches, tail_length
from vitdex.schemas.array_specs import units_per_chunk
from vitdex.schemas.run_spec import LayerSpec

RNG = np.random.default_rng(0)
TIED = RNG.integers(-3, 4, (5, 40)).astype(np.float32)  # [neuron, image], many equal values, 0 and -0
TIED[0, ::3] = -0.0


EVERY, NONE = np.ones(40, bool), np.full(40, -1)


def best(values: NDArray[np.float32], k: int) -> list[list[int]]:
    """The k largest of each row, ties to the lower position."""
    return [np.lexsort((np.arange(len(row)), -row))[:k].tolist() for row in values]


def test_ties_go_to_the_lower_image() -> None:
    sides = rank_images(TIED, EVERY, NONE, 0).sides
    assert sides["top"].tolist() == best(TIED, 40)
    assert sides["bottom"].tolist() == best(-TIED, 20)
    assert sides["quantile"].tolist() == [
        [row[i] for i in (35, 31, 27, 23, 20, 16, 12, 8, 4)] for row in best(TIED, 40)
    ]
    assert largest([(0, TIED.T[:7]), (7, TIED.T[7:])], 5, 20)[1].tolist() == best(TIED, 20)


def test_order_is_that_of_the_values_over_the_whole_range() -> None:
    values = (RNG.standard_normal((3, 500)) * 10.0 ** RNG.integers(-30, 30, (3, 500))).astype(np.float32)
    values[0, :4] = np.inf, -np.inf, 1e-45, -1e-45
    assert rank_images(values, np.ones(500, bool), np.full(500, -1), 0).sides["top"].tolist() == best(values, 100)


def test_unreadable_images_stand_nowhere() -> None:
    values = TIED.copy()
    values[:, 4] = np.nan
    valid = np.arange(40) != 4
    found = rank_images(values, valid, np.zeros(40, np.int64), 1)
    assert all((ids != 4).all() for ids in found.sides.values())
    assert found.sides["top"].tolist() == [[i for i in row if i != 4] for row in best(TIED, 40)]
    assert 4 not in largest([(0, values.T)], 5, 20)[1]


def test_auroc_counts_ties_one_half() -> None:
    ids = RNG.integers(-1, 3, 40)
    found = rank_images(TIED, EVERY, ids, 4).auroc
    for c in range(3):
        for unit, row in enumerate(TIED):
            a, b = row[ids == c][:, None], row[(ids != c) & (ids >= 0)][None]
            assert found[c, unit] == pytest.approx(((a > b) + 0.5 * (a == b)).mean())
    assert np.isnan(found[3]).all()


def test_means_of_classes() -> None:
    ids, valid = np.array([1] * 10 + [0] * 20 + [-1] * 10), np.arange(40) != 3
    values = TIED.T.copy()
    values[3] = np.nan
    means = Means(5, 3)
    for some in (slice(0, 7), slice(7, 40)):
        means.add(values[some], ids[some], valid[some])
    np.testing.assert_allclose(means.class_means[1], np.delete(TIED, 3, 1)[:, :9].mean(1))
    np.testing.assert_allclose(means.class_means[0], TIED[:, 10:30].mean(1))
    np.testing.assert_allclose(means.mean, np.delete(TIED, 3, 1).mean(1), rtol=1e-6)
    assert np.isnan(means.class_means[2]).all()


def test_score_ranks_count_from_one_with_ties_to_the_lower_neuron() -> None:
    ranks, in_group = score_ranks(np.array([[2.0, 3.0, 2.0, 5.0]], np.float32), np.array([0, 1, 1, 0]))
    assert ranks.tolist() == [[3, 2, 4, 1]]
    assert in_group.tolist() == [[2, 1, 2, 1]]


def test_transposed_is_the_other_way_round() -> None:
    values = RNG.standard_normal((9, 37)).astype(np.float32)
    out = np.zeros((37, 20), np.float32)
    transpose(values, out[:, 5:14])
    assert (out[:, 5:14] == values.T).all()
    assert (out[:, :5] == 0).all()
    assert (out[:, 14:] == 0).all()


@pytest.mark.parametrize("way", ["one_by_one", "together"])
def test_running_maps_keep_the_best_images_whatever_the_batches(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running = RunningMaps(5, 6, 1, torch.device("cpu"))
    monkeypatch.setattr(running, "one_by_one", getattr(running, way))
    for first in range(0, 40, 7):
        rows = torch.from_numpy(TIED.T[first : first + 7].copy()) + 0.0
        ids = torch.arange(first, min(first + 7, 40))
        running.add(rows, ids, ids.to(torch.uint8)[:, None, None].expand(-1, 5, 1))
    kept = key_ids(running.keys).sort(1).values.tolist()
    assert kept == [sorted(row) for row in best(TIED, 6)]
    assert (running.codes[..., 0].long() == key_ids(running.keys)).all()


def test_bins_hold_the_values_between_their_edges() -> None:
    sizes = (1e-6, 1e-2, 1, 30, 200, 1e5, 1e9)
    values = np.concatenate([RNG.standard_normal(1000) * s for s in sizes]).astype(np.float32)
    values = np.concatenate([values, np.float32(EDGES[[1, 300, HALF, -2]]), -np.float32(EDGES[[300, HALF + 1, -300]])])
    at = bin_of(torch.from_numpy(values)).numpy()
    assert (EDGES[at] <= values).all()
    assert (values <= EDGES[at + 1]).all()


def test_thresholds_of_a_large_set_stand_within_half_a_thousandth() -> None:
    """Every patch counted, no tail kept: normal, skewed, heavy-tailed neurons, and a narrow one far from zero."""
    draws = np.stack([RNG.normal(-1, 1, 400_000), RNG.gamma(2, 0.3, 400_000) - 1, RNG.standard_t(3, 400_000),
                      RNG.normal(-3.1, 0.02, 400_000)])  # fmt: skip
    statistics = Statistics([LayerSpec("x", 0, "hidden", 4)], 0, "cpu")
    statistics.lay_bins({"x": where_bins_lie(torch.from_numpy(draws[:, :1000].astype(np.float32)))})
    for block in np.split(draws.astype(np.float32), 8, axis=1):
        statistics.add("x", torch.from_numpy(np.ascontiguousarray(block)))
    for share, found in zip((0.99, 0.995), statistics.quantiles("x", (0.99, 0.995)).T, strict=True):
        rank = (draws.astype(np.float32) < found[:, None]).mean(1)
        assert np.abs(rank - share).max() <= 0.0005


SHARES = (0.001, 0.5, 0.9, 0.99, 0.999)


def rank_error(values: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """How far the thresholds' ranks are from SHARES, the best of the ranks that a repeated value has."""
    below = np.stack([(values < t[:, None]).mean(1) for t in found.T], 1)
    up_to = np.stack([(values <= t[:, None]).mean(1) for t in found.T], 1)
    return float(np.maximum(np.maximum(below - SHARES, SHARES - up_to), 0).max())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("order", ["dust first", "dust last", "sorted", "an outlier first", "dust alone first"])
def test_thresholds_do_not_depend_on_what_comes_first(order: str, compiled: bool) -> None:
    """Blank pages (rounding dust around a constant), sorted sets, one huge value: through the whole of `count`."""
    images, tokens, units = 240, 40, 6
    random = np.random.default_rng(5)
    values = random.normal(0.3, 1, (images, tokens, units)).astype(np.float32)
    values[:24] = 0.7 + 1e-6 * random.standard_normal((24, tokens, units))
    if order == "dust last":
        values = values[::-1].copy()
    elif order == "sorted":
        values = np.sort(values.reshape(-1, units), 0).reshape(values.shape)
    elif order == "an outlier first":
        values[0, 0] = 1e6
    statistics = Statistics([LayerSpec("x", 0, "hidden", units)], 0, "cpu")
    looked_at = values[:16] if order == "dust alone first" else values[:: images // 16]
    statistics.lay_bins({"x": where_bins_lie(torch.from_numpy(looked_at.reshape(-1, units).T.copy()))})
    for batch in np.split(values, 10):
        statistics.count("x", torch.from_numpy(batch), 0, None, compiled)
    found = statistics.quantiles("x", SHARES)
    assert rank_error(values.reshape(-1, units).T, found) <= 0.005
    assert int(statistics.counts["x"].sum()) == values.size


@pytest.mark.parametrize("tail", [0, 14])
def test_counts_of_parts_add_up_in_any_order(tail: int) -> None:
    """Of values of all sizes, by two workers: the same numbers as by one, bit for bit; sums in the order of parts."""
    layers = [LayerSpec("x", 0, "hidden", 6), LayerSpec("y", 0, "attention", 6)]
    sizes = 10.0 ** RNG.integers(-9, 9, (4, 6, 300))
    parts = torch.from_numpy((RNG.standard_normal((4, 6, 300)) * sizes).astype(np.float32))
    bins = {layer.name: where_bins_lie(torch.from_numpy(TIED[[0, 0, 1, 2, 3, 4]])) for layer in layers}

    def counted(order: tuple[int, ...]) -> tuple[Statistics, dict[int, bytes]]:
        statistics, sums = Statistics(layers, tail, "cpu"), {}
        statistics.lay_bins(bins)
        for part in order:
            for layer in layers:
                statistics.add_prefix(layer.name, parts[part, None, :, :1].transpose(1, 2))
                statistics.add(layer.name, parts[part])
            sums[part] = pack_by_layer(statistics.take_sums())
        return statistics, sums

    one, sums = counted((0, 1, 2, 3))
    one.add_sums(sums_in_order(sums[i] for i in range(4)))
    for halves in (((3, 1), (2, 0)), ((2,), (1, 0, 3))):
        (a, of_a), (b, of_b) = map(counted, halves)
        both = Statistics(layers, tail, "cpu")
        both.lay_bins(bins)
        for some in (b, a):
            merge_state(both, pack_state(some))
        both.add_sums(sums_in_order({**of_a, **of_b}[i] for i in range(4)))
        for layer in layers:
            ours, theirs = both.state_of(layer.name), one.state_of(layer.name)
            assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
            assert torch.equal(both.sums[layer.name], one.sums[layer.name])
            assert (both.quantiles(layer.name, SHARES) == one.quantiles(layer.name, SHARES)).all()
            assert (both.deviation(layer.name) == one.deviation(layer.name)).all()


def test_how_much_is_counted() -> None:
    assert counted_patches(480, 64) == 64
    assert counted_patches(50_000, 196) == 16
    assert tail_length(480, 64) == 310
    assert tail_length(50_000, 196) == 0
    picked = pick_patches([3, 4], 196, 16)
    assert picked.tolist() == [pick_patches([3], 196, 16)[0].tolist(), pick_patches([4], 196, 16)[0].tolist()]
    assert len(set(picked[0].tolist())) == 16
    assert picked[0].tolist() != picked[1].tolist()


def test_state_goes_round() -> None:
    layers = [LayerSpec("x", 0, "hidden", 5)]
    one, two = Statistics(layers, 3, "cpu"), Statistics(layers, 3, "cpu")
    for statistics in (one, two):
        statistics.lay_bins({"x": where_bins_lie(torch.from_numpy(TIED))})
    one.add("x", torch.from_numpy(TIED[:, :20].copy()))
    merge_state(two, pack_state(one))
    for statistics in (one, two):
        statistics.add("x", torch.from_numpy(TIED[:, 20:].copy()))
    states = [statistics.state_of("x") for statistics in (one, two)]
    assert {k: v.tolist() for k, v in states[0].items()} == {k: v.tolist() for k, v in states[1].items()}


def test_chunks_divide_the_units() -> None:
    assert units_per_chunk(3072, 138 * 196) == 32
    assert units_per_chunk(7, 10**9) == 1
