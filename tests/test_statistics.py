"""Rankings and class statistics on made-up values with ties, against loops that anyone can check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from vitdex.indexer.bins import EDGES, bin_of
from vitdex.indexer.counts import Statistics, counted_patches, pick_patches, tail_length
from vitdex.indexer.exemplar_maps import RunningMaps, key_ids
from vitdex.indexer.statistics import class_auroc, class_means, ranked, score_ranks
from vitdex.schemas.layout import units_per_chunk
from vitdex.schemas.records import LayerSpec

RNG = np.random.default_rng(0)
TIED = RNG.integers(-3, 4, (5, 40)).astype(np.float32)  # [neuron, image], many equal values, 0 and -0
TIED[0, ::3] = -0.0


@pytest.mark.parametrize("k", [1, 7, 40])
def test_ties_go_to_the_lower_image(k: int) -> None:
    ids = np.arange(40)
    assert ranked(TIED, k).tolist() == [np.lexsort((ids, -row))[:k].tolist() for row in TIED]
    assert ranked(TIED, k, largest=False).tolist() == [np.lexsort((ids, row))[:k].tolist() for row in TIED]


def test_unreadable_images_rank_last() -> None:
    values = TIED.copy()
    values[:, 4] = np.nan
    assert (ranked(values, 40)[:, -1] == 4).all()
    assert (ranked(values, 40, largest=False)[:, -1] == 4).all()


def test_auroc_counts_ties_one_half() -> None:
    ids = RNG.integers(0, 3, 40)
    found = class_auroc(TIED, ids, 4)
    for c in range(3):
        for unit, row in enumerate(TIED):
            a, b = row[ids == c][:, None], row[ids != c][None]
            assert found[c, unit] == pytest.approx(((a > b) + 0.5 * (a == b)).mean())
    assert np.isnan(found[3]).all()


def test_means_of_classes() -> None:
    ids = np.array([1] * 10 + [0] * 30)
    found = class_means(TIED.T, ids, 3)
    np.testing.assert_allclose(found[1], TIED[:, :10].mean(1))
    np.testing.assert_allclose(found[0], TIED[:, 10:].mean(1))
    assert np.isnan(found[2]).all()


def test_score_ranks_count_from_one_with_ties_to_the_lower_neuron() -> None:
    assert score_ranks(np.array([[2.0], [3.0], [2.0], [5.0]], np.float32))[:, 0].tolist() == [3, 2, 4, 1]


def test_running_maps_keep_the_best_images_whatever_the_batches() -> None:
    running = RunningMaps(5, 6, 1, torch.device("cpu"))
    for first in range(0, 40, 7):
        rows = torch.from_numpy(TIED.T[first : first + 7].copy()) + 0.0
        ids = range(first, min(first + 7, 40))
        running.add(rows, ids, torch.tensor(ids, dtype=torch.uint8)[:, None, None].expand(-1, 5, 1))
    kept = key_ids(running.keys).sort(1).values.tolist()
    assert kept == [sorted(row) for row in ranked(TIED, 6).tolist()]
    assert (running.codes[..., 0].long() == key_ids(running.keys)).all()


def test_bins_hold_the_values_between_their_edges() -> None:
    values = np.concatenate([RNG.standard_normal(1000) * s for s in (1e-6, 1e-2, 1, 30, 200)]).astype(np.float32)
    at = bin_of(torch.from_numpy(values)).numpy()
    assert (EDGES[at] <= values).all()
    assert (values <= EDGES[at + 1]).all()


def test_thresholds_of_a_large_set_stand_within_half_a_thousandth() -> None:
    """Every patch counted, no tail kept: normal, skewed, heavy-tailed neurons, and a narrow one far from zero."""
    draws = np.stack([RNG.normal(-1, 1, 400_000), RNG.gamma(2, 0.3, 400_000) - 1, RNG.standard_t(3, 400_000),
                      RNG.normal(-3.1, 0.02, 400_000)])  # fmt: skip
    statistics = Statistics([LayerSpec("x", 0, "hidden", 4)], 0, "cpu")
    for block in np.split(draws.astype(np.float32), 8, axis=1):
        statistics.add("x", torch.from_numpy(np.ascontiguousarray(block)))
    for share, found in zip((0.99, 0.995), statistics.quantiles("x", (0.99, 0.995)).T, strict=True):
        rank = (draws.astype(np.float32) < found[:, None]).mean(1)
        assert np.abs(rank - share).max() <= 0.0005


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
    one.add("x", torch.from_numpy(TIED[:, :20].copy()))
    two.load(one.state())
    for statistics in (one, two):
        statistics.add("x", torch.from_numpy(TIED[:, 20:].copy()))
    assert {k: v.tolist() for k, v in one.state().items()} == {k: v.tolist() for k, v in two.state().items()}


def test_chunks_divide_the_units() -> None:
    assert units_per_chunk(3072, 138 * 196) == 32
    assert units_per_chunk(7, 10**9) == 1
