"""The reductions of a layer on a CUDA device, in Triton: values are read twice instead of a dozen times.

What they compute is said in torch in reduce.py; tests compare the two, on the CPU through Triton's interpreter. Each is
an operator of torch with a stand-in for its shapes, so that a whole run can be traced without a device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...schemas.storage.map_codes import CODES

# Of a tile, set by trying (benchmarks/NOTES.md): neurons, patches, warps.
TILE, CODED_TILE = (256, 8, 1), (32, 128, 1)
GROUPS = 256  # of neurons: those whose maximum is not among a token's largest need no second look
_NOWHERE = tl.constexpr(2**30)
_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds to the nearest integer, halves to even
_SPAN = tl.constexpr(float(CODES))


@triton.jit
def _summarise(
    x, y, high, low, mean, argmax, post_mean, codes, tokens, units, prefix,
    ENCODE: tl.constexpr, NEURONS: tl.constexpr, PATCHES: tl.constexpr,
):  # fmt: skip
    """One image, one tile of neurons: extremes, means, place of the maximum; then, the values being near, the codes."""
    image, patches = tl.program_id(0).to(tl.int64), tokens - prefix
    u = tl.program_id(1) * NEURONS + tl.arange(0, NEURONS)
    first = (image * tokens + prefix) * units
    largest = tl.full([NEURONS], float("-inf"), tl.float32)
    smallest = tl.full([NEURONS], float("inf"), tl.float32)
    place = tl.zeros([NEURONS], tl.int32)
    total, post = tl.zeros([NEURONS], tl.float32), tl.zeros([NEURONS], tl.float32)
    for start in range(0, patches, PATCHES):
        p = start + tl.arange(0, PATCHES)
        there = (p[:, None] < patches) & (u[None, :] < units)
        at = first + p[:, None] * units + u[None, :]
        v = tl.load(x + at, there, 0.0).to(tl.float32)
        above = tl.where(there, v, float("-inf"))
        top = tl.max(above, 0)
        where = tl.min(tl.where(above == top[None, :], p[:, None], _NOWHERE), 0)
        place = tl.where(top > largest, where, place)
        largest = tl.maximum(largest, top)
        smallest = tl.minimum(smallest, tl.min(tl.where(there, v, float("inf")), 0))
        total += tl.sum(v, 0)
        post += tl.sum(tl.load(y + at, there, 0.0).to(tl.float32), 0)
    out, inside = image * units + u, u < units
    tl.store(high + out, largest, inside)
    tl.store(low + out, smallest, inside)
    tl.store(mean + out, tl.div_rn(total, patches.to(tl.float32)), inside)
    tl.store(post_mean + out, tl.div_rn(post, patches.to(tl.float32)), inside)
    tl.store(argmax + out, place.to(tl.uint16), inside)
    if ENCODE:
        span = largest - smallest
        scale = tl.where(span > 0, tl.div_rn(tl.full([NEURONS], _SPAN, tl.float32), span), 0.0)
        for start in range(0, patches, PATCHES):
            p = start + tl.arange(0, PATCHES)
            there = (p[:, None] < patches) & (u[None, :] < units)
            v = tl.load(x + first + p[:, None] * units + u[None, :], there, 0.0).to(tl.float32)
            code = (v - smallest[None, :]) * scale[None, :]
            code = (code + _ROUND) - _ROUND
            code = tl.minimum(tl.maximum(code, 0.0), _SPAN).to(tl.int32).to(tl.uint8)
            tl.store(codes + (image * units + u[None, :]) * patches + p[:, None], code, there)


@triton.jit
def _token_top(x, top, units, COUNT: tl.constexpr, WANTED: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """Places of one token's largest neurons, descending, ties to the lower.

    They lie in the groups of the largest maxima: as many groups as neurons are wanted. WANTED: COUNT as a power of two.
    """
    token = tl.program_id(0).to(tl.int64)
    group, member, rank = tl.arange(0, GROUPS), tl.arange(0, GROUP), tl.arange(0, WANTED)
    u = group[:, None] * GROUP + member[None, :]
    most = tl.max(tl.load(x + token * units + u, u < units, float("-inf")).to(tl.float32), 1)
    chosen = tl.zeros([WANTED], tl.int32)
    for i in tl.static_range(COUNT):
        at = tl.argmax(most, 0, tie_break_left=True)
        chosen = tl.where(rank == i, at, chosen)
        most = tl.where(group == at, float("-inf"), most)
    u = chosen[:, None] * GROUP + member[None, :]
    v = tl.load(x + token * units + u, (rank[:, None] < COUNT) & (u < units), float("-inf")).to(tl.float32)
    for i in tl.static_range(COUNT):
        best = tl.max(tl.max(v, 1), 0)
        at = tl.min(tl.min(tl.where(v == best, u, _NOWHERE), 1), 0)
        tl.store(top + token * COUNT + i, at.to(tl.uint16))
        v = tl.where(u == at, float("-inf"), v)


@torch.library.custom_op(
    "vitdex::summarise", mutates_args=("high", "low", "mean", "argmax", "post_mean", "token_top", "codes")
)
def summarise(
    x: Tensor,
    y: Tensor,
    prefix: int,
    high: Tensor,
    low: Tensor,
    mean: Tensor,
    argmax: Tensor,
    post_mean: Tensor,
    token_top: Tensor,
    codes: Tensor,
) -> None:
    """Fill the summaries of values [image, token, neuron], x before and y after the nonlinearity (kernels.summarise).

    `codes`: maps as uint8 [image, neuron, patch]; empty for none.
    """
    images, tokens, units = x.shape
    # a product and a sum fused into one rounding would give other codes than torch
    encode = codes.numel() > 0
    neurons, patches, warps = CODED_TILE if encode else TILE
    _summarise[images, triton.cdiv(units, neurons)](
        x, y, high, low, mean, argmax, post_mean, codes, tokens, units, prefix,
        ENCODE=encode, NEURONS=neurons, PATCHES=min(patches, triton.next_power_of_2(tokens - prefix)),
        num_warps=warps, enable_fp_fusion=False,
    )  # fmt: skip
    count = token_top.shape[2]
    _token_top[(images * tokens,)](
        x, token_top, units, COUNT=count, WANTED=triton.next_power_of_2(count), GROUPS=GROUPS,
        GROUP=max(1, triton.next_power_of_2(units) // GROUPS), num_warps=1,
    )  # fmt: skip


@summarise.register_fake
def _(*_: object) -> None: ...


@triton.jit
def _layer_norm(x, weight, bias, out, width, eps, WIDTH: tl.constexpr):
    """One token: (x - mean) / sigma * weight + bias."""
    token, d = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH)
    there, n = d < width, width.to(tl.float32)
    v = tl.load(x + token * width + d, there, 0.0).to(tl.float32)
    v -= tl.sum(v, 0) / n
    v = tl.where(there, v, 0.0)
    sigma = tl.sqrt(tl.sum(v * v, 0) / n + eps)
    v = v / sigma * tl.load(weight + d, there, 0.0) + tl.load(bias + d, there, 0.0)
    tl.store(out + token * width + d, v.to(out.dtype.element_ty), there)


@torch.library.custom_op("vitdex::layer_norm", mutates_args=("out",))
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Fill `out` with the LayerNorm of x [..., width], computed in float32, rounded to its type."""
    width = x.shape[-1]
    _layer_norm[(x.numel() // width,)](
        x, weight, bias, out, width, eps, WIDTH=triton.next_power_of_2(width), num_warps=1
    )


@layer_norm.register_fake
def _(*_: object) -> None: ...


@triton.jit
def _crc32c(chunks, step, ends, start, words, LANES: tl.constexpr):
    """One chunk: a lane takes every LANES-th word. All end at its end; zeros before its beginning change nothing."""
    chunk, lane = tl.program_id(0).to(tl.int64) * (words + 1), tl.arange(0, LANES)
    state = tl.zeros([LANES], tl.uint32)
    rounds = tl.cdiv(words, LANES)
    for i in range(rounds):
        at = i * LANES + lane - (rounds * LANES - words)
        word = tl.load(chunks + chunk + at, at >= 0, 0).to(tl.uint32, bitcast=True)
        led = word
        for b in tl.static_range(4):
            led ^= tl.load(step + 256 * b + ((state >> (8 * b)) & 255)).to(tl.uint32, bitcast=True)
        state = led
    crc = tl.zeros([LANES], tl.uint32)
    for bit in tl.static_range(32):
        end = tl.load(ends + bit * LANES + lane).to(tl.uint32, bitcast=True)
        crc ^= tl.where((state >> bit) & 1 != 0, end, 0)
    tl.store(chunks + chunk + words, tl.xor_sum(crc, 0).to(tl.int32, bitcast=True) ^ start)


@torch.library.custom_op("vitdex::sum_words", mutates_args=("chunks",))
def sum_words(chunks: Tensor, step: Tensor, ends: Tensor, start: int) -> None:
    """Fill in the last word of chunks int32 [chunk, word + 1]: the crc32c of those before (chunk_sums.py)."""
    count, words = chunks.shape[0], chunks.shape[1] - 1
    _crc32c[(count,)](chunks, step, ends, start, words, LANES=ends.shape[1], num_warps=8)


@sum_words.register_fake
def _(*_: object) -> None: ...
