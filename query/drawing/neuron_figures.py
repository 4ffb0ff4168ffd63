"""Figures of neurons by block, and on an image. See figure_style for what all figures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .colours import COLOURS, GREY
from .figure_style import LABEL, TICK, block_ticks, new_axes, powers, short

LABELS = 20  # concepts with a bar each
NAMED_BLOCKS = 12  # in a legend


def concepts_figure(concepts: pd.DataFrame, caption: str = "") -> Figure:
    """Left, how many neurons detect each concept; right, the best IoU of every neuron, by block."""
    figure, (left, right) = new_axes(9.5, 4, caption, 2)
    count = concepts.label.value_counts()
    first = count.head(LABELS)[::-1]
    left.barh(range(len(first)), first, color=COLOURS[0])
    left.set_yticks(range(len(first)), [short(name) for name in first.index])
    left.set_title(f"{len(first)} of {len(count):,} concepts that label a neuron", fontsize=9)
    left.set(xlabel=f"neurons labelled (IoU > 0.04): {count.sum():,} of {len(concepts):,}")
    ious = {layer: np.sort(one.iou.dropna())[::-1] for layer, one in _by_layer(concepts).items()}
    shades = np.linspace(0.15, 0.9, len(ious))
    every = max(1, -(-len(ious) // NAMED_BLOCKS))
    for i, (shade, (layer, values)) in enumerate(zip(shades, ious.items(), strict=True)):
        label = f"block {layer}" if i % every == 0 else None
        right.plot(np.arange(1, len(values) + 1), values, color=colormaps["viridis"](shade), label=label)
    right.axhline(0.04, color=GREY, ls="--", lw=1)
    right.set(xscale="log", xlabel="neurons of the block, best first", ylabel="IoU with the best concept")
    powers(right.xaxis)
    right.legend(frameon=False, fontsize=TICK, ncols=2 if len(ious) > 6 else 1)
    return figure


def selectivity_figure(neurons: pd.DataFrame, chance: float | None = None, caption: str = "") -> Figure:
    """By block: the best class's AUROC of every neuron, the share of positive patches, dead neurons.

    chance: what the best class's AUROC is where the classes mean nothing to a neuron.
    """
    figure, (auroc, sparse, dead) = new_axes(10.5, 3.4, caption, 3)
    layers = _by_layer(neurons)
    style = {
        "showfliers": False,
        "patch_artist": True,
        "boxprops": {"facecolor": COLOURS[4]},
        "medianprops": {"color": "black"},
        "whis": (5, 95),
    }
    for axis, column in ((auroc, "auroc"), (sparse, "positive_share")):
        values = [one[column].dropna() for one in layers.values()]
        axis.boxplot(values, positions=range(len(layers)), **style)
    if chance is not None:
        auroc.axhline(chance, color="black", ls="--", lw=1, label=f"chance: {chance:.2f}")
        auroc.legend(frameon=False, fontsize=TICK)
    place = np.arange(len(layers))
    for shift, column, colour, label in (
        (-0.2, "dead", GREY, "dead: no value above 0"),
        (0.2, "no_region", COLOURS[1], "no region: q99 below 0"),
    ):
        dead.bar(place + shift, [one[column].sum() for one in layers.values()], 0.4, color=colour, label=label)
    dead.set_ylim(0, 1.3 * max(*(bar.get_height() for bar in dead.patches), 1))
    dead.legend(frameon=False, fontsize=TICK)
    auroc.set(ylabel="AUROC of the best class")
    sparse.set(ylabel="share of patches with a > 0")
    dead.set(ylabel="neurons")
    for axis in (auroc, sparse, dead):
        block_ticks(axis, list(layers), place.tolist())
        axis.set_xlabel("block")
    return figure


def _by_layer(neurons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The neurons of each layer, in order of blocks, by the block's number; where blocks hold several, by name too."""
    groups = {(block, str(layer)): one for (block, layer), one in neurons.groupby(["block", "layer"])}
    if len(groups) == neurons.block.nunique():
        return {str(block): one for (block, _), one in groups.items()}
    return {f"{block} {_in_block(layer, block)}": one for (block, layer), one in groups.items()}


