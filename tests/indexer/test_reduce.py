"""The compiled reductions against their definition in torch: every precision, ties, flat maps, odd widths."""

from __future__ import annotations

import pytest
import torch
from vitdex.indexer.run.reduce import reduce_compiled, reduce_plain, room_for
from vitdex.indexer.statistics.bins import where_bins_lie
from vitdex.indexer.statistics.threshold_counts import Statistics
from vitdex.schemas.run_spec import LayerSpec, Maps

PREFIX = 2
IMAGES, PATCHES, UNITS = 30, 27, 300  # no multiples of what the kernels take at once, and more than that


def values(kind: torch.dtype) -> torch.Tensor:
    x = torch.randn(IMAGES, PREFIX + PATCHES, UNITS, generator=torch.Generator().manual_seed(0)) * 3 - 1
    x[:, :, 3] = -0.25  # a flat map
    x[1, 5, 8] = x[1, 9, 8] = x[1].max() + 1  # the same maximum on two patches
    x[2, 4, 60:64] = 50  # four neurons alike at the top of a token
    return x.to(kind)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("maps", ["uint8", "float16", "none"])
def test_compiled_reductions_are_the_plain_ones(kind: torch.dtype, maps: Maps) -> None:
    x = values(kind)
    y = torch.nn.functional.gelu(x)
    plain = reduce_plain(x, y, PREFIX, maps)
    compiled = reduce_compiled(x, y, PREFIX, maps, room_for(IMAGES + 1, PREFIX + PATCHES, PREFIX, UNITS, maps))
    assert set(plain) == set(compiled)
    for leaf in set(plain) - {"mean", "post_mean", "token_top"}:
        assert torch.equal(plain[leaf].double(), compiled[leaf].double()), leaf
    for leaf in ("mean", "post_mean"):
        torch.testing.assert_close(plain[leaf], compiled[leaf], rtol=1e-5, atol=1e-6)
    wanted = x.float().sort(dim=2, descending=True, stable=True).indices[..., :5]  # ties to the lower neuron
    assert torch.equal(compiled["token_top"].long(), wanted)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("some", "tail"), [(True, 0), (False, 0), (False, 9)])
def test_compiled_counts_are_the_plain_ones(kind: torch.dtype, some: bool, tail: int) -> None:
    layers = [LayerSpec("a", 0, "hidden", UNITS)]
    plain, compiled = Statistics(layers, tail, "cpu"), Statistics(layers, tail, "cpu")
    bins = {"a": where_bins_lie(values(torch.float32)[:, PREFIX:].flatten(0, 1).T.contiguous())}
    plain.lay_bins(bins)
    compiled.lay_bins(bins)
    picked = torch.tensor([[0, 7, 20]]).expand(IMAGES, -1) if some else None
    for scale in (1, 2, 0.1):
        x = (values(torch.float32) * scale).to(kind)
        plain.count("a", x, PREFIX, picked, False)
        compiled.count("a", x, PREFIX, picked, True)
    assert plain.counts["a"].sum() == UNITS * IMAGES * 3 * (3 if some else PATCHES)
    ours, theirs = compiled.state_of("a"), plain.state_of("a")
    for name in ("counts", "positive", "prefix_max", "largest"):
        assert (ours[name] == theirs[name]).all(), name
    (total, square), (plain_total, plain_square) = compiled.sums["a"], plain.sums["a"]
    torch.testing.assert_close(square, plain_square, rtol=1e-6, atol=0)
    torch.testing.assert_close(total, plain_total, rtol=1e-5, atol=1e-4)
