"""The CUDA kernels against their definition in torch: run by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import crc32c
import pytest
import torch
from vitdex.indexer.run import chunk_sums
from vitdex.indexer.run.chunk_sums import LANES, sum_chunks, sums_on
from vitdex.indexer.run.reduce import reduce_fused, reduce_plain
from vitdex.indexer.statistics.bins import HALF, NEAR_BINS, where_bins_lie
from vitdex.indexer.statistics.threshold_counts import Statistics
from vitdex.schemas.errors import VitdexWarning
from vitdex.schemas.run_spec import LayerSpec, Maps

pytest.importorskip("triton")  # not on every system
from vitdex.indexer.run.fused_kernels import layer_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PREFIX = 2
IMAGES, PATCHES = 3, 37
UNITS = 300  # no multiple of a tile, and more than one
COUNTED = 24  # neurons; the interpreter takes its time


def values(kind: torch.dtype, seed: int = 0, patches: int = PATCHES) -> torch.Tensor:
    x = torch.randn(IMAGES, PREFIX + patches, UNITS, generator=torch.Generator().manual_seed(seed)) * 3 - 1
    x[:, :, 3] = -0.25  # a flat map
    x[1, 5, 8] = x[1, 35, 8] = x[1, -1, 8] = x[1].max() + 1  # the same maximum on three patches
    x[2, 4, 60:65] = x[2, 4, 200] = 50  # six neurons alike at the top of a token
    return x.to(DEVICE, kind)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("maps", "patches"), [("uint8", PATCHES), ("float16", PATCHES), ("none", PATCHES), ("uint8", 300)]
)
def test_fused_reductions_are_the_plain_ones(kind: torch.dtype, maps: Maps, patches: int) -> None:
    """300 patches are more than a tile holds."""
    x = values(kind, patches=patches)
    y = torch.nn.functional.gelu(x)
    plain, fused = reduce_plain(x, y, PREFIX, maps), reduce_fused(x, y, PREFIX, maps)
    assert set(plain) == set(fused)
    for leaf in set(plain) - {"mean", "post_mean", "token_top"}:
        assert torch.equal(plain[leaf].double(), fused[leaf].double()), leaf
    for leaf in ("mean", "post_mean"):
        torch.testing.assert_close(plain[leaf], fused[leaf], rtol=1e-5, atol=1e-6)
    wanted = x.float().sort(dim=2, descending=True, stable=True).indices[..., :5]  # ties to the lower neuron
    assert torch.equal(fused["token_top"].long(), wanted)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("some", "tail"), [(True, 0), (False, 0), (False, 9)])
def test_fused_counts_are_the_plain_ones(kind: torch.dtype, some: bool, tail: int) -> None:
    """Values of all sizes, in near bins and in far ones."""
    layers = [LayerSpec("a", 0, "hidden", COUNTED)]
    plain, fused = Statistics(layers, tail, DEVICE), Statistics(layers, tail, DEVICE)
    picked = torch.tensor([[0, 7, 20]], device=DEVICE).expand(IMAGES, -1).contiguous() if some else None
    bins = {"a": where_bins_lie(values(torch.float32)[:, PREFIX:, :COUNTED].flatten(0, 1).T.contiguous())}
    plain.lay_bins(bins)
    fused.lay_bins(bins)
    every = torch.arange(PATCHES, device=DEVICE).repeat(IMAGES, 1)
    for seed, scale in enumerate((1.0, 2.0, 0.1, 5e4)):
        x = values(torch.float32, seed)[..., :COUNTED] * scale
        x[..., 16:] /= scale  # these stay as they are
        x = x.to(kind)
        plain.count("a", x, PREFIX, picked, False)
        fused.add_prefix("a", x[:, :PREFIX].float())
        fused._add_fused("a", x, PREFIX, every if picked is None else picked)
    assert plain.counts["a"].sum() == COUNTED * IMAGES * 4 * (3 if some else PATCHES)
    assert bool(plain.counts["a"][:16, HALF + NEAR_BINS :].any())
    ours, theirs = fused.state_of("a"), plain.state_of("a")
    for name in ("counts", "positive", "prefix_max", "largest"):
        assert (ours[name] == theirs[name]).all(), name
    (total, square), (plain_total, plain_square) = fused.sums["a"], plain.sums["a"]
    torch.testing.assert_close(square, plain_square, rtol=1e-6, atol=0)
    torch.testing.assert_close(total, plain_total, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [96, 300])
def test_the_rounded_norm_is_the_norm(kind: torch.dtype, width: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, width, generator=draw) * 3 + 7
    x[0, 0] = 1.5  # no spread
    weight, bias = (torch.randn(width, generator=draw) for _ in range(2))
    x, weight, bias = (values.to(DEVICE) for values in (x, weight, bias))
    out = torch.empty(x.shape, dtype=kind, device=DEVICE)
    layer_norm(x, weight, bias, 1e-6, out)
    right = torch.nn.functional.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-6)
    torch.testing.assert_close(out.double(), right, rtol=torch.finfo(kind).eps, atol=1e-4)
    if kind == torch.float16 or DEVICE == "cuda":  # the interpreter cuts bfloat16 off instead of rounding it
        assert (out == right.to(kind)).double().mean() > 0.99
        assert (out[0, 0] == bias.to(kind)).all()


@pytest.mark.parametrize("words", [1, 10, LANES, LANES + 1, 3 * LANES - 1])
def test_checksums_of_chunks_are_those_of_the_host(words: int) -> None:
    draw = torch.Generator().manual_seed(words)
    chunks = torch.randint(0, 256, (3, 4 * words + 4), dtype=torch.uint8, generator=draw)
    chunks[1] = 0
    before, chunks = chunks.clone(), chunks.to(DEVICE)
    assert sum_chunks(chunks)
    assert torch.equal(chunks[:, :-4].cpu(), before[:, :-4])
    for row in chunks.cpu().numpy():
        assert crc32c.crc32c(bytes(row[:-4])).to_bytes(4, "little") == bytes(row[-4:])


def test_bytes_that_are_no_whole_words_are_left_to_the_host() -> None:
    chunks = torch.zeros(2, 11, dtype=torch.uint8, device=DEVICE)
    assert not sum_chunks(chunks)
    assert not chunks.any()


def test_a_device_that_sums_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sums_on(torch.device(DEVICE)) is sum_chunks
    monkeypatch.setattr(chunk_sums, "sum_chunks", lambda chunks: True)
    with pytest.warns(VitdexWarning, match="made on the host, .* come out wrong"):
        assert sums_on(torch.device(DEVICE)) is None