def _in_block(layer: str, block: object) -> str:
    """A layer's name in its block, short: fc1, fc2, fc2.input, attn."""
    return layer.removeprefix(f"blocks.{block}.").removeprefix("mlp.").removesuffix(".proj.input")


def lines_figure(
    table: pd.DataFrame, columns: Mapping[str, str], chances: Mapping[str, str] | None = None, caption: str = ""
) -> Figure:
    """Lines over the blocks, a panel a column (name to label), a line a kind of token where they differ.

    chances: for a column, the column that holds its level by chance.
    """
    figure, axes = new_axes(3.9 * len(columns) + 0.6, 3.3, caption, len(columns))
    blocks = sorted(table.block.unique())
    for axis, (column, label) in zip(axes, columns.items(), strict=True):
        of_tokens = table.groupby("block")[column].nunique().max() > 1
        kinds = table.groupby("tokens") if of_tokens else [("", table.drop_duplicates("block"))]
        for i, (kind, one) in enumerate(k for k in kinds if k[0] != "all"):
            count = f" (n = {one.n.iloc[0]:,})" if "n" in one and kind else ""
            axis.plot(one.block, one[column], "o-", color=COLOURS[i], ms=4, label=f"{kind}{count}" or None)
        chance = (chances or {}).get(column)
        if chance is not None:
            one = table.drop_duplicates("block")
            axis.plot(one.block, one[chance], color="black", ls="--", lw=1, label="chance")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=TICK)
        block_ticks(axis, blocks)
        axis.set(xlabel="block", ylabel=label, ylim=(0, None))
    return figure


def fires_figure(fires: pd.DataFrame, caption: str = "") -> Figure:
    """What the neurons that fire on an image say of its class, by block; the more tokens, the larger a dot."""
    figure, (axis,) = new_axes(6.8, 3.8, caption)
    some = fires.dropna(subset=["score"])
    axis.axhline(0, color="#cccccc", lw=0.8)
    first = (some.rank_in_unit == 1).to_numpy(bool)
    name = short(some["class"].iloc[0]) if len(some) else "its class"
    largest = max(float(some.tokens.max()), 1.0) if len(some) else 1.0
    for chosen, colour, label in (
        (~first, GREY, f"says another class louder ({(~first).sum():,})"),
        (first, COLOURS[0], f"says {name} loudest ({first.sum():,})"),
    ):
        one = some[chosen]
        area = _area(one.tokens.to_numpy(np.float64), largest)
        axis.scatter(one.block, one.score, area, color=colour, alpha=0.5, lw=0, label=label)
    block_ticks(axis, sorted(fires.block.unique()))
    axis.set(xlabel="block", ylabel=f"score for {name}")
    drawn = figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=LABEL)
    for mark in drawn.legend_handles:
        mark.set_sizes([40])  # type: ignore[union-attr]
    if some.tokens.nunique() > 1:
        _size_legend(figure, axis, largest)
    return figure


def _size_legend(figure: Figure, axis: Axes, largest: float) -> None:
    """How large the dots of one token, of many and of the most are."""
    counts = np.array(sorted({1, round(largest**0.5), round(largest)}))
    marks = [
        axis.scatter([], [], area, color=GREY, alpha=0.5, lw=0, label=f"{tokens:,}")
        for tokens, area in zip(counts, _area(counts, largest), strict=True)
    ]
    figure.legend(handles=marks, frameon=False, loc="outside right center", title="tokens", fontsize=LABEL,
                  title_fontsize=LABEL, labelspacing=1.2)  # fmt: skip


def _area(tokens: NDArray[Any], largest: float) -> NDArray[Any]:
    """Of a dot, in square points."""
    return 8 + 240 * tokens / largest
